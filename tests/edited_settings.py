"""What becomes of an edit: every setting is changed, its stage is run, and then the next one. Nothing may be silent.

    python tests/edited_settings.py                                  all of them, about half an hour
    python tests/edited_settings.py --keys train_distil.fixed_ratio data.workers
    python tests/edited_settings.py --csv edits.csv

Each key is set in three ways, which must come to the same: in config.yaml, in a file that is laid over it, and typed.
Then its stage is run with tiny models, beside a run without the edit:

numbers    used: tables, metrics or weights are others
looks      used: figures or files are others; or only what cannot be seen in a fit as tiny: ELSEWHERE and LONGER
said       not used, and a line says why not, or where it is
refused    not taken, in one line
SILENT     none of these

`then` is what the next stage does where the edit was made, but its own stage was not run again: `said` when a line
names the key, `refused`, `own` where it reads the key itself; `same` where the first column found nothing to tell.
"""

import argparse
import importlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

os.environ |= {"HF_HUB_OFFLINE": "1", "MLFLOW_DISABLE_TELEMETRY": "true", "MPLBACKEND": "Agg"}

if __name__ == "__main__":  # started as a file: the project is one folder up
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import yaml

from benchmarks.measured import show_columns
from benchmarks.same_numbers import differences
from campaigns.forked import LITTLE, Ended, make_little_world, run_forked
from masked_memory.pipeline.commands import module_of
from masked_memory.pipeline.files import read_csv, write_csv, write_json
from masked_memory.settings import layers, loading
from masked_memory.settings.config import READS, Config
from masked_memory.settings.kinds import Section
from toys import ROOT, changed, merged, newest, noise

SECONDS = 120.0
HEADER = ("key", "value", "its stage", "then", "what was printed")
#: Keys whose stage is another than their section's name.
STAGE_OF = {"run": "train_vqvae", "data": "data_split"}
#: The stage that takes what this one makes.
NEXT = {
    "data_split": "train_vqvae", "train_vqvae": "vqvae_reconstruction", "vqvae_reconstruction": "train_distil",
    "train_classifier": "reconstruct_masked", "train_distil": "reconstruct_masked", "train_prior": "sample",
}  # fmt: skip
NEXT_WORDS = {"train_prior": ("--sample.prior", "pixelcnn")}
COMPARING = ("compare_bits", "compare_priors")
#: What changes nothing that could be found in numbers or figures, and what it does.
ELSEWHERE = {
    "run.threads": "cores", "run.memory": "how many at once", "run.check_every": "when it is looked",
    "run.tf32": "GPUs", "run.compile": "speed", "data.workers": "cores", "run.dry_run": "nothing is made",
    "data.skip_broken": "no file is broken", "run.mlflow": "MLflow",
    **dict.fromkeys(f"{stage}.batch_size" for stage in ("vqvae_reconstruction", "reconstruct_masked", *COMPARING)),
}  # fmt: skip
#: Last parts of keys that matter in longer fits or to larger models than the tiny ones here.
LONGER = (
    "trials",
    "study",
    "optimizer",
    "patience",
    "warmup",
    "least_steps",
    "restart_share",
    "startup_trials",
    "clip_norm",
    "choosing_passes",
    "look_ahead_tokens",
    "rival_pictures",
    "sample_every",
)
#: Other values of keys that have no plain other one.
OTHERS: dict[str, Any] = {
    "run.device": "cuda", "run.compile": True, "run.modules": ["json"],
    "run.precision": "bf16", "run.tracking_uri": "sqlite:///nowhere/x.db", "run.threads": 2,
    "data.classes": 2, "data.images_per_class": 9, "data.channels": 1, "data.image_size": 32,
    "data.components": ["a", "b", "c"], "data.download_dir": "there", "train_distil.init": "nowhere",
    "train_vqvae.condition_numbers": ["age"], "train_vqvae.condition_classes": ["class"],
    "train_prior.condition_numbers": ["age"], "train_prior.condition_classes": ["age"],
    "train_vqvae.optimizer": "adamw", "train_mae.dim": 32, "train_mae.decoder_dim": 16,
    "reconstruct_masked.own.box": [1, 1, 9, 9], "reconstruct_masked.own.label": "class1", "sample.label": "class1",
    "sample.values": ["3"], "sample.components": ["red"], "vqvae_reconstruction.components": ["red"],
    "compare_priors.told_distil": "best", "compare_priors.masked_vqvae": "best", "reconstruct_masked.painter": "best",
    "reconstruct_masked.strategies": ["half"], "reconstruct_masked.decodings": ["sample"],
    "compare_bits.strategies": ["half"], "compare_priors.masks": ["random"],
}  # fmt: skip
RUN_NAMES = ("vqvae", "indices", "distil", "classifier", "clean_classifier", "prior_run", "pixelcnn", "gan", "rival",
             "untold_pixelcnn", "untold_gan", "rival_distil", "rival_mae")  # fmt: skip


