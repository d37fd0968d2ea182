"""Tables of README.md and docs/*.md: made from docs/tables/*.csv and from settings/, never typed.

python docs/tables.py                  write every table
python docs/tables.py --check          exit 1 and name file, line and mark where a page is not what the tables say
python docs/tables.py --collect demo --machine "2 cores, no GPU"      refresh docs/tables/ from runs/

A mark is a comment on lines of its own; what stands between it and `<!-- end -->` is written by this program:

    <!-- table: demo_curves measure=classification_error decoding=expected strategy=random|adaptive
         rows="{strategy}" columns="{percent} %" value="{mean:.3f} ±{half:.3f}" -->
    <!-- end -->

`table: NAME` shows docs/tables/NAME.csv. Its options:
    COLUMN=A|B         keep the rows that have A or B there, in this order; A=TEXT shows TEXT in place of A
    rows=, columns=, value=    a cross table: what stands at its left, at its top, and in its cells
    show="HEAD = TEMPLATE | HEAD = TEMPLATE"    or a list: a line for each row of the CSV
    head=TEXT          the upper left cell of a cross table
A template is text with {column}, {column:.3f} (a Python format), {column*1000:.2f}, or {column:p} for a p value, such
as p = 0.012 or p < 0.001. {half} is half of high - low. A cell with nothing in one of its columns stays empty. Strategy
`any` in the CSV (100 % forgotten is the same for all) counts for every strategy that is asked for.

`sentence: NAME` with filters and text="..." is one line of text; {0[mean]:.3f} is column `mean` of the first row left,
{1[mean]:.3f} of the second.

The other marks have no options: `source: NAME` says where a CSV comes from (run, commit, machine, command),
`settings: SECTION`, `registry: strategies` and `registry: decodings` show settings/.

docs/tables/sources.yaml says which file of which run becomes which CSV. --collect GROUP starts at the newest run of the
group's stage, or at --run FOLDER, and takes the runs of other stages from the inputs noted in its run.json.
"""

import argparse
import re
import shlex
import string
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # started as a file: the project is one folder up
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from docs.collecting import Origin, collect
from docs.shelf import ROOT, TABLES, Row, TableError, shown_path, take_table
from masked_memory.settings import loading
from masked_memory.settings.config import Config
from masked_memory.settings.strategies import DECODINGS, STRATEGIES

END = "<!-- end -->"
ANY = ("strategy", "any")  # column and value in a CSV: holds for every strategy
IN_FIGURES = 8  # strategies that the figures show
WORDS = ("rows", "columns", "value", "show", "head", "text")  # options that are no columns
WITH_OPTIONS = ("table:", "sentence:")


@dataclass(frozen=True)
class Mark:
    """A mark in a page. start, stop: lines of the page between which its table stands, from 0."""

    page: Path
    kind: str
    name: str
    options: dict[str, str]
    start: int
    stop: int

    @property
    def place(self) -> str:
        return f"{shown_path(self.page)}:{self.start}: {self.kind}: {self.name}"


# --- reading ----------------------------------------------------------------------------------------------------------


