"""New pictures against the number of passes, for each order in which the DistilBERT fills a grid."""

from typing import Any

from matplotlib.figure import Figure

from masked_memory.pipeline.figures import BLUE, GREEN, ORANGE, new_figure
from masked_memory.pipeline.rows import Rows

LOOKS_OF_ORDERS = ((BLUE, "-", "o"), (ORANGE, "--", "s"), (GREEN, "-.", "^"))
PANELS = {
    "frechet_distance": "Fréchet distance (degraded judge)",
    "class_accuracy": "class as asked (degraded judge)",
    "pairwise_distance": "share of tokens that differ",
}


def sweep_figure(rows: Rows) -> Figure:
    """rows: those of sweep.csv."""
    panels = [name for name in PANELS if any(row.get(name) is not None for row in rows)]
    figure, axes = new_figure(3.6 * len(panels), 3.2, 1, len(panels))
    orders = list(dict.fromkeys(row["order"] for row in rows))
    for axis, name in zip(axes[0], panels, strict=True):
        for order, (colour, style, marker) in zip(orders, LOOKS_OF_ORDERS, strict=False):
            points = sorted((row["passes"], row[name]) for row in rows if row["order"] == order and name in row)
            x, y = zip(*points, strict=True)
            axis.plot(x, y, style, color=colour, marker=marker, markersize=4, linewidth=1.3, label=order)
        _finish_panel(axis, PANELS[name], legend=name == panels[0])
    return figure


def _finish_panel(axis: Any, label: str, legend: bool) -> None:
    axis.set_xscale("log", base=2)
    axis.xaxis.set_major_formatter("{x:.0f}")
    axis.set_xlabel("passes", fontsize=9)
    axis.set_ylabel(label, fontsize=9)
    axis.set_ylim(0, 1.05 * axis.dataLim.y1)
    axis.grid(alpha=0.25, linewidth=0.5)
    if legend:
        axis.legend(fontsize=7, frameon=False)