class Outcome(NamedTuple):
    key: str
    value: str
    here: str
    then: str
    said: str


class Project:
    """A project as it ships whose settings are tiny, with finished runs of all stages and one more of each without an
    edit."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.base, self.made = folder, folder / "config.yaml", 0
        shipped = merged(layers.shipped_values(loading.BASE_FILE), LITTLE)
        world = make_little_world(folder / "world", base=shipped)
        self.runs, self.source = world.runs, world.source
        places = {"run": {"dir": str(self.runs)}, "data": {"source": str(self.source)}}
        tuned = {"trials": 2, "epochs": 2, "space": {"learning_rate": {"low": 5e-3, "high": 2e-2, "log": True}}}
        self.shipped = changed(merged(shipped, places), {"sample__prior": "distil", "train_vqvae__tune": tuned})
        noise().save(folder / "mine.png")
        rows = [(file.relative_to(self.source).as_posix(), n % 7) for n, file in enumerate(self.source.rglob("*.png"))]
        write_csv(folder / "ages.csv", ("path", "age"), rows)
        layers.HOME, layers.SHIPPED_FILE, loading.BASE_FILE = folder, folder / "shipped.json", self.base
        write_json(layers.SHIPPED_FILE, {"config.yaml": self.shipped})
        self.write_base(self.shipped)
        self.plain: dict[str, Path] = {}

    def write_base(self, values: dict[str, Any]) -> None:
        self.base.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")

    def run(self, stage: str, *words: str) -> tuple[Path, Ended]:
        """In a copy of the runs, which is returned."""
        self.made += 1
        runs = Path(shutil.copytree(self.runs, self.folder / f"copy{self.made}"))
        main = importlib.import_module(module_of(stage)).main
        return runs, run_forked(main, [str(ROOT / f"{stage}.py"), "--run.dir", str(runs), *words], SECONDS)

    def without_edit(self, stage: str) -> Path:
        """The run folder of the stage as it ships."""
        if stage not in self.plain:
            runs, ended = self.run(stage)
            assert ended.status == 0, (stage, ended.said)
            self.plain[stage] = newest(runs, stage)
        return self.plain[stage]


def other_value(key: str, shipped: Any, takes: str, folder: Path) -> Any:
    """One that the key takes and that is not the shipped one."""
    name = key.rpartition(".")[2]
    if key in OTHERS:
        return OTHERS[key]
    if key in ("data.source", "run.dir", "data.metadata", "vqvae_reconstruction.input", "reconstruct_masked.own.image",
               "reconstruct_masked.own.mask", "vqvae_reconstruction.indices"):  # fmt: skip
        return str(folder / {"metadata": "ages.csv", "dir": "elsewhere", "source": "nowhere"}.get(name, "mine.png"))
    if name in RUN_NAMES:
        return "absent"
    if name == "space":
        return {"learning_rate": [0.003, 0.004]}
    if name in ("study", "storage"):
        return {"study": "mine", "storage": "sqlite:///nowhere/optuna.db"}[name]
    if isinstance(shipped, bool):
        return not shipped
    if " | " in takes and not takes.startswith("list of"):
        return next(yaml.safe_load(choice) for choice in takes.split(" | ") if choice != str(shipped))
    if key.startswith("data.") and name in ("train", "val", "test"):
        return 0.25  # which the other two no longer sum to one with, and that is said
    if isinstance(shipped, list):
        return shipped[:-1] if len(shipped) > 1 else [shipped[0] + 5]
    if isinstance(shipped, int | float):
        step = 8 if "multiple of 8" in takes else 1
        wanted = (
            (shipped + step if shipped < 4 or step > 1 else shipped // 2) if isinstance(shipped, int) else shipped / 2
        )
        return wanted if wanted != shipped else 0.25
    raise ValueError(f"no other value of {key} is known")


def edits(folder: Path, shipped: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Each key with another value."""
    flat = loading.flatten(loading.check(shipped).model_dump())
    for name, field in Config.model_fields.items():
        if name == "compare_seeds":  # which needs the runs of several seeds: tests/stages/test_compare_seeds.py
            continue
        section = field.annotation
        assert isinstance(section, type) and issubclass(section, Section)
        for key, kind in loading.options(section, f"{name}."):
            yield key, other_value(key, flat[key], loading.describe_range(kind), folder)


