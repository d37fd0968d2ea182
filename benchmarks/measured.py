"""What benchmarks share: points measured in a process of their own, their memory, and tables on the console."""

import subprocess
import sys
from collections.abc import Sequence


def resident_megabytes() -> float:
    """The largest resident memory of this process so far."""
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def in_own_process(file: str, arguments: Sequence[str]) -> list[str]:
    """The fields of the last line, comma-separated, that this Python prints for the file."""
    done = subprocess.run([sys.executable, file, *arguments], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(done.returncode)
    return done.stdout.strip().splitlines()[-1].split(",")


def print_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Columns as wide as they have to be."""
    widths = [max(len(str(row[column])) for row in [header, *rows]) for column in range(len(header))]
    for row in [header, *rows]:
        print("  ".join(str(value).rjust(width) for value, width in zip(row, widths, strict=True)))
