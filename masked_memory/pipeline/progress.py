"""Progress bars: lively on a terminal, whole lines in a log file, one a minute or so."""

import sys
import time
from collections.abc import Callable, Iterable
from typing import Any, TextIO

from tqdm import tqdm

from masked_memory.pipeline.world import is_first

SECONDS_IN_LOGS = 60.0
TIMED_SECONDS = 5.0  # of steps that tell how long the others take
WORTH_SAYING = 60.0  # seconds


class LogLines:
    """What a bar writes, as lines of a log: it goes back to the start of its line, and blanks it, on terminals only."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.encoding = getattr(stream, "encoding", None) or "utf-8"

    def write(self, text: str) -> int:
        line = text.replace("\x1b[A", "").strip("\r\n ")
        if line:
            self.stream.write(f"{line}\n")
        return len(text)

    def flush(self) -> None:
        self.stream.flush()

    def isatty(self) -> bool:
        return False


def progress_bar(
    iterable: Iterable[Any] | None = None, desc: str = "", unit: str = "it", total: int | None = None, initial: int = 0
) -> tqdm:
    """A bar that goes away when it is full; of several processes the first shows it."""
    lively = sys.stderr.isatty()
    return tqdm(
        iterable,
        desc=desc,
        unit=unit,
        total=total,
        initial=initial,
        leave=False,
        mininterval=0.1 if lively else SECONDS_IN_LOGS,
        maxinterval=10.0 if lively else SECONDS_IN_LOGS,
        disable=not is_first(),
        file=None if lively else LogLines(sys.stderr),
    )


class Estimate:
    """Says once, some seconds after the first step, how long the others take; nothing where that is under a minute."""

    def __init__(self, left: int, say: Callable[[float], None]) -> None:
        """left: steps that there are at most; say: gets the seconds from the first step to the last."""
        self.left, self.say = left, say
        self.done, self.began, self.told = 0, 0.0, False

    def step(self) -> None:
        """After each step."""
        self.done += 1
        now = time.monotonic()
        if self.done == 1:
            self.began = now
        elif not self.told and now - self.began >= TIMED_SECONDS:
            self.told = True
            whole = (now - self.began) / (self.done - 1) * self.left
            if whole >= WORTH_SAYING:
                self.say(whole)
