"""The figure of validation against time."""

import pytest

from docs.learning import LEARNERS, learning_figure
from docs.shelf import TableError

ROWS = [
    {"stage": stage, "epoch": epoch, "seconds": 60.0 * epoch, "metric": metric, "value": 1 / epoch}
    for panel in LEARNERS
    for stage, metric, _ in panel.lines
    for epoch in (1, 2, 3)
]


def test_each_model_has_a_panel_over_minutes() -> None:
    figure = learning_figure(ROWS)
    assert [axis.get_title() for axis in figure.axes] == ["VQ-VAE", "judges", "DistilBERT"]
    for axis, panel in zip(figure.axes, LEARNERS, strict=True):
        assert [line.get_label() for line in axis.get_lines()] == [label for _, _, label in panel.lines]
        for line in axis.get_lines():
            assert list(line.get_xdata()) == [1, 2, 3] and list(line.get_ydata()) == [1, 0.5, 1 / 3]


def test_a_model_that_was_not_collected_is_said() -> None:
    with pytest.raises(TableError, match="no loss_at_90 of train_distil"):
        learning_figure([row for row in ROWS if row["metric"] != "loss_at_90"])
