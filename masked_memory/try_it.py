"""A first look: a picture is stored, most of it is forgotten, and the rest recalls it. Nothing is trained.

Reads:  the models that come with the project, and the picture that is named, else test pictures that come with it
Writes: recalled.png here, with the pictures, what is kept of them, and what is recalled

    python -m masked_memory try_it
    python -m masked_memory try_it cat.jpg --forget 0.6 --strategy random
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from masked_memory.pipeline.files import InputError, one_line, replacing
from masked_memory.settings.strategies import STRATEGIES

MOST_SHOWN = 8


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, or 2 for what cannot be used."""
    parser = argparse.ArgumentParser(
        prog="try_it", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("pictures", nargs="*", type=Path, help="files; none: test pictures of the demo")
    parser.add_argument("--forget", type=float, default=0.75, help="share of the tokens that is forgotten, 0 to 1")
    parser.add_argument("--strategy", default="adaptive", help=f"what is kept: {', '.join(STRATEGIES)}")
    parser.add_argument("--output", type=Path, default=Path("recalled.png"), help="the file that is written")
    given = parser.parse_args(argv)
    try:
        recall_and_write(given.pictures, given.forget, given.strategy, given.output)
    except InputError as error:
        print(f"error: {one_line(str(error))}", file=sys.stderr)
        return 2
    return 0


def recall_and_write(pictures: Sequence[Path], forget: float, strategy: str, output: Path) -> None:
    """Raises InputError for pictures, a share or a strategy that cannot be used, and where nothing can be written."""
    from masked_memory.interface.memory import examples, open_memory  # imports torch: after the options are read

    memory = open_memory("shipped")
    found = memory.recall(pictures or examples()[0][:MOST_SHOWN], forget=forget, strategy=strategy)
    with replacing(output) as temporary:
        found.show().save(temporary, format="PNG")
    kept, tokens = int(found.kept[0].sum()), found.kept[0].numel()
    print(f"kept of each picture: {kept} of {tokens} tokens ({found.bits:.0f} bits), chosen by {strategy}")
    seen = ", ".join(f"{ranked[0][0]} ({ranked[0][1]:.0%})" for ranked in found.seen_as)
    print(f"the classifier sees in what is recalled: {seen}")
    print(f"mean squared error to what all tokens paint: {found.error.mean():.4f}, of pixels from 0 to 1")
    print(f"{output}: the pictures, what is kept, what is recalled")


if __name__ == "__main__":
    sys.exit(main())
