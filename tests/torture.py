"""Many tries to make the program fail, and how each ended.

    python tests/torture.py                   all of them, about half an hour
    python tests/torture.py --only settings --tries 60 --seed 3

settings   settings that cannot be used, over all stages: refused in a line, with nothing left behind
ends       settings at both ends of what they take: the stage does its work, or refuses at once
files      pictures and stacks as strangers have them: decoded right, or refused with the reason
folders    folders and tars as strangers have them: read whole, or refused with the reason
faults     disks that are full or take no writing, databases that are locked or damaged, a clock set back, two at once
torn       files of earlier runs, a byte flipped, cut, emptied or gone: refused, or the numbers of whole ones
kills      stages killed or asked to end at random moments, and resumed: the numbers of one that was never killed

The exit status is 1 when anything went wrong; what did is listed.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ["MLFLOW_LOGGING_LEVEL"] = "WARNING"
os.environ["MPLBACKEND"] = "Agg"

if __name__ == "__main__":  # started as a file: the project is one folder up
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.measured import show_columns
from campaigns.bad_settings import bad_settings, try_settings
from campaigns.faults import meet_faults
from campaigns.kills import kill_stages
from campaigns.late_settings import try_late
from campaigns.odd_folders import read_strange_folders
from campaigns.outcomes import TABLE_HEADER, Outcome, table_of, wrong_of
from campaigns.strange_files import decode_strange_files
from campaigns.torn_files import tear_files


def settings(folder: Path, tries: int, seed: int) -> list[Outcome]:
    outcomes = []
    for number, typed in enumerate(bad_settings(tries, seed)):
        own = folder / str(number)
        own.mkdir()
        outcomes.append(try_settings(typed, own))
    return outcomes


#: name -> what does it, and how many tries are made
CAMPAIGNS: dict[str, tuple[Callable[[Path, int, int], list[Outcome]], int]] = {
    "settings": (settings, 600),
    "ends": (try_late, 136),
    "files": (decode_strange_files, 10_000),
    "folders": (read_strange_folders, 10_000),
    "faults": (meet_faults, 10_000),
    "torn": (tear_files, 120),
    "kills": (kill_stages, 36),
}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python tests/torture.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=CAMPAIGNS, default=list(CAMPAIGNS), metavar="CAMPAIGN")
    parser.add_argument("--tries", type=int, metavar="N", help="of each campaign [as many as it has]")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="what is tried, and when [0]")
    asked = parser.parse_args(argv)
    outcomes: list[Outcome] = []
    for name in asked.only:
        campaign, tries = CAMPAIGNS[name]
        with tempfile.TemporaryDirectory() as folder:
            found = campaign(Path(folder), asked.tries or tries, asked.seed)
        for outcome in wrong_of(found):
            print(f"wrong: {outcome.what}: {' '.join(outcome.said.split())}", flush=True)
        outcomes += found
    show_columns(TABLE_HEADER, table_of(outcomes))
    return 1 if wrong_of(outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
