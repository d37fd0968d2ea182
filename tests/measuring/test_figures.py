"""The figures of the study have the curves that were measured, at the values of the rows, and no others."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.colors import is_color_like, to_hex, to_rgb
from matplotlib.figure import Figure
from PIL import Image

from masked_memory.measuring.figures import (
    FEWEST_WRONG,
    MOST_CURVES,
    RIGHT,
    WRONG,
    context_figure,
    decodings_figure,
    grey_out,
    recall_grid,
    recognised,
    rival_looks,
    rivals_figure,
    shown_strategies,
    split_figure,
    strategies_figure,
    strategies_grid,
    strategy_looks,
)
from masked_memory.measuring.study import ALL_FORGOTTEN, Batch, Findings, Study
from masked_memory.pipeline import figures
from masked_memory.pipeline.figures import RGB
from masked_memory.pipeline.metrics import to_unit
from masked_memory.recall.memory import Memory
from masked_memory.settings.strategies import STRATEGIES
from masked_memory.stages.masking import mask_first
from toys import complete, fake_indices, fake_split, findings_of, painted_vectors, study_plan, tiny_memory

K, SIDE = 8, 4
N = SIDE**2
MSE, ERROR = "mse_to_reconstruction", "classification_error"
PLAN = study_plan(strategies=("random", "adaptive"), percentages=(50, 75, 100), seed=0, batch_size=250)
pytestmark = pytest.mark.usefixtures("no_gradients")
MEANS = {50: 0.2, 75: 0.4, 100: 0.8}


def row(strategy: str, percent: int, measure: str, mean: float, decoding: str = "expected") -> dict[str, Any]:
    names = {"strategy": strategy, "percent": percent, "decoding": decoding, "measure": measure}
    return {**names, "mean": mean, "low": 0.9 * mean, "high": 1.1 * mean, "bits": 5.0 * (100 - percent)}


def rows_of(
    strategies: tuple[str, ...], measures: tuple[str, ...], decodings: tuple[str, ...] = ("expected",)
) -> list[dict[str, Any]]:
    """Each strategy at 50 and 75 %, and once at 100 %; the means are MEANS plus a tenth of the strategy's number."""
    return [
        row(name, percent, measure, mean + number / 10, decoding)
        for measure in measures
        for decoding in decodings
        for number, name in enumerate((ALL_FORGOTTEN, *strategies))
        for percent, mean in MEANS.items()
        if (percent == 100) == (name == ALL_FORGOTTEN)
    ]


def curves(axis: Axes) -> dict[str, list[tuple[float, float]]]:
    """Label -> points, to four digits, of the lines that have a label."""
    return {
        str(line.get_label()): [(round(x, 4), round(y, 4)) for x, y in line.get_xydata().tolist()]
        for line in axis.get_lines()
        if not str(line.get_label()).startswith("_")
    }


def picture_of(figure: Figure, folder: Path) -> np.ndarray:
    figures.save_png(figure, folder / "drawn.png")
    with Image.open(folder / "drawn.png") as stored:
        return np.asarray(stored.convert("RGB"))


# Curves


def test_strategies_are_curves_that_meet_where_all_is_forgotten() -> None:
    figure = strategies_figure(rows_of(PLAN.strategies, (MSE,)), PLAN, "expected", MSE, 200)
    found = curves(figure.axes[0])
    assert list(found) == ["adaptive", "random"], "the most telling first"
    assert found["random"] == [(50, 0.3), (75, 0.5), (100, 0.8)]
    assert found["adaptive"] == [(50, 0.4), (75, 0.6), (100, 0.8)]
    (band, _) = figure.axes[0].collections
    assert band.get_paths()[0].get_extents().get_points()[:, 1] == pytest.approx([0.9 * 0.4, 1.1 * 0.8])
    assert figure.axes[0].get_ylabel() == "MSE to the VQ-VAE's reconstruction"
    assert figure.axes[0].get_title() == "200 pictures, 95 % intervals, decoding expected"
    shown = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert shown == ["adaptive", "random"]
    plain = strategies_figure(
        rows_of(PLAN.strategies, ("calibration_error",)), PLAN, "tokens", "calibration_error", 200
    )
    assert plain.axes[0].get_title() == "200 pictures", "it has no intervals"


def test_there_is_no_curve_of_what_was_not_measured() -> None:
    """A strategy that is not planned has none, whatever the rows hold; nor has one whose rows lack the measure."""
    rows = rows_of(("random", "adaptive", "half"), (MSE,))
    assert list(curves(strategies_figure(rows, PLAN, "expected", MSE, 9).axes[0])) == ["adaptive", "random"]
    without_100 = [r for r in rows if r["strategy"] == "random"]
    assert list(curves(strategies_figure(without_100, PLAN, "expected", MSE, 9).axes[0])) == ["random"]


