"""Every figure ends as a PNG with something on it. Pictures are float (B, C, H, W) in [0, 1]."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from PIL import Image

from masked_memory.pipeline import figures
from masked_memory.pipeline.figures import as_it_is, component_rows, show_picture, strips

# --- figures ----------------------------------------------------------------------------------------------------------


def test_components_are_shown_as_panels_unless_they_are_colours():
    x = torch.rand(2, 3, 4, 6)
    assert component_rows([("x", x)], ("red", "green", "blue"))[0][1] is x
    panels = component_rows([("x", x)], ("u", "v", "w"))[0][1]
    assert panels.shape == (2, 1, 3 * 5 - 1, 6)
    assert torch.equal(panels[:, 0, 5:9], x[:, 1]) and (panels[:, 0, 4] == 1).all()
    from masked_memory.pipeline.figures import new_figure

    axis = new_figure(2, 2)[1][0, 0]
    show_picture(axis, torch.rand(5, 4, 6))
    assert axis.images[0].get_array().shape == strips(torch.rand(1, 5, 4, 6)).shape[2:]


HISTORY = [
    {"epoch": epoch, "train_loss": 1 / epoch, "val_loss": 1.2 / epoch, "train_learning_rate": 0.1, "val_ssim": 0.5}
    for epoch in (1, 2, 3, 4)
]


def rgb(count: int) -> torch.Tensor:
    return torch.rand(count, 3, 16, 16)


def grey(count: int) -> torch.Tensor:
    return torch.rand(count, 1, 16, 16)


DRAWINGS: dict[str, Callable[[], Figure]] = {
    "history": lambda: figures.history_figure(HISTORY, 3, 12.5),
    "history of one epoch": lambda: figures.history_figure(HISTORY[:1], 1, 12.5),
    "grid of RGB": lambda: figures.picture_grid([("masked", rgb(3)), ("completed", rgb(3))], ["a", "b", "c"]),
    "grid of grey": lambda: figures.picture_grid([("masked", grey(2)), ("completed", grey(3))]),
    "grid of one": lambda: figures.picture_grid([("one", rgb(1))]),
    "index map of RGB": lambda: figures.index_map_figure(rgb(2), np.arange(32).reshape(2, 4, 4) % 9, rgb(2), 9),
    "index map of grey": lambda: figures.index_map_figure(grey(1), np.zeros((1, 4, 4), np.uint8), grey(1), 256),
    "usage": lambda: figures.usage_figure(np.array([5, 0, 100, 1]), 1.3),
    "usage of one code": lambda: figures.usage_figure(np.array([0, 7]), 1.0),
    "confusion": lambda: figures.confusion_figure(np.eye(10) * 9 + 1, [str(n) for n in range(10)], "digits"),
    "confusion of 100": lambda: figures.confusion_figure(np.eye(100), [f"class {n}" for n in range(100)], "many"),
    "confusion with an absent class": lambda: figures.confusion_figure(np.eye(2) * [[3], [0]], ["a", "b"], ""),
    "study history": lambda: figures.study_history_figure([0, 1, 3], [0.5, 0.7, 0.2], True),
    "study slices": lambda: figures.study_slice_figure(
        {
            "rate": [(0.1, 0.5), (0.2, 0.7), (0.3, 0.2)],
            "size": [(16, 0.5), (32, 0.7), (16, 0.2)],
            "kind": [("a", 0.5), ("b", 0.7)],
            "flag": [(True, 0.5), (False, 0.7), (True, 0.2)],
        },
        True,
    ),
    "study importance": lambda: figures.study_importance_figure({"rate": 0.7, "size": 0.3}, 12),
    "curves": lambda: figures.curves_figure(
        [10, 50, 100],
        [
            ("with", figures.BLUE, "-", [0.1, 0.2, 0.4], [(0.05, 0.15), (0.1, 0.3), (0.3, 0.5)]),
            ("without", figures.ORANGE, "--", [0.2, 0.4, 0.8], None),
        ],
        "% forgotten",
        "MSE",
        "headline",
    ),
}  # fmt: skip


def picture_of(figure: Figure, folder: Path) -> np.ndarray:
    path = folder / "figures" / "drawn.png"
    figures.save_png(figure, path)
    with Image.open(path) as stored:
        assert stored.format == "PNG"
        return np.asarray(stored.convert("RGB"))


@pytest.mark.parametrize("name", DRAWINGS)
def test_every_figure_is_a_png_with_something_on_it(name: str, tmp_path: Path) -> None:
    figure = DRAWINGS[name]()
    picture = picture_of(figure, tmp_path)
    width, height = figure.get_size_inches() * figures.DPI
    assert abs(picture.shape[1] - width) <= 1 and abs(picture.shape[0] - height) <= 1
    assert min(picture.shape[:2]) > 80
    assert (picture != 255).any(axis=2).mean() > 0.005, "it is all white"


def shown_colours(picture: torch.Tensor, folder: Path) -> set[tuple[int, ...]]:
    drawn = picture_of(figures.picture_grid([("", picture[None])], scale=2), folder)
    return {tuple(colour) for colour in drawn.reshape(-1, 3).tolist()}


def test_a_picture_is_shown_in_its_own_colours(tmp_path: Path) -> None:
    """Four flat quarters: red, green, blue and one outside [0, 1], which is clamped."""
    picture = torch.zeros(3, 8, 8)
    picture[0, :4, :4] = picture[1, :4, 4:] = picture[2, 4:, :4] = 1
    picture[:, 4:, 4:] = torch.tensor([1.5, -0.5, 0.6]).view(3, 1, 1)
    assert {(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 0, 153)} <= shown_colours(picture, tmp_path)


def test_a_framed_picture_has_a_coloured_border_and_others_none() -> None:
    """Rows and columns beyond `frames` have none either."""
    rows = [("first", rgb(3)), ("second", rgb(2)), ("third", rgb(3))]
    figure = figures.picture_grid(rows, frames=[["#ff0000", None, "#0000ff"], [None, "#00ff00"]])
    borders = [
        {to_hex(spine.get_edgecolor()) for spine in axis.spines.values() if spine.get_visible()} for axis in figure.axes
    ]
    assert borders == [{"#ff0000"}, set(), {"#0000ff"}, set(), {"#00ff00"}, set(), set(), set(), set()]
    framed = figure.axes[0].spines.values()
    assert len(framed) == sum(spine.get_visible() for spine in framed) == 4, "on all four sides"


def test_a_frame_can_be_seen_in_the_png(tmp_path: Path) -> None:
    picture = torch.full((1, 3, 8, 8), 0.5)
    plain = picture_of(figures.picture_grid([("", picture)], scale=2), tmp_path)
    framed = picture_of(figures.picture_grid([("", picture)], scale=2, frames=[["#009E73"]]), tmp_path)
    green = [(drawn == (0, 158, 115)).all(2).sum() for drawn in (plain, framed)]
    assert green[0] == 0 and green[1] > 500


def test_grey_is_shown_on_the_whole_scale_and_not_stretched(tmp_path: Path) -> None:
    """A flat grey stays this grey, whatever else is in the picture."""
    colours = shown_colours(torch.full((1, 8, 8), 0.6), tmp_path)
    assert (153, 153, 153) in colours and (0, 0, 0) not in colours


def test_history_has_a_panel_for_each_metric_and_marks_the_best_epoch() -> None:
    figure = figures.history_figure(HISTORY, 3, 12.5)
    panels = {axis.get_title(): axis for axis in figure.axes if axis.get_visible()}
    assert set(panels) == {"loss", "learning rate", "ssim"}
    lines = {line.get_label(): line for line in panels["loss"].get_lines()}
    assert list(lines["train"].get_ydata()) == [epoch["train_loss"] for epoch in HISTORY]
    assert list(lines["val"].get_ydata()) == [epoch["val_loss"] for epoch in HISTORY]
    assert set(lines["best epoch"].get_xdata()) == {3}


def test_confusion_shows_shares_of_the_true_class() -> None:
    figure = figures.confusion_figure(np.array([[6, 2], [0, 5]]), ["a", "b"], "")
    (shown,) = figure.axes[0].get_images()
    assert np.allclose(shown.get_array(), [[0.75, 0.25], [0, 1]])
    assert {text.get_text() for text in figure.axes[0].texts} == {"6", "2", "5"}


@pytest.mark.parametrize("name", [r"$\frac", r"$\undefined$", "$5$", "5$", "a_b", r"\$", r"a\$b$"])
def test_a_class_may_be_called_what_matplotlib_takes_for_mathematics(name: str, tmp_path: Path) -> None:
    picture = torch.zeros(1, 1, 8, 8)
    drawn = [
        figures.picture_grid([(name, picture)], [name]),
        figures.confusion_figure(np.eye(2), [name, "b"], "title"),
        figures.component_error_figure(np.ones((1, 1)), [name], [name], "title"),
    ]
    for number, figure in enumerate(drawn):
        figures.save_png(figure, tmp_path / f"{number}.png")
    label = drawn[0].axes[0].yaxis.label
    assert label._preprocess_math(label.get_text()) == (name, False), "shown as it is, and not as mathematics"
    assert as_it_is("cat") == "cat"
