"""Progress bars: lively on a terminal, one line a minute or so in a log file."""

import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

from pipeline.world import is_first

SECONDS_IN_LOGS = 60.0


def progress_bar(
    iterable: Iterable[Any] | None = None, desc: str = "", unit: str = "it", total: int | None = None, initial: int = 0
) -> tqdm:
    """A bar that goes away when it is full; of several processes the first shows it."""
    pause = 0.1 if sys.stderr.isatty() else SECONDS_IN_LOGS
    hidden = not is_first()
    return tqdm(
        iterable, desc=desc, unit=unit, total=total, initial=initial, leave=False, mininterval=pause, disable=hidden
    )