def test_the_figure_of_token_measures_names_no_decoding() -> None:
    rows = rows_of(PLAN.strategies, ("calibration_error",), ("tokens",))
    for each in rows:
        each["low"] = each["high"] = float("nan")
    figure = strategies_figure(rows, PLAN, "tokens", "calibration_error", 9)
    assert "decoding" not in figure.axes[0].get_title()
    assert set(curves(figure.axes[0])) == {"random", "adaptive"}


def test_at_most_eight_strategies_are_shown() -> None:
    everything = replace(PLAN, strategies=tuple(STRATEGIES))
    shown = shown_strategies(everything)
    assert len(shown) == MOST_CURVES == 8 and shown == list(strategy_looks())[:8]
    figure = strategies_figure(rows_of(tuple(STRATEGIES), (MSE,)), everything, "expected", MSE, 9)
    assert list(curves(figure.axes[0])) == shown


def test_decodings_have_a_line_of_panels_for_each_strategy() -> None:
    rows = rows_of(PLAN.strategies, (MSE, ERROR), PLAN.decodings)
    figure = decodings_figure(rows, PLAN, ["random", "adaptive"])
    assert [axis.get_title() for axis in figure.axes] == ["random", "random", "adaptive", "adaptive"]
    labels = [axis.get_ylabel() for axis in figure.axes]
    assert labels == ["MSE to the VQ-VAE's reconstruction", "classification error (degraded judge)"] * 2
    for axis in figure.axes:
        assert list(curves(axis)) == ["argmax", "expected"], "sample was not measured"


def test_without_a_classifier_there_is_no_panel_of_classification() -> None:
    rows = rows_of(PLAN.strategies, (MSE, "mse_to_picture"))
    rivals = [{**r, "rival": r["strategy"]} for r in rows]
    for figure in (decodings_figure(rows, PLAN, ["random"]), rivals_figure(rivals)):
        assert [axis.get_ylabel().startswith("MSE") for axis in figure.axes] == [True]


def test_every_rival_has_a_look_of_its_own_and_families_a_colour() -> None:
    names = ["mean picture", "not completed", "most frequent code of the position", "expected code of the position",
             "nearest kept code", "biharmonic inpainting", "ours, argmax", "ours, expected", "ours, expected, painter",
             "masked autoencoder of originals", "published recipe, argmax", "published recipe, expected"]  # fmt: skip
    looks = rival_looks(names)
    assert list(looks) == names and len(set(looks.values())) == len(names)
    colours = [
        {looks[name][0] for name in part} for part in (names[:5], names[5:6], names[6:9], names[9:10], names[10:])
    ]
    assert all(len(each) == 1 for each in colours) and len(set.union(*colours)) == len(colours)


def test_rivals_are_curves_by_rising_percentage_with_one_legend() -> None:
    rows = [
        {"rival": rival, "percent": percent, "measure": measure, "mean": mean, "low": mean, "high": mean}
        for rival, shift in (("mean picture", 0.1), ("ours, expected", 0.0))
        for measure in (MSE, ERROR, "mse_to_picture")
        for percent, mean in ((75, 0.4 + shift), (50, 0.2 + shift))
    ]
    figure = rivals_figure(rows)
    assert len(figure.axes) == 2
    for axis in figure.axes:
        assert curves(axis)["ours, expected"] == [(50, 0.2), (75, 0.4)]
        assert curves(axis)["mean picture"] == [(50, 0.3), (75, 0.5)]
        assert axis.get_legend() is None
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["mean picture", "ours, expected"]


def test_all_rivals_that_there_can_be_have_a_curve() -> None:
    """Eight rivals, ours twice, the published recipe with two ways to choose."""
    names = [f"rival {number}" for number in range(12)]
    rows = [{**row("", 50, MSE, 0.1), "rival": name} for name in names]
    assert list(curves(rivals_figure(rows).axes[0])) == names


CONTEXT = [
    [strategy, percent, judge, group, pictures, error, share]
    for strategy, percent in (("adaptive", 75), ("adaptive", 50), ("random", 50), ("half", 50), (ALL_FORGOTTEN, 100))
    for judge, group, pictures, error, share in (
        ("degraded", "congruent", 100, percent / 200, float("nan")),
        ("degraded", "incongruent", 40, percent / 100, percent / 150),
        ("clean", "congruent", 100, 0.9, float("nan")),
        ("clean", "incongruent", 40, 0.9, 0.9),
    )
]


