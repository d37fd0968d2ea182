"""Progress bars: lively on a terminal, one line a minute or so in a log file."""

import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

SECONDS_IN_LOGS = 60.0


def progress_bar(
    iterable: Iterable[Any] | None = None, desc: str = "", unit: str = "it", total: int | None = None, initial: int = 0
) -> tqdm:
    """A bar that goes away when it is full."""
    pause = 0.1 if sys.stderr.isatty() else SECONDS_IN_LOGS
    return tqdm(iterable, desc=desc, unit=unit, total=total, initial=initial, leave=False, mininterval=pause)
