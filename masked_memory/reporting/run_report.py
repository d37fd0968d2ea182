"""The report: one HTML file with what the runs of a chain found. The same runs give the same bytes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from masked_memory.pipeline.files import InputError, write_text
from masked_memory.pipeline.runs import duration
from masked_memory.reporting.chain import Chain
from masked_memory.reporting.facts import MOST_ROWS, Picture, RunFacts, ShownTable, read_facts
from masked_memory.reporting.markup import definitions, figure_html, folded, megabytes, said, table_html, whole_page
from masked_memory.reporting.numbers import CrossTable, crossed, in_front
from masked_memory.reporting.stages import MainNumber, caption_of, made_at, plain_number, title_of
from masked_memory.settings import loading

PROJECT = "Reconstruct Masked Images"
QUESTION = "How much of a picture must a memory keep so that the rest can be completed?"
ASKED = (
    "Each picture is turned into a small grid of tokens, part of the grid is forgotten, and a model completes it from "
    "what is left. The numbers below say how well."
)
#: Figures of the study that stand at the top.
HEADLINES = ("grid_adaptive", "mse_to_reconstruction", "clean_classification_error", "classification_error")
MOST_HEADLINES = 3
WIDE = 1.75  # width over height from which a figure takes a whole line; so do those of more pixels than the next
WIDE_PIXELS = 1100
HEAVY = 500_000  # bytes of a figure from which its size is said
MOST_CLASSES = 40
SIDES = {"train": "for training", "val": "for validation", "test": "for testing"}
TUNING = "study_"  # starts the names of figures about tuning
FOLDED_TABLES = ("learning.csv",)  # drawn in a figure
ENDINGS = (".html", ".htm")


def write_report(file: Path, chain: Chain, main: Sequence[MainNumber]) -> int:
    """Write the report. Returns its size in bytes. Raises InputError when the file cannot be written, is none for
    HTML, or lies in no folder."""
    if file.suffix.lower() not in ENDINGS or file.is_dir():
        raise InputError(f"--report would write {file}; expected the name of a file that ends in .html")
    if not file.parent.is_dir():
        raise InputError(f"--report would write {file}, but there is no folder {file.parent}")
    shipped = loading.as_shipped()
    runs = _read_runs(chain, shipped)
    text = report_html(chain, runs, main)
    write_text(file, text)
    return len(text.encode("utf-8"))


def _read_runs(chain: Chain, shipped: Mapping[str, Any]) -> list[RunFacts]:
    return [read_facts(label, folder, shipped) for label, folder in (chain.folders | chain.others).items()]


def report_html(chain: Chain, runs: Sequence[RunFacts], main: Sequence[MainNumber]) -> str:
    """The whole page. runs: those of the chain and others, in the order in which they are shown."""
    places = {facts.folder.name: f"run-{number}" for number, facts in enumerate(runs, 1)}
    tops = _headlines(runs)
    parts = [_heading(chain, runs), _contents(runs, places), _main_section(main, tops)]
    for facts in runs:
        metrics = [one.metric for one in main if one.run == facts.label]
        at_the_top = [one.name for one in tops] if facts.label == "reconstruct_masked" else []
        parts.append(_run_section(facts, places, metrics, at_the_top))
    parts.append(_footer(chain, runs))
    return whole_page(f"{PROJECT}: {chain.split.meta.get('source', '')}", parts)


# --- the top ----------------------------------------------------------------------------------------------------------


def _heading(chain: Chain, runs: Sequence[RunFacts]) -> str:
    meta = chain.split.meta
    counts = meta.get("counts", {})
    size = meta["image_size"]
    channels = f"{meta['channels']} channel{'s' if meta['channels'] > 1 else ''}"
    told = {
        "Source": said(meta.get("source", "unknown")),
        "Pictures": said(", ".join(f"{counts.get(side, 0):,} {what}" for side, what in SIDES.items())),
        "Size": said(f"{size}×{size} pixels, {channels} ({', '.join(chain.split.components)})"),
        "Classes": _classes(chain.split.classes),
        "Split": f"<code>{said(chain.split.hash)}</code>",
    }
    times = sorted(filter(None, (made_at(facts.folder.name) for facts in runs)))
    if times:
        told["Runs"] = said(f"{len(runs)}, begun between {times[0]} and {times[-1]}")
    return (
        f'<header><p class="kicker">{said(PROJECT)}</p><h1>{said(QUESTION)}</h1><p>{said(ASKED)}</p>'
        f"{definitions(told)}</header>"
    )


def _classes(names: Sequence[str]) -> str:
    if not names:
        return "none"
    if len(names) <= MOST_CLASSES:
        return said(f"{len(names)}: {', '.join(names)}")
    return folded(f"{len(names)}", f"<p>{said(', '.join(names))}</p>")


def _contents(runs: Sequence[RunFacts], places: Mapping[str, str]) -> str:
    entries = [("main", "Main numbers"), *((places[facts.folder.name], title_of(facts.label)) for facts in runs)]
    items = "".join(f'<li><a href="#{place}">{said(title)}</a></li>' for place, title in entries)
    return f'<nav aria-label="Contents"><ol>{items}</ol></nav>'


def _headlines(runs: Sequence[RunFacts]) -> list[Picture]:
    study = next((facts for facts in runs if facts.label == "reconstruct_masked"), None)
    found = {one.name: one for one in study.pictures} if study else {}
    return [found[name] for name in HEADLINES if name in found][:MOST_HEADLINES]


def _main_section(main: Sequence[MainNumber], tops: Sequence[Picture]) -> str:
    rows = "".join(
        f"<tr><td{' class=sub' if one.label.startswith(' ') else ''}>{said(one.label.strip())}</td>"
        f'<td class="n">{said(one.shown)}</td></tr>'
        for one in main
    )
    table = (
        f'<div class="scroll"><table class="main"><tbody>{rows}</tbody></table></div>' if main else "<p>None yet.</p>"
    )
    return f'<section id="main"><h2>Main numbers</h2>{table}{_gallery(tops)}</section>'


def _footer(chain: Chain, runs: Sequence[RunFacts]) -> str:
    lines = [f"{trouble}." for trouble in chain.troubles]
    if chain.missing:
        lines.append(f"Not run yet{chain.with_vqvae}: {', '.join(chain.missing_typed)}.")
    left = f"<p>Left out:</p><ul>{''.join(f'<li>{said(line)}</li>' for line in lines)}</ul>" if lines else ""
    pictures = [one for facts in runs for one in facts.pictures]
    size = megabytes(sum(len(one.content) for one in pictures))
    about = (
        f"Everything is within this file: {len(pictures)} figures ({size}), tables and settings. It loads nothing and "
        "runs nothing. On paper, what is folded is left out; unfold it first to print it. "
        "Written by: python summary.py --report"
    )
    return f"<footer>{left}<p>{said(about)}</p></footer>"


# --- a run ------------------------------------------------------------------------------------------------------------


def _run_section(facts: RunFacts, places: Mapping[str, str], main: Sequence[str], at_the_top: Sequence[str]) -> str:
    """main: names of its numbers that are among the main ones; at_the_top: of its figures that are shown there."""
    parts = [
        f"<h2>{said(title_of(facts.label))}<code>{said(facts.stage)}</code></h2>",
        _noted(facts, places),
        _settings(facts),
        _numbers(facts, main),
        _figures(facts, at_the_top),
        _tables(facts.tables),
        *(f'<p class="note">{said(trouble)}</p>' for trouble in facts.troubles),
    ]
    return f'<section id="{places[facts.folder.name]}">{"".join(parts)}</section>'


def _noted(facts: RunFacts, places: Mapping[str, str]) -> str:
    told = {"Run": f"<code>{said(facts.folder.name)}</code>"}
    if made := made_at(facts.folder.name):
        told["Begun"] = said(made)
    if "seconds" in facts.metrics:
        told["Time"] = said(duration(facts.metrics["seconds"]))
    seed = facts.setting("run.seed")
    if seed is not None:
        told["Seed"] = said(seed)
    told["Commit"] = f"<code>{said(facts.commit[:12])}</code>"
    if facts.versions:
        told["Versions"] = said(", ".join(f"{name} {version}" for name, version in facts.versions.items()))
    if facts.record.get("metric") and isinstance(facts.record.get("score"), int | float):
        told["Validation"] = said(f"{facts.record['metric']} {plain_number(facts.record['score'], 4)}")
    if facts.inputs:
        told["Took"] = "<br>".join(_taken(name, run, places) for name, run in facts.inputs.items())
    return definitions(told)


def _taken(name: str, run: str, places: Mapping[str, str]) -> str:
    if run in places:
        return f'{said(name)}: <a href="#{places[run]}"><code>{said(run)}</code></a>'
    return f"{said(name)}: <code>{said(run)}</code> (not in this report)"


def value_shown(value: Any) -> str:
    """A setting as it is typed; texts without quotes."""
    return value if isinstance(value, str) else loading.as_typed(value)


def _settings(facts: RunFacts) -> str:
    if not facts.settings:
        return ""
    header = ("setting", "here", "config.yaml")
    every = [(one.key, value_shown(one.value), _shipped(one.shipped)) for one in facts.settings]
    front = [(one.key, value_shown(one.value), _shipped(one.shipped)) for one in facts.differing]
    table = table_html(header, front) if front else '<p class="note">None: this stage ran as shipped.</p>'
    whole = table_html(header, every, [one.differs for one in facts.settings])
    return f"<h3>Settings that differ from config.yaml</h3>{table}{folded(f'All {len(every)} settings', whole)}"


def _shipped(shipped: tuple[Any] | None) -> str:
    return "no such setting" if shipped is None else value_shown(shipped[0])


def _numbers(facts: RunFacts, main: Sequence[str]) -> str:
    front = {name: facts.metrics[name] for name in in_front(facts.metrics, main) if name != "seconds"}
    shown = _number_tables(front) if front else ""
    rest = set(facts.metrics) - set(front) - {"seconds"}
    every = folded(f"All {len(facts.metrics)} numbers", _number_tables(facts.metrics)) if rest else ""
    return f"<h3>Numbers</h3>{shown}{every}"


def _number_tables(metrics: dict[str, float]) -> str:
    alone, cross = crossed(metrics)
    parts = []
    if alone:
        parts.append(table_html(("", ""), [(name, plain_number(value)) for name, value in alone.items()]))
    if cross.rows:
        parts.append(_cross_html(cross))
    return "".join(parts)


def _cross_html(cross: CrossTable) -> str:
    header = ("at", *(f"{percent} %" for percent in cross.percents))
    rows = [
        (name, *("" if value is None else plain_number(value, 4) for value in values))
        for name, values in cross.rows.items()
    ]
    return table_html(header, rows)


def _figures(facts: RunFacts, at_the_top: Sequence[str]) -> str:
    shown = [one for one in facts.pictures if one.name not in at_the_top and not one.name.startswith(TUNING)]
    tuning = [one for one in facts.pictures if one.name.startswith(TUNING)]
    if not facts.pictures:
        return '<p class="note">This run has no figures.</p>'
    above = '<p class="note">Some figures of this run are <a href="#main">at the top</a>.</p>' if at_the_top else ""
    folded_away = folded(f"Tuning: {len(tuning)} figures", _gallery(tuning)) if tuning else ""
    return f"<h3>Figures</h3>{above}{_gallery(shown)}{folded_away}"


def _gallery(pictures: Sequence[Picture]) -> str:
    """Those that take a whole line first, so that the others leave no holes."""
    if not pictures:
        return ""
    wide = {one.name for one in pictures if one.width > WIDE * one.height or one.width > WIDE_PIXELS}
    ordered = sorted(pictures, key=lambda one: one.name not in wide)
    shown = [figure_html(one.content, (one.width, one.height), _caption(one), one.name in wide) for one in ordered]
    return f'<div class="figures">{"".join(shown)}</div>'


def _caption(picture: Picture) -> str:
    size = len(picture.content)
    return f"{caption_of(picture.name)}{f' ({megabytes(size)})' if size >= HEAVY else ''}"


def _tables(tables: Sequence[ShownTable]) -> str:
    parts = []
    for table in tables:
        body = table_html(table.header, table.rows)
        if table.total > len(table.rows):
            parts.append(folded(f"{table.name}: the first {MOST_ROWS} of {table.total:,} rows", body))
        elif table.name in FOLDED_TABLES:
            parts.append(folded(f"{table.name}: {table.total} rows", body))
        else:
            parts.append(f'<p class="mono">{said(table.name)}</p>{body}')
    return f"<h3>Tables</h3>{''.join(parts)}" if parts else ""
