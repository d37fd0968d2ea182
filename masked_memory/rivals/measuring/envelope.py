"""The least error at every number of bits: which method has it where, in a table, a figure and a few lines."""

from itertools import groupby, zip_longest
from typing import Any

from matplotlib.figure import Figure

from masked_memory.measuring.figures import BLACK, LABELS, strategy_looks
from masked_memory.measuring.study import ALL_FORGOTTEN
from masked_memory.pipeline.figures import GREEN, GREY, new_figure
from masked_memory.pipeline.rows import Rows
from masked_memory.pipeline.stage import say
from masked_memory.rivals.measuring.bits import FEWER_CODES, WITH_INTERVALS, data_only, frontier
from masked_memory.rivals.measuring.coded import ALL_TOKENS
from masked_memory.settings.strategies import STRATEGIES

ENVELOPE_HEADER = ("measure", "from_bits", "to_bits", "kind", "method", "setting", "error")
COMPARED = WITH_INTERVALS
FORGETTING, CODING, MERGING, FORMATS = "forgetting", "coding all tokens", "fewer codes", "a picture format"


def kind_of(method: str) -> str:
    """What a method of bits.csv does to save bits."""
    if method in STRATEGIES or method == ALL_FORGOTTEN:
        return FORGETTING
    return {ALL_TOKENS: CODING, FEWER_CODES: MERGING}.get(method, FORMATS)


def envelope_rows(rows: Rows) -> Rows:
    """rows of bits.csv -> for each measure the settings of least error, by rising bits: each is the best from its own
    bits up to those of the next, `to_bits`, which the last has not. Of equal ones the first row counts."""
    found: Rows = []
    for measure in COMPARED:
        by_point: dict[tuple[float, float], dict[str, Any]] = {}
        for row in rows:
            if measure in row:
                by_point.setdefault((row["bits"], row[measure]), row)
        best = frontier(by_point)
        for point, following in zip_longest(best, best[1:]):
            row, (bits, error) = by_point[point], point
            named = {"kind": kind_of(row["method"]), "method": row["method"], "setting": row["setting"]}
            ends = {} if following is None else {"to_bits": following[0]}
            found.append({"measure": measure, "from_bits": bits, "error": error} | ends | named)
    return found


def report_envelope(envelope: Rows) -> None:
    """Where forgetting wins and where coding wins, a line for each stretch of one kind."""
    for measure in COMPARED:
        of_measure = [row for row in envelope if row["measure"] == measure]
        if of_measure:
            say(f"least {LABELS[measure]} at")
        for kind, stretch in groupby(of_measure, key=lambda row: row["kind"]):
            members = list(stretch)
            methods = ", ".join(dict.fromkeys(row["method"] for row in members))
            first, last = members[0]["from_bits"], members[-1].get("to_bits")
            reach = f"{first:5.0f} bits and more" if last is None else f"{first:5.0f} to {last:5.0f} bits"
            say(f"  {reach:<20} {kind:<18} {members[0]['error']:.4f} to {members[-1]['error']:.4f}   {methods}")


# --- the figure -------------------------------------------------------------------------------------------------------

#: colour, line style, marker of what is no strategy
OTHER_LOOKS = {
    ALL_TOKENS: (BLACK, "none", "*"),
    FEWER_CODES: (GREEN, "-", "p"),
    data_only("jpeg"): (GREY, ":", "s"),
    data_only("webp"): (GREY, ":", "x"),
    data_only("avif"): (GREY, ":", "+"),
    data_only("jxl"): (GREY, ":", "1"),
}


def bits_figure(rows: Rows, pictures: int, decoding: str) -> Figure:
    """Error against bits, up to a quarter more than whole grids without coding; beyond that see bits.csv.

    Of fewer codes and formats only the settings are drawn that no other of the same method beats. Grey: the least error
    of all.
    """
    most_bits = 1.25 * max(row["bits"] for row in rows if row["method"] == ALL_TOKENS)
    measures = [measure for measure in COMPARED if any(measure in row for row in rows)]
    figure, axes = new_figure(4.8 * len(measures), 5.0, 1, len(measures))
    for axis, measure in zip(axes[0], measures, strict=True):
        _draw_best(axis, rows, measure, most_bits)
        for method, (colour, style, marker) in (strategy_looks() | OTHER_LOOKS).items():
            x, y = _points(rows, method, measure)
            if x:
                size = 8 if method == ALL_TOKENS else 4
                axis.plot(x, y, linestyle=style, color=colour, marker=marker, markersize=size, linewidth=1.2,
                          label=method)  # fmt: skip
        axis.set_xlabel("bits stored per picture", fontsize=9)
        axis.set_ylabel(LABELS[measure], fontsize=9)
        axis.grid(alpha=0.25, linewidth=0.5)
        axis.set_xlim(0, most_bits)
        _limit(axis, rows, measure)
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    figure.suptitle(f"{pictures} test pictures, decoding {decoding}", fontsize=9)
    return figure


def _points(rows: Rows, method: str, measure: str) -> tuple[list[float], list[float]]:
    """Bits and errors of a method by rising bits; a strategy ends where nothing is kept."""
    points = [(row["bits"], row[measure]) for row in rows if row["method"] == method and measure in row]
    if method in STRATEGIES:
        nothing = [(row["bits"], row[measure]) for row in rows if row["method"] == ALL_FORGOTTEN and measure in row]
        points = sorted(points + nothing) if points else []
    elif method != ALL_TOKENS:
        points = frontier(points)
    return [bits for bits, _ in points], [error for _, error in points]


def _draw_best(axis: Any, rows: Rows, measure: str, most_bits: float) -> None:
    """The least error at each number of bits: a step at each setting."""
    best = frontier((row["bits"], row[measure]) for row in rows if measure in row)
    x, y = [bits for bits, _ in best], [error for _, error in best]
    axis.step([*x, max(most_bits, x[-1])], [*y, y[-1]], where="post", color=GREY, alpha=0.45, linewidth=5,
              label="least error of all")  # fmt: skip


def _limit(axis: Any, rows: Rows, measure: str) -> None:
    """What is coded is seen whole; formats may err more, beyond the upper edge. Squared errors have a logarithmic axis:
    on a plain one the lower ones lie on each other."""
    coded = [row[measure] for row in rows if measure in row and kind_of(row["method"]) != FORMATS]
    if measure == "mse_to_picture":
        axis.set_yscale("log")
        axis.set_ylim(0.85 * min(coded), 1.15 * max(coded))
    else:
        axis.set_ylim(0, 1.05 * max(max(coded), 0.01))