def try_edit(project: Project, key: str, value: Any) -> Outcome:
    section = key.split(".", 1)[0]
    stage = STAGE_OF.get(section, section)
    shown, option = loading.as_typed(value), [f"--{key}", loading.as_typed(value)]
    as_file = changed({}, {key.replace(".", "__"): value})
    overlay = project.folder / "mine.yaml"
    overlay.write_text(yaml.safe_dump(as_file), encoding="utf-8")
    try:
        typed, laid = loading.load([], {key: value}), loading.load([overlay], {})
        project.write_base(merged(project.shipped, as_file))
        edited = loading.load([], {})
    except loading.ConfigError as error:
        return Outcome(key, shown, "refused", "refused", error.problems[0])
    finally:
        project.write_base(project.shipped)
    if not typed == laid == edited:
        return Outcome(key, shown, "SILENT", "", "the three ways come to different settings")
    runs, ended = project.run(stage, *option)
    here = what_became(project, stage, key, runs, ended)
    then = ""
    if stage in NEXT and section != "run":
        _, after = project.run(NEXT[stage], "--run.dry_run", "true", *NEXT_WORDS.get(stage, ()), *option)
        named = [line for line in after.said.splitlines() if key in line and not line.startswith(f"{key} = ")]
        own = section not in READS.get(NEXT[stage], ()) and section != "data"
        then = "refused" if after.status == 2 else "said" if named else "same" if here != "numbers" else "SILENT"
        then = "own" if then == "SILENT" and own else then
    lines = [line for line in ended.said.splitlines() if key in line or line.startswith("error: ")]
    shutil.rmtree(runs)
    return Outcome(key, shown, here, then, " / ".join(lines)[:300])


def what_became(project: Project, stage: str, key: str, runs: Path, ended: Ended) -> str:
    if ended.status is None or "Traceback" in ended.said:
        return "SILENT"
    if ended.status != 0:
        return "refused"
    explained = [line for line in ended.said.splitlines() if key in line and not line.startswith(f"{key} = ")]
    plain, mine = project.without_edit(stage), newest(runs, stage)
    if mine.parent.parent == runs and list(differences(mine, plain)):
        return "numbers"
    if explained:
        return "said"
    if key in ELSEWHERE or key.rpartition(".")[2] in LONGER or files_of(mine) != files_of(plain):
        return "looks"
    return "SILENT"


def files_of(folder: Path) -> dict[str, bytes]:
    """Figures, but for those that show times, and names of all other files of a run."""
    files = [file for file in folder.rglob("*") if file.is_file() and "last" not in file.parts]
    files = [file for file in files if file.name not in ("curves.png", "speed.png")]
    return {str(file.relative_to(folder)): file.read_bytes() if file.suffix == ".png" else b"" for file in files}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keys", nargs="+", metavar="KEY", help="only these, or those that begin so [all]")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write the table there, too")
    asked = parser.parse_args(argv)
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory() as folder:
        project = Project(Path(folder))
        for key, value in edits(project.folder, project.shipped):
            if not asked.keys or any(key.startswith(start) for start in asked.keys):
                outcomes.append(try_edit(project, key, value))
                print(*outcomes[-1], sep=" | ", flush=True)
    silent = [one for one in outcomes if "SILENT" in (one.here, one.then)]
    kinds = sorted({(one.here, one.then) for one in outcomes})
    show_columns(
        ("its stage", "then", "keys"), [[*kind, sum((o.here, o.then) == kind for o in outcomes)] for kind in kinds]
    )
    if asked.csv:
        write_csv(asked.csv, HEADER, outcomes)
        assert len(read_csv(asked.csv)) == len(outcomes)
    return 1 if silent or not outcomes else 0


if __name__ == "__main__":
    sys.exit(main())