def test_context_has_both_groups_and_the_share_of_wrong_recalls() -> None:
    figure = context_figure(CONTEXT, PLAN)
    errors, shares = (curves(axis) for axis in figure.axes)
    assert set(errors) == {f"{name}, {group}" for name in PLAN.strategies for group in ("congruent", "incongruent")}
    assert errors["adaptive, congruent"] == [(50, 0.25), (75, 0.375), (100, 0.5)]
    assert errors["adaptive, incongruent"] == [(50, 0.5), (75, 0.75), (100, 1.0)]
    assert shares["adaptive"] == [(50, 0.3333), (75, 0.5), (100, 0.6667)]
    assert [y for _, y in shares["chance, 1 of 9"]] == [0.1111, 0.1111]


def test_a_share_of_few_wrong_recalls_is_not_shown() -> None:
    """Of 40 pictures 9.2 are wrong on average at 23 %, 10 at 25 %."""
    rows = [["adaptive", percent, "degraded", "incongruent", 40, percent / 100, 0.5] for percent in (23, 25, 50)]
    rows += [["adaptive", percent, "degraded", "congruent", 40, 0.1, float("nan")] for percent in (23, 25, 50)]
    plan = replace(PLAN, strategies=("adaptive",))
    shares = curves(context_figure(rows, plan).axes[1])
    assert FEWEST_WRONG == 10 and [x for x, _ in shares["adaptive"]] == [25, 50]
    few = [[*each[:5], 0.01, each[6]] for each in rows]
    assert set(curves(context_figure(few, plan).axes[1])) == {"chance, 1 of 9"}


def test_context_of_other_strategies_shows_the_first_planned() -> None:
    figure = context_figure(CONTEXT, replace(PLAN, strategies=("half", "outpaint")))
    assert set(curves(figure.axes[0])) == {"half, congruent", "half, incongruent"}


def test_the_error_split_is_stacked_beside_the_measured_total() -> None:
    rows = [
        ["adaptive", 75, 0.02, 0.05, 0.08, 0.01],
        [ALL_FORGOTTEN, 100, 0.02, 0.1, 0.11, -0.01],
        ["adaptive", 50, 0.02, 0.03, 0.06, 0.01],
        ["random", 50, 0.02, 0.04, 0.07, 0.01],
    ]
    figure = split_figure(rows, ["random", "adaptive"])
    assert [axis.get_title() for axis in figure.axes] == ["random", "adaptive"]
    axis = figure.axes[1]
    quantisation, completion = axis.containers
    assert [bar.get_height() for bar in quantisation] == [0.02] * 3
    assert [bar.get_height() for bar in completion] == pytest.approx([0.03, 0.05, 0.1])
    assert [bar.get_y() for bar in completion] == [0.02] * 3, "one on the other"
    assert list(axis.get_lines()[0].get_ydata()) == [0.06, 0.08, 0.11]
    assert figure.axes[0].get_ylim() == figure.axes[1].get_ylim(), "bars can be compared"
    figure.canvas.draw()
    assert [text.get_text() for text in axis.get_xticklabels()] == ["50", "75", "100"]


@pytest.fixture
def memory() -> Memory:
    return tiny_memory(classifier="compact")


@pytest.fixture
def batch(memory: Memory) -> Batch:
    """Two pictures; the second has the class that is seen in it whatever is forgotten, the first has another."""
    tokens = torch.randint(0, K, (2, N))
    whole = memory.paint_tokens(tokens)
    memory.classifier.net.head[1].weight.zero_()  # always the class of the largest bias
    memory.classifier.net.head[1].bias.copy_(torch.tensor([0.0, 1.0, 0.0]))
    return Batch(slice(0, 2), torch.rand(2, 3, 16, 16), to_unit(whole), tokens, torch.tensor([0, 1]), torch.ones(2))


@pytest.fixture
def study() -> Study:
    orders = {name: [torch.stack([torch.randperm(N) for _ in range(2)])] for name in PLAN.strategies}
    return Study({}, orders, {}, np.arange(2))


def borders(figure: Figure) -> list[set[str]]:
    return [
        {to_hex(spine.get_edgecolor()) for spine in axis.spines.values() if spine.get_visible()} for axis in figure.axes
    ]


def shown(axis: Axes) -> torch.Tensor:
    """(C, H, W) in [0, 1]."""
    (image,) = axis.get_images()
    return torch.from_numpy(np.asarray(image.get_array())).permute(2, 0, 1)


def test_a_frame_says_whether_a_picture_is_recognised(memory: Memory, batch: Batch) -> None:
    painted = memory.paint_tokens(batch.tokens)
    assert recognised(memory, batch, painted, batch.tokens) == [WRONG, RIGHT]
    memory.classifier = None
    assert recognised(memory, batch, painted, batch.tokens) == [None, None]


def test_grey_stands_where_tokens_are_masked() -> None:
    mask = torch.zeros(1, N, dtype=torch.bool)
    mask[0, 6] = True  # second row, third column of the grid
    pictures = torch.rand(1, 3, 16, 16)
    left = grey_out(pictures, mask, 4)
    assert (left[:, :, 4:8, 8:12] == 0.5).all()
    assert int((left != pictures).any(1).sum()) == 16


