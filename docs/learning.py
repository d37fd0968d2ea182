"""Figures of docs/images/NAME_learning.png: validation against minutes of training, from docs/tables/NAME_learning.csv.

python docs/learning.py imagenet100_32 imagenette_64
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

if __name__ == "__main__":  # started as a file: the project is one folder up
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from matplotlib.figure import Figure

from docs.shelf import ROOT, Row, TableError, take_table
from masked_memory.pipeline.figures import BLUE, GREEN, ORANGE, new_figure, save_png

LINES_LOOK = ((BLUE, "-"), (ORANGE, "--"), (GREEN, "-."))


class Panel(NamedTuple):
    """Lines of one panel: (stage, metric, label)."""

    title: str
    unit: str
    lines: tuple[tuple[str, str, str], ...]


LEARNERS = (
    Panel("VQ-VAE", "PSNR, dB", (("train_vqvae", "psnr", "validation"),)),
    Panel(
        "judges",
        "error on originals",
        (
            ("train_classifier", "error_originals", "degraded judge"),
            ("clean_classifier", "error_originals", "clean judge"),
        ),
    ),
    Panel(
        "DistilBERT",
        "nats per masked token",
        tuple(("train_distil", f"loss_at_{percent}", f"{percent} % masked") for percent in (10, 50, 90)),
    ),
)


def learning_figure(rows: Sequence[Row]) -> Figure:
    """One panel for each model; rows: stage, epoch, seconds, metric, value. Raises TableError for a line that is not
    there."""
    figure, axes = new_figure(9.6, 2.7, 1, len(LEARNERS))
    for axis, panel in zip(axes.flat, LEARNERS, strict=True):
        for (stage, metric, label), (colour, style) in zip(panel.lines, LINES_LOOK, strict=False):
            kept = [row for row in rows if row["stage"] == stage and row["metric"] == metric]
            if not kept:
                raise TableError(f"there is no {metric} of {stage}; has it been collected?")
            minutes = [row["seconds"] / 60 for row in kept]
            axis.plot(minutes, [row["value"] for row in kept], style, color=colour, label=label)
        axis.set_title(panel.title, fontsize=9)
        axis.set_xlabel("minutes of training", fontsize=8)
        axis.set_ylabel(panel.unit, fontsize=8)
        axis.set_xlim(left=0)
        if len(panel.lines) > 1:
            axis.legend(fontsize=7, frameon=False)
    return figure


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="+", help="of docs/tables/NAME_learning.csv")
    for name in parser.parse_args(arguments).names:
        try:
            figure = learning_figure(take_table(f"{name}_learning").rows)
        except TableError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        save_png(figure, ROOT / "docs" / "images" / f"{name}_learning.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