def pages() -> list[Path]:
    """Where marks may stand."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def marks_of(page: Path, lines: Sequence[str]) -> Iterator[Mark]:
    """The marks of a page, those in code blocks left out. Raises TableError for what is no mark or has no end."""
    at, fenced = 0, False
    while at < len(lines):
        fenced ^= lines[at].startswith("```")
        if fenced or not lines[at].startswith("<!--"):
            at += 1
            continue
        where = f"{shown_path(page)}:{at + 1}"
        if lines[at].strip() == END:
            raise TableError(f"{where}: {END} without a mark before it")
        last = next((row for row in range(at, len(lines)) if lines[row].rstrip().endswith("-->")), None)
        if last is None:
            raise TableError(f"{where}: the mark does not close; expected -->")
        stop = next((row for row in range(last + 1, len(lines)) if lines[row].startswith("<!--")), len(lines))
        if stop == len(lines) or lines[stop].strip() != END:
            raise TableError(f"{where}: the mark has no {END} after it")
        text = " ".join(lines[at : last + 1]).strip().removeprefix("<!--").removesuffix("-->")
        yield _parsed(page, text, where, last + 1, stop)
        at = stop + 1


def _parsed(page: Path, text: str, where: str, start: int, stop: int) -> Mark:
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise TableError(f"{where}: {error}".lower()) from None
    if len(words) < 2 or words[0].removesuffix(":") not in MARKS or not words[0].endswith(":"):
        raise TableError(f"{where}: found {text.strip()!r}; expected one of {', '.join(MARKS)}, a colon and a name")
    options = dict(word.split("=", 1) for word in words[2:] if "=" in word)
    bare = [word for word in words[2:] if "=" not in word]
    if bare or (options and words[0] not in WITH_OPTIONS):
        wanted = "KEY=VALUE" if words[0] in WITH_OPTIONS else "no options"
        raise TableError(f"{where}: found {' '.join(bare or options)!r}; expected {wanted}")
    return Mark(page, words[0].removesuffix(":"), words[1], options, start, stop)


# --- making tables ----------------------------------------------------------------------------------------------------


def table_lines(mark: Mark, folder: Path) -> list[str]:
    """The CSV that a mark names, as a cross table or as a list."""
    rows = left_rows(mark, folder)
    if "show" in mark.options:
        pairs = [part.partition("=") for part in mark.options["show"].split("|")]
        heads = [head.strip() for head, _, _ in pairs]
        return markdown(heads, ([filled(template.strip(), row) for _, _, template in pairs] for row in rows))
    lacking = [word for word in ("rows", "columns", "value") if word not in mark.options]
    if lacking:
        raise TableError(f"{lacking[0]}= is missing; expected rows=, columns= and value=, or show=")
    return _cross(mark.options, rows)


def sentence_lines(mark: Mark, folder: Path) -> list[str]:
    """A line of text with numbers of the CSV that a mark names."""
    rows = left_rows(mark, folder)
    try:
        return [re.sub(r"(\d)%", r"\1 %", mark.options["text"].format(*rows))]
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise TableError(f"text= does not fit the {len(rows)} rows that are left ({error!r})") from None


def left_rows(mark: Mark, folder: Path) -> list[Row]:
    """The rows of a CSV that a mark's filters leave. Raises TableError for a filter on no column."""
    table = take_table(mark.name, folder)
    filters = {key: value for key, value in mark.options.items() if key not in WORDS}
    unknown = [key for key in filters if key not in table.columns]
    if unknown:
        raise TableError(f"{unknown[0]} is not a column of {mark.name}.csv; it has: {', '.join(table.columns)}")
    return list(chosen(table.rows, filters))


def chosen(rows: Sequence[Row], filters: dict[str, str]) -> Iterator[Row]:
    """The rows that pass all filters, in the order in which the filters name their values, these as they are shown.

    Raises TableError for a value that no row has.
    """
    asked = {column: _names(text) for column, text in filters.items()}
    for column, names in asked.items():
        found = {str(row[column]) for row in rows}
        strange = [name for name in names if name not in found]
        if strange:
            raise TableError(f"no row has {column}={strange[0]}; expected of: {', '.join(sorted(found))}")
    for values in product(*asked.values()):
        wanted = dict(zip(asked, values, strict=True))
        for row in rows:
            if all(str(row[column]) == value or (column, row[column]) == ANY for column, value in wanted.items()):
                yield row | {column: asked[column][value] for column, value in wanted.items()}


def _names(text: str) -> dict[str, str]:
    """'A|B=TEXT' -> {A: A, B: TEXT}: values of a column and how they are shown."""
    pairs = [part.strip().partition("=") for part in text.split("|")]
    return {name: shown if equals else name for name, equals, shown in pairs}


def _cross(options: dict[str, str], rows: Iterable[Row]) -> list[str]:
    cells: dict[tuple[str, str], str] = {}
    for row in rows:
        key = filled(options["rows"], row), filled(options["columns"], row)
        if key in cells:
            raise TableError(f"two rows for the cell {key[0]} / {key[1]}; expected a filter that tells them apart")
        cells[key] = filled(options["value"], row)
    lefts, tops = (list(dict.fromkeys(key[end] for key in cells)) for end in (0, 1))
    lines = ([left, *(cells.get((left, top), "") for top in tops)] for left in lefts)
    return markdown([options.get("head", ""), *tops], lines)


def filled(template: str, row: Row) -> str:
    """A template with the values of a row in it; empty when one of them is."""
    parts = []
    for text, name, form, _ in string.Formatter().parse(template):
        parts.append(text)
        if name is None:
            continue
        column, _, factor = name.partition("*")
        if column not in row and column != "half":
            raise TableError(f"{{{column}}} is not a column; expected of: {', '.join(row)}")
        value = row.get(column)
        if value is None:
            return ""
        try:
            number = value * float(factor) if factor else value
            parts.append(_chance(number) if form == "p" else format(number, form or ""))
        except (TypeError, ValueError):
            raise TableError(f"{{{name}:{form}}} does not fit the value {value!r}") from None
    return "".join(parts)


def _chance(p: float) -> str:
    return f"p = {p:.3f}" if p >= 0.001 else "p < 0.001"