def shown_study(memory: Memory, study: Study, decoding: str) -> Findings:
    split = fake_split(["test"])
    return findings_of(memory, split, fake_indices(1), replace(PLAN, decodings=(decoding,)), study)


def test_the_recall_grid_shows_kept_recalled_and_original_for_each_percentage(
    memory: Memory, batch: Batch, study: Study, tmp_path: Path
) -> None:
    figure = recall_grid(shown_study(memory, study, "expected"), batch, "random", RGB)
    assert len(figure.axes) == 3 * 6
    assert [axis.get_title() for axis in figure.axes[:6]] == ["kept", "recalled", "original"] * 2
    assert [figure.axes[6 * line].get_ylabel() for line in range(3)] == ["50 %", "75 %", "100 %"]
    assert borders(figure) == [set(), {WRONG.lower()}, set(), set(), {RIGHT.lower()}, set()] * 3
    mask = mask_first(study.orders["random"][0], 12)
    recalled = painted_vectors(memory, complete(memory.distil, batch.tokens, mask, memory.codebook).expected)
    kept_75, recalled_75, original_75 = (shown(axis) for axis in figure.axes[9:12])
    torch.testing.assert_close(kept_75, grey_out(batch.whole, mask, 4)[1])
    torch.testing.assert_close(recalled_75, to_unit(recalled)[1])
    torch.testing.assert_close(original_75, batch.truth[1])
    assert (picture_of(figure, tmp_path) != 255).any(axis=2).mean() > 0.1


def test_the_grid_of_strategies_has_a_line_for_each_below_the_originals(
    memory: Memory, batch: Batch, study: Study
) -> None:
    figure = strategies_grid(shown_study(memory, study, "argmax"), batch, 75, RGB)
    assert len(figure.axes) == 3 * 4
    assert [figure.axes[4 * line].get_ylabel() for line in range(3)] == ["original,\nnot masked", "random", "adaptive"]
    assert borders(figure) == [set()] * 4 + [set(), {WRONG.lower()}, set(), {RIGHT.lower()}] * 2
    torch.testing.assert_close(shown(figure.axes[0]), batch.truth[0])
    torch.testing.assert_close(shown(figure.axes[1]), batch.whole[0])
    mask = mask_first(study.orders["adaptive"][0], 12)
    recalled = memory.paint_tokens(complete(memory.distil, batch.tokens, mask, memory.codebook).indices)
    torch.testing.assert_close(shown(figure.axes[9]), to_unit(recalled)[0])


def test_without_a_classifier_no_picture_is_framed(memory: Memory, batch: Batch, study: Study) -> None:
    memory.classifier = None
    for figure in (
        recall_grid(shown_study(memory, study, "expected"), batch, "random", RGB),
        strategies_grid(shown_study(memory, study, "argmax"), batch, 75, RGB),
    ):
        assert not any(borders(figure))


def test_a_legend_outside_leaves_all_panels_room_for_their_curves(tmp_path: Path) -> None:
    """The data, the axes that hold them, and the colours of each curve in the PNG."""
    rows = rows_of(PLAN.strategies, (MSE, "mse_to_picture"))
    figure = rivals_figure([{**r, "rival": r["strategy"]} for r in rows])
    pixels = picture_of(figure, tmp_path).reshape(-1, 3)
    for axis in figure.axes:
        assert axis.get_position().width > 0.25 and axis.get_position().height > 0.4
        (left, right), (low, high) = axis.get_xlim(), axis.get_ylim()
        for line in axis.get_lines():
            if str(line.get_label()).startswith("_"):
                continue
            assert all(left <= x <= right and low <= y <= high for x, y in line.get_xydata())
            wanted = np.array(to_rgb(line.get_color())) * 255
            assert (abs(pixels - wanted).max(1) <= 2).sum() >= 20, "its colour is to be seen"


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_strategy_is_drawn_in_the_look_that_the_table_gives_it(strategy: str) -> None:
    plan = replace(PLAN, strategies=(strategy,))
    axis = strategies_figure(rows_of((strategy,), (MSE,)), plan, "expected", MSE, 9).axes[0]
    (line,) = (line for line in axis.get_lines() if line.get_label() == strategy)
    others = [look for name, look in strategy_looks().items() if name != strategy]
    assert strategy_looks()[strategy] not in others
    assert to_hex(line.get_color()) in {to_hex(part) for part in looks_like_colours(strategy_looks()[strategy])}


def looks_like_colours(look: object) -> list[str]:
    """The parts of a look that are colours."""
    parts = look if isinstance(look, tuple) else vars(look).values()
    return [part for part in parts if is_color_like(part) and not str(part).replace(".", "").isdigit()]
