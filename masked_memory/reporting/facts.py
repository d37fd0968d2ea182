"""One finished run as it lies on disk: what was noted, its settings, numbers, figures and tables.

Each part that cannot be read is left out, with a sentence in `troubles`; nothing here is asked of a model.
"""

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from masked_memory.pipeline.files import read_json
from masked_memory.pipeline.runs import run_settings, used_settings
from masked_memory.reporting.chain import metrics_of
from masked_memory.settings.kinds import flatten

MOST_ROWS = 40
#: Tables with a row for each picture: long, and they name files.
ROW_A_PICTURE = ("manifest.csv", "pictures.csv", "samples.csv", "broken.csv", "dropped.csv", "picture_dropped.csv")
COMMON = ("run", "data")
EPOCH_SAMPLES = re.compile(r"samples_epoch_\d+")
PNG_START, PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"


class Picture(NamedTuple):
    """A PNG of figures/, whole; width and height in pixels."""

    name: str
    content: bytes
    width: int
    height: int


class ShownTable(NamedTuple):
    """A CSV of a run: its first rows, and how many there are."""

    name: str
    header: list[str]
    rows: list[list[str]]
    total: int


class UsedSetting(NamedTuple):
    """A key with its value in a run, and in config.yaml; `shipped` is None where config.yaml has no such key."""

    key: str
    value: Any
    shipped: tuple[Any] | None

    @property
    def differs(self) -> bool:
        return self.shipped != (self.value,)


@dataclass
class RunFacts:
    """inputs: name -> run folder's name. settings: those of the stage first, then the common ones. troubles: what is
    left out, a sentence each."""

    label: str
    folder: Path
    record: dict[str, Any]
    metrics: dict[str, float]
    settings: list[UsedSetting] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    tables: list[ShownTable] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)

    @property
    def stage(self) -> str:
        return str(self.record.get("stage") or self.folder.parent.name)

    @property
    def inputs(self) -> dict[str, str]:
        found = self.record.get("inputs")
        return {str(name): Path(str(taken)).name for name, taken in found.items()} if isinstance(found, dict) else {}

    @property
    def versions(self) -> dict[str, str]:
        found = self.record.get("versions")
        return {str(name): str(version) for name, version in found.items()} if isinstance(found, dict) else {}

    @property
    def commit(self) -> str:
        return str(self.record.get("commit") or "unknown")

    @property
    def differing(self) -> list[UsedSetting]:
        """The settings of the stage and the common ones that are not config.yaml's."""
        mine = (self.stage, *COMMON)
        return [one for one in self.settings if one.differs and one.key.split(".")[0] in mine]

    def setting(self, key: str) -> Any:
        """The value of a key; None where the run has none."""
        return next((one.value for one in self.settings if one.key == key), None)


def read_facts(label: str, folder: Path, shipped: Mapping[str, Any], shown: bool = True) -> RunFacts:
    """What a finished run holds. shipped: config.yaml's values by dotted key; shown: also figures and tables.

    Raises InputError when run.json or metrics.json cannot be read.
    """
    facts = RunFacts(label, folder, read_json(folder / "run.json"), metrics_of(folder))
    try:
        _read_settings(facts, shipped)
    except (ValueError, AttributeError, OSError) as error:
        facts.troubles.append(f"The settings are left out: {error}.")
    if shown:
        _read_pictures(facts)
        _read_tables(facts)
    return facts


def _read_settings(facts: RunFacts, shipped: Mapping[str, Any]) -> None:
    flat = flatten(used_settings(facts.folder))
    flat |= {key: value for key, value in flatten(run_settings(facts.folder)).items() if ".tune." in key}  # as asked
    order = (facts.stage, *COMMON)
    place = {name: number for number, name in enumerate(order)}
    keys = sorted(flat, key=lambda key: place.get(key.split(".")[0], len(order)))  # sorted keeps the order within
    facts.settings = [UsedSetting(key, flat[key], (shipped[key],) if key in shipped else None) for key in keys]


# --- figures ----------------------------------------------------------------------------------------------------------


def _read_pictures(facts: RunFacts) -> None:
    files = sorted((facts.folder / "figures").glob("[!.]*.png"))
    epochs = [file for file in files if EPOCH_SAMPLES.fullmatch(file.stem)]
    if len(epochs) > 1:
        facts.troubles.append(
            f"Of {len(epochs)} figures samples_epoch_..., the last is shown; the others are in the run folder."
        )
    for file in files:
        if file in epochs[:-1]:
            continue
        try:
            facts.pictures.append(read_png(file))
        except (ValueError, OSError) as error:
            facts.troubles.append(f"figures/{file.name} is left out: {error}.")


def read_png(file: Path) -> Picture:
    """A PNG as it is. Raises ValueError when the file is none or is not whole, OSError when it cannot be read."""
    content = file.read_bytes()
    if not (content.startswith(PNG_START) and content[12:16] == b"IHDR" and content.endswith(PNG_END)):
        raise ValueError("it is no whole PNG")
    width, height = (int.from_bytes(content[at : at + 4], "big") for at in (16, 20))
    return Picture(file.stem, content, width, height)


# --- tables -----------------------------------------------------------------------------------------------------------


def _read_tables(facts: RunFacts) -> None:
    for file in sorted(facts.folder.glob("[!.]*.csv")):
        if file.name in ROW_A_PICTURE:
            facts.troubles.append(f"{file.name} has a row for each picture, and is left out.")
            continue
        try:
            facts.tables.append(read_head(file))
        except (ValueError, OSError, csv.Error) as error:
            facts.troubles.append(f"{file.name} is left out: {error}.")


def read_head(file: Path, most: int = MOST_ROWS) -> ShownTable:
    """The first rows of a CSV, and how many rows it has. Raises ValueError for one without a header, or that is not
    text; OSError or csv.Error when it cannot be read."""
    with file.open(newline="", encoding="utf-8") as opened:
        lines = csv.reader(opened)
        header = next(lines, None)
        if not header:
            raise ValueError("it has no header")
        rows: list[list[str]] = []
        total = 0
        for row in lines:
            total += 1
            if len(rows) < most:
                rows.append(row)
    return ShownTable(file.name, header, rows, total)
