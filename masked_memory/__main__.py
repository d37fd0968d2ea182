"""The one command: `masked-memory STAGE ...`, or `python -m masked_memory STAGE ...`, runs the stage of that name."""

import ast
import sys
from collections.abc import Iterator, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from masked_memory.pipeline.commands import PROGRAM, module_of

#: In the order in which they are run; the others are asked for when one wants them.
STAGES = ("data_split", "train_vqvae", "vqvae_reconstruction", "train_classifier", "train_distil", "reconstruct_masked")
OTHERS = (
    "try_it", "summary", "app", "train_prior", "sample", "train_painter", "train_mae", "compare_priors", "compare_bits",
    "compare_seeds", "tune",
)  # fmt: skip
OLD_PREFIX = "rmi-"


def main(argv: Sequence[str] | None = None) -> int:
    """Run a stage. argv: its name and its options. Returns its exit status; 2 for a stage that there is not."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help", "help"):
        print("\n".join(list_stages()))
        return 0 if words else 2
    stage = words[0].removesuffix(".py").replace("-", "_")
    if stage not in (*STAGES, *OTHERS):
        print(f"error: there is no stage {words[0]}; expected one of: {', '.join((*STAGES, *OTHERS))}", file=sys.stderr)
        return 2
    sys.argv = [sys.argv[0], *words[1:]]  # what a stage reads
    return int(import_module(module_of(stage)).main())


def list_stages() -> Iterator[str]:
    """What there is, a line each."""
    yield f"usage: {PROGRAM} STAGE [options]; {PROGRAM} STAGE --help says more of one"
    for title, stages in (("the stages, in order", STAGES), ("beside them", OTHERS)):
        yield f"\n{title}:"
        yield from (f"  {stage:<22}{_first_sentence(stage)}" for stage in stages)


def _first_sentence(stage: str) -> str:
    """What a stage is about, without importing it."""
    found = find_spec(module_of(stage))
    assert found is not None and found.origin is not None
    said = ast.get_docstring(ast.parse(Path(found.origin).read_text(encoding="utf-8"))) or ""
    return said.partition("\n")[0]


def renamed() -> int:
    """What the commands of former versions answer, rmi-train-vqvae and the like."""
    old = Path(sys.argv[0]).name.removesuffix(".exe")
    now = old.removeprefix(OLD_PREFIX).replace("-", "_")
    print(f"error: {old} is called {PROGRAM} {now} now; type: {PROGRAM} {now}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
