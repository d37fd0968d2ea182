"""Two finished runs of one stage side by side: what went into them, and what came out."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

from masked_memory.pipeline.commands import command
from masked_memory.pipeline.files import InputError, read_json
from masked_memory.pipeline.runs import duration, named_run
from masked_memory.reporting.facts import COMMON, RunFacts, read_facts
from masked_memory.reporting.run_report import value_shown
from masked_memory.reporting.stages import better_way, made_at, plain_number

LINE_WIDTH = 100
NAME, VALUE = 44, 15  # columns
ABSENT = "(none)"


def comparable(runs: Path, words: Sequence[str]) -> tuple[RunFacts, RunFacts]:
    """The two runs that are named. Raises InputError unless they are two finished runs of one stage."""
    first, second = (_finished(named_run(runs, word)) for word in words)
    if first.folder.resolve() == second.folder.resolve():
        raise InputError(f"{words[0]} and {words[1]} are the same run, {first.folder}; expected two runs of one stage")
    if first.stage != second.stage:
        raise InputError(
            f"{first.folder} is a run of {first.stage}, {second.folder} one of {second.stage}; "
            "expected two runs of one stage"
        )
    return first, second


def _finished(folder: Path) -> RunFacts:
    record = read_json(folder / "run.json")
    status = record.get("status") if isinstance(record, dict) else None
    if status != "finished":
        stage = folder.resolve().parent.name
        raise InputError(
            f"{folder} is not finished (run.json says {status}); expected a finished run; to go on with one that was "
            f"interrupted, type: {command(stage)} --resume"
        )
    return read_facts("", folder, {}, shown=False)


def comparison(first: RunFacts, second: RunFacts) -> list[str]:
    """What differs between two runs: settings, inputs, code, numbers. Lines have at most 100
    signs, but for paths and names that are longer themselves."""
    lines = [f"{first.stage}", *_who("A", first), *_who("B", second), ""]
    lines += _settings_differing(first, second)
    lines += _differing("inputs", first.inputs, second.inputs)
    code = [{"commit": one.commit[:12] + one.commit[40:], **one.versions} for one in (first, second)]
    lines += _differing("commit and versions", *code)
    lines += _numbers_beside(first.metrics, second.metrics)
    if first.inputs != second.inputs:
        lines.append("they took other inputs, so what was measured may not be the same")
    return [*lines, *first.troubles, *second.troubles]


def _who(letter: str, facts: RunFacts) -> list[str]:
    made, seconds = made_at(facts.folder.name), facts.metrics.get("seconds")
    told = [f"begun {made}"] if made else []
    told += [f"took {duration(seconds)}"] if seconds is not None else []
    return [f"  {letter}  {facts.folder}", *([f"     {', '.join(told)}"] if told else [])]


def _settings_differing(first: RunFacts, second: RunFacts) -> list[str]:
    """Those of the stage and the common ones in full; of the other stages' only the names."""
    one, other = ({each.key: each.value for each in facts.settings} for facts in (first, second))
    mine = (first.stage, *COMMON)
    keys = [
        key for key in dict.fromkeys([*one, *other]) if (key in one, one.get(key)) != (key in other, other.get(key))
    ]
    shown = {key for key in keys if key.split(".")[0] in mine}
    values = [{key: value_shown(found[key]) for key in keys if key in shown and key in found} for found in (one, other)]
    lines = _differing(f"settings of {first.stage}", *values)
    rest = [key for key in keys if key not in shown]
    if rest:
        lines[-1:] = [*_wrapped(f"settings of other stages differ, too: {', '.join(rest)}", "  "), ""]
    return lines


def _differing(what: str, one: Mapping[str, str], other: Mapping[str, str]) -> list[str]:
    """A heading, and a line for each name with another value; on three lines where the values are long."""
    names = [name for name in dict.fromkeys([*one, *other]) if one.get(name) != other.get(name)]
    if not names:
        return [f"{what}: all the same", ""]
    lines = [f"{what} that differ"]
    width = max(24, *(len(name) for name in names))
    room = (LINE_WIDTH - 4 - min(width, NAME)) // 2
    for name in names:
        values = [found.get(name, ABSENT) for found in (one, other)]
        if len(name) <= NAME and all(len(value) < room for value in values):
            lines.append(f"  {name:<{min(width, NAME)}}  {values[0]:<{room}}{values[1]}".rstrip())
            continue
        lines.append(f"  {name}")
        for letter, value in zip("AB", values, strict=True):
            lines += _wrapped(f"{letter}  {value}", "    ", "       ")
    return [*lines, ""]


def _numbers_beside(one: Mapping[str, float], other: Mapping[str, float]) -> list[str]:
    names = list(dict.fromkeys([*one, *other]))
    names.sort(key=lambda name: not name.startswith("test_"))  # those on the test set first
    both = [name for name in names if name in one and name in other]
    differing = [name for name in both if not _same(one[name], other[name])]
    alone = [*_only("A", one, other), *_only("B", other, one)]
    if not differing:
        return [f"numbers: all {len(both)} the same", *alone]
    head = f"numbers that differ ({len(differing)} of {len(both)})"
    lines = [f"{head:<{NAME + 2}}{'A':>{VALUE}}{'B':>{VALUE}}{'B - A':>{VALUE}}  better"]
    tally = {"A": 0, "B": 0}
    for name in differing:
        a, b = one[name], other[name]
        best = _better(name, a, b)
        tally |= {best: tally[best] + 1} if best else {}
        numbers = f"{plain_number(a):>{VALUE}}{plain_number(b):>{VALUE}}{b - a:>+{VALUE}.4g}"
        lines += [f"  {name}"] if len(name) > NAME - 1 else []
        start = "" if len(name) > NAME - 1 else f"  {name}"
        lines.append(f"{start:<{NAME + 2}}{numbers}  {best}".rstrip())
    lines += ["", *alone]
    judged = sum(tally.values())
    if judged:
        lines += [f"of {judged} with a known direction: A better in {tally['A']}, B in {tally['B']}"]
    return [*lines, "two runs differ by chance, too; compare_seeds.py says by how much"]


def _only(letter: str, mine: Mapping[str, float], others: Mapping[str, float]) -> list[str]:
    """That a run has numbers which the other lacks, with the first of them."""
    names = [name for name in mine if name not in others]
    return [f"only {letter} has {len(names)} more, such as {names[0]}"] if names else []


def _same(a: float, b: float) -> bool:
    return a == b or (math.isnan(a) and math.isnan(b))


def _better(name: str, a: float, b: float) -> str:
    """A or B; nothing where no way is known, or one is no number."""
    way = better_way(name)
    if not way or math.isnan(a) or math.isnan(b):
        return ""
    return "B" if (b - a) * way > 0 else "A"


def _wrapped(text: str, indent: str, further: str | None = None) -> list[str]:
    return textwrap.wrap(
        text, LINE_WIDTH, initial_indent=indent, subsequent_indent=further or indent, break_on_hyphens=False
    )