def markdown(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A table of Markdown, bars in cells escaped."""
    lines = [heads, *rows]
    escaped = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    shown = ["| " + " | ".join(cells) + " |" for cells in escaped]
    return [shown[0], "|" + "---|" * len(heads), *shown[1:]]


def source_lines(mark: Mark, folder: Path) -> list[str]:
    """Where a CSV comes from, in a line."""
    facts = take_table(mark.name, folder).facts
    run = facts["run"] if facts["run"] == "not kept" else f"`{facts['run']}`"
    return [f"Run {run}, commit `{facts['commit']}`, {facts['machine']}; made by `{facts['command']}`."]


def settings_lines(mark: Mark, folder: Path) -> list[str]:
    """Every key of a section: the values it takes, what config.yaml ships, what it means."""
    if mark.name not in Config.model_fields:
        raise TableError(f"{mark.name} is not a section; expected one of: {', '.join(Config.model_fields)}")
    section: Any = Config.model_fields[mark.name].annotation
    shipped = loading.flatten(loading.load([], {}).model_dump())
    rows = [
        [
            f"`{key}`",
            loading.describe_range(kind),
            f"`{loading.as_typed(shipped[key])}`",
            " ".join((kind.description or "").split()),
        ]
        for key, kind in loading.options(section, f"{mark.name}.")
    ]
    return markdown(["key", "values", "in `config.yaml`", "meaning"], rows)


def registry_lines(mark: Mark, folder: Path) -> list[str]:
    """What masked_memory/settings/strategies.py knows."""
    if mark.name == "strategies":
        rows = [
            [
                f"`{name}`",
                entry.keeps,
                entry.asks,
                "no" if entry.free else "no, replayed" if entry.replayed else "yes",
                "yes" if entry.place < IN_FIGURES else "no",
            ]
            for name, entry in STRATEGIES.items()
        ]
        return markdown(["strategy", "keeps longest", "looks at", "positions cost bits", "in the figures"], rows)
    if mark.name == "decodings":
        return markdown(
            ["decoding", "paints", "gives"],
            ([f"`{name}`", entry.paints, entry.says] for name, entry in DECODINGS.items()),
        )
    raise TableError(f"{mark.name} is not a registry; expected strategies or decodings")


MARKS = {
    "table": table_lines,
    "sentence": sentence_lines,
    "source": source_lines,
    "settings": settings_lines,
    "registry": registry_lines,
}


def rewritten(page: Path, folder: Path = TABLES) -> tuple[str, list[Mark]]:
    """A page as it should be, and the marks whose tables it has otherwise now. Raises TableError for wrong marks."""
    lines = page.read_text(encoding="utf-8").splitlines()
    out, stale, at = [], [], 0
    for mark in marks_of(page, lines):
        try:
            made = ["", *MARKS[mark.kind](mark, folder), ""]
        except TableError as error:
            raise TableError(f"{mark.place}: {error}") from None
        if made != lines[mark.start : mark.stop]:
            stale.append(mark)
        out += lines[at : mark.start] + made
        at = mark.stop
    return "\n".join([*out, *lines[at:]]) + "\n", stale


# --- command line -----------------------------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    """0: done, or all pages are as they should be; 1: --check found one that is not; 2: something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when a page is out of date")
    parser.add_argument("--collect", metavar="GROUP", help="a group of docs/tables/sources.yaml to copy from the runs")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="the folder of runs")
    parser.add_argument("--run", type=Path, help="start at this run folder, not at the newest")
    parser.add_argument("--machine", help='what it ran on, such as "2 cores, no GPU"')
    parser.add_argument("--command", help="what was typed; default: as in docs/tables/sources.yaml")
    given = parser.parse_args(argv)
    if given.collect and not given.machine:
        parser.error("--collect needs --machine TEXT")
    try:
        if given.collect:
            for file in collect(given.collect, Origin(given.runs, given.run, given.machine, given.command)):
                print(f"wrote {shown_path(file)}")
            return 0
        return update(pages(), given.check)
    except TableError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def update(files: Iterable[Path], check: bool, folder: Path = TABLES) -> int:
    """Write the tables of these pages, or only say which are out of date."""
    out_of_date = 0
    for page in files:
        text, stale = rewritten(page, folder)
        if check:
            for mark in stale:
                print(f"{mark.place} is not what the tables say; type: make docs", file=sys.stderr)
            out_of_date += len(stale)
        elif stale:
            page.write_text(text, encoding="utf-8")
            print(f"wrote {shown_path(page)}")
    return 1 if out_of_date else 0


if __name__ == "__main__":
    sys.exit(main())
