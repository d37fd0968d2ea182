"""The study on a few dozen pictures: its tables, its figures, its score."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from masked_memory.handoff.memory import take_memory
from masked_memory.handoff.split import open_split
from masked_memory.measuring.curves import CURVES_HEADER
from masked_memory.measuring.paired import PER_PICTURE, read_per_picture
from masked_memory.pipeline.files import read_csv, read_json
from masked_memory.pipeline.metrics import to_unit
from masked_memory.recall.choosing import Choosing, choose_order
from masked_memory.settings.config import Config
from masked_memory.settings.strategies import STRATEGIES
from masked_memory.stages import reconstruct_masked
from masked_memory.stages.masking import mask_first, stored_bits
from toys import (
    DECODINGS,
    STAGES,
    STUDIED,
    UNTUNED,
    complete,
    copied,
    curves_of,
    newest,
    painted_vectors,
    refused_in_one_line,
    run_folders,
    tiny,
    undrawn,
)


def test_pictures_to_measure_are_chosen_by_the_seed(ran):
    split = open_split(ran.cfg)
    test, val = split.positions("test"), split.positions("val")
    assert (reconstruct_masked.choose_pictures(split, "test", None, 0) == test).all()
    assert (reconstruct_masked.choose_pictures(split, "test", 1000, 0) == test).all()
    both = reconstruct_masked.choose_pictures(split, "val+test", None, 0)
    assert sorted(both) == sorted([*val, *test])
    chosen = [list(reconstruct_masked.choose_pictures(split, "val+test", 4, seed)) for seed in (0, 0, 1)]
    assert chosen[0] == chosen[1] != chosen[2]
    assert all(len(set(one)) == 4 and one == sorted(one) and set(one) <= set(both) for one in chosen)


@pytest.mark.usefixtures("without_drawing")
def test_several_training_seeds_measure_the_same_pictures(ran, tmp_path):
    runs = copied(ran.runs, tmp_path / "runs", *list(STAGES)[:5])
    little = {"strategies": ["random"], "percentages": [50], "pictures": 3, "rivals": False}
    measured = []
    for seed in (0, 1, 2):
        reconstruct_masked.run(tiny(runs, ran.source, run__mlflow=False, run__seed=seed, reconstruct_masked=little))
        _, positions, _ = read_per_picture(newest(runs, "reconstruct_masked") / PER_PICTURE)
        measured.append(positions.tolist())
    assert measured[0] == measured[1] == measured[2] and len(measured[0]) == 3


# --- the study --------------------------------------------------------------------------------------------------------
TESTED = 6  # test pictures
ENDS = {0: 16, 50: 8, 100: 0}  # percent forgotten -> tokens kept of 16


def test_every_strategy_percentage_and_decoding_has_all_measures(ran):
    rows = ran.table("curves.csv")
    assert tuple(rows[0]) == CURVES_HEADER
    assert CURVES_HEADER == (
        "strategy", "percent", "decoding", "bits", "measure", "mean", "low", "high", "seed_sd", "seeds", "pictures",
    )  # fmt: skip
    curves = curves_of(rows)
    places = [(name, percent) for name in STUDIED for percent in (0, 50)] + [("any", 100)]
    whole = {f"{name}_to_{other}" for name in ("mse", "psnr", "ssim") for other in ("picture", "reconstruction")}
    whole |= {"classification_error", "disagreement"}
    within = {f"masked_{name}_to_reconstruction" for name in ("mse", "psnr", "ssim")}
    tokens = {"cross_entropy", "accuracy", "calibration_error"}
    expected = {(*place, decoding, name) for place in places for decoding in DECODINGS for name in whole}
    expected |= {(*place, decoding, name) for place in places if place[1] for decoding in DECODINGS for name in within}
    expected |= {(*place, "tokens", name) for place in places if place[1] for name in tokens}
    assert set(curves) == expected


def test_numbers_of_the_curves_are_numbers_with_their_intervals(ran):
    for (strategy, _, decoding, measure), row in curves_of(ran.table("curves.csv")).items():
        assert math.isfinite(float(row["mean"]))
        if measure == "calibration_error":
            assert row["low"] == row["high"] == row["seed_sd"] == ""
            continue
        assert float(row["low"]) <= float(row["mean"]) <= float(row["high"])
        drawn = strategy == "random" and decoding in (DECODINGS[-1], "tokens")
        assert int(row["seeds"]) == (2 if drawn else 1) and (row["seed_sd"] != "") == drawn
        assert int(row["pictures"]) == TESTED or measure == "masked_ssim_to_reconstruction"
        is_share = measure in ("classification_error", "disagreement", "accuracy")
        assert not is_share or 0 <= float(row["mean"]) <= 1


def test_with_nothing_forgotten_the_recalled_picture_is_the_plain_reconstruction(ran):
    curves = curves_of(ran.table("curves.csv"))
    plain = read_csv(ran.folders["vqvae_reconstruction"] / "pictures.csv")
    test = open_split(ran.cfg).positions("test")
    quantisation = np.mean([float(plain[position]["mse"]) for position in test])
    for strategy in STUDIED:
        for decoding in DECODINGS:
            value = {name: float(row["mean"]) for (*at, name), row in curves.items() if at == [strategy, 0, decoding]}
            assert value["mse_to_reconstruction"] == value["disagreement"] == 0
            assert value["ssim_to_reconstruction"] == pytest.approx(1, abs=1e-6)
            assert value["mse_to_picture"] == pytest.approx(quantisation, rel=1e-4)
            half = float(curves[strategy, 50, decoding, "mse_to_reconstruction"]["mean"])
            assert 0 < half < float(curves["any", 100, decoding, "mse_to_reconstruction"]["mean"])


def test_bits_are_those_of_the_stored_tokens_and_their_places(ran):
    """random's pattern is known beforehand, that of additive follows from the codes."""
    for row in ran.table("curves.csv"):
        kept = ENDS[int(row["percent"])]
        bits = stored_bits(16, kept, 16, fixed=row["strategy"] in ("random", "additive", "any"))
        assert float(row["bits"]) == pytest.approx(bits, abs=0.01)
        assert row["strategy"] != "random" or float(row["bits"]) == 4 * kept


@torch.no_grad()
def test_a_cell_of_the_curves_can_be_computed_by_hand(ran, machine):
    split = open_split(ran.cfg)
    handed = take_memory(ran.cfg, split, machine)
    memory, positions = handed.memory, split.positions("test")
    tokens = handed.indices.tokens(positions)
    choosing = Choosing(choosing_passes=4, candidates=2)
    order = choose_order("additive", memory, tokens, torch.Generator(), choosing)
    filled = complete(memory.distil, tokens, mask_first(order, 8), memory.codebook)
    whole = memory.paint_tokens(tokens)
    painted = {"argmax": memory.paint_tokens(filled.indices), "expected": painted_vectors(memory, filled.expected)}
    curves = curves_of(ran.table("curves.csv"))
    for decoding, pictures in painted.items():
        cell = {name: float(row["mean"]) for (*at, name), row in curves.items() if at == ["additive", 50, decoding]}
        error = (to_unit(pictures) - to_unit(whole)).square().mean()
        assert cell["mse_to_reconstruction"] == pytest.approx(float(error), rel=1e-4)
        seen, before = (
            memory.class_probabilities(p, t).argmax(1) for p, t in ((pictures, filled.indices), (whole, tokens))
        )
        wrong = (seen.numpy() != split.labels[positions]).mean()
        assert cell["classification_error"] == pytest.approx(wrong, abs=1e-5)
        assert cell["disagreement"] == pytest.approx(float((seen != before).float().mean()), abs=1e-5)
    right = (filled.indices == tokens)[mask_first(order, 8)].float().mean()
    assert float(curves["additive", 50, "tokens", "accuracy"]["mean"]) == pytest.approx(float(right), abs=1e-5)


def test_the_score_of_the_stage_is_the_mean_over_its_last_curve(ran):
    curves = curves_of(ran.table("curves.csv"))
    cells = [("adaptive", 0), ("adaptive", 50), ("any", 100)]
    means = [float(curves[*cell, "expected", "mse_to_reconstruction"]["mean"]) for cell in cells]
    assert ran.scores["reconstruct_masked"] == pytest.approx(np.mean(means), rel=1e-4)
    metrics = read_json(ran.folders["reconstruct_masked"] / "metrics.json")
    assert metrics["adaptive_mse_to_reconstruction_at_50"] == pytest.approx(means[1], rel=1e-4)
    assert metrics["any_mse_to_reconstruction_at_100"] == pytest.approx(means[2], rel=1e-4)


def test_the_error_splits_into_quantisation_and_completion(ran):
    rows, curves = ran.table("error_split.csv"), curves_of(ran.table("curves.csv"))
    places = [(row["strategy"], int(row["percent"])) for row in rows]
    assert places == list(dict.fromkeys((key[0], key[1]) for key in curves if key[2] == "expected"))
    for row, place in zip(rows, places, strict=True):
        part = {name: float(row[name]) for name in ("quantisation", "completion", "total", "total_minus_both")}
        assert part["total"] == pytest.approx(float(curves[*place, "expected", "mse_to_picture"]["mean"]), rel=1e-4)
        completion = float(curves[*place, "expected", "mse_to_reconstruction"]["mean"])
        assert part["completion"] == pytest.approx(completion, rel=1e-4)
        rest = part["total"] - part["quantisation"] - part["completion"]
        assert part["total_minus_both"] == pytest.approx(rest, abs=1e-7)
        if place[1] == 0:
            assert part["total"] == pytest.approx(part["quantisation"], rel=1e-4)


def test_all_rivals_are_measured_on_the_same_masks(ran):
    rows = ran.table("rivals.csv")
    rivals = list(dict.fromkeys(row["rival"] for row in rows))
    assert len(rivals) == 9 and "published recipe" not in rivals
    found = {(row["rival"], int(row["percent"]), row["measure"]): row for row in rows}
    for rival in rivals:
        assert {percent for name, percent, _ in found if name == rival} == {0, 50, 100}
        assert float(found[rival, 0, "mse_to_reconstruction"]["mean"]) < 1e-10
        assert float(found[rival, 50, "mse_to_reconstruction"]["mean"]) > 0
        pictures = 2 if rival == "biharmonic inpainting" else TESTED
        assert int(found[rival, 50, "mse_to_picture"]["pictures"]) == pictures
    curves = curves_of(ran.table("curves.csv"))
    for percent, strategy in ((50, "random"), (100, "any")):  # one seed each in argmax, and at 100 %
        cell = curves[strategy, percent, "argmax", "mse_to_reconstruction"]
        ours = float(found["ours, argmax", percent, "mse_to_reconstruction"]["mean"])
        assert ours == pytest.approx(float(cell["mean"]), rel=1e-4)


def test_figures_and_what_folders_of_pictures_do_not_have(ran):
    folder = ran.folders["reconstruct_masked"]
    figures = {file.stem for file in (folder / "figures").glob("*.png")}
    measures = {"mse_to_reconstruction", "mse_to_picture", "ssim_to_reconstruction", "classification_error",
                "disagreement", "calibration_error", "cross_entropy"}  # fmt: skip
    others = {"decodings", "error_split", "rivals", "grid_random", "grid_adaptive", "grid_strategies"}
    assert figures == measures | others
    assert not (folder / "context.csv").exists()  # nobody said where things usually are


# --- the demo's context -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> tuple[Config, Path]:
    """A small part of the embedded demo through all stages: its settings, and the run folder of the study."""
    runs = tmp_path_factory.mktemp("demo") / "runs"
    one_epoch = {f"{stage}__epochs": 1 for stage in ("train_vqvae", "train_classifier", "train_distil")}
    data = {"source": "digits_in_context", "image_size": 32, "images_per_class": 14}
    study = {"strategies": ["random", "half"], "decodings": ["argmax"], "rivals": False}
    settings = {"run__mlflow": False, "train_vqvae__stride": 8, "data": data, "reconstruct_masked": study}
    cfg = tiny(runs, data["source"], **settings, **one_epoch, **UNTUNED)
    with undrawn():
        for stage in STAGES.values():
            stage.run(cfg)
    return cfg, newest(runs, "reconstruct_masked")


def test_context_tells_usual_places_from_others(demo):
    cfg, folder = demo
    rows = read_csv(folder / "context.csv")
    assert list(rows[0]) == [
        "strategy", "percent", "judge", "group", "pictures", "classification_error", "wrong_as_context_suggests",
    ]  # fmt: skip
    groups: dict[tuple[str, int], dict[str, dict[str, str]]] = {}
    for row in rows:
        groups.setdefault((row["strategy"], int(row["percent"])), {})[row["group"]] = row
    assert set(groups) == {(name, percent) for name in ("random", "half") for percent in (0, 50)} | {("any", 100)}
    split = open_split(cfg)
    tested = [split.manifest[position] for position in split.positions("test")]
    usual = sum(row["congruent"] == "true" for row in tested)
    assert 0 < usual < len(tested), "both kinds are there to be told apart"
    curves = curves_of(read_csv(folder / "curves.csv"))
    for place, found in groups.items():
        counts = {group: int(row["pictures"]) for group, row in found.items()}
        assert counts == {"congruent": usual, "incongruent": len(tested) - usual}
        wrong = sum(counts[group] * float(row["classification_error"]) for group, row in found.items())
        overall = float(curves[*place, "argmax", "classification_error"]["mean"])
        assert wrong / len(tested) == pytest.approx(overall, abs=1e-4)
        assert found["congruent"]["wrong_as_context_suggests"] == ""
        assert 0 <= float(found["incongruent"]["wrong_as_context_suggests"] or 0) <= 1
    assert (folder / "figures" / "context.png").is_file()


def test_a_study_without_rivals_has_no_tables_of_them(demo):
    _, folder = demo
    assert not (folder / "rivals.csv").exists()
    assert "rivals" not in {file.stem for file in (folder / "figures").glob("*.png")}
    assert (folder / "error_split.csv").is_file()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--reconstruct_masked.strategies", "[random, best]"], ["strategies", "'best'", *STRATEGIES]),
        (["--reconstruct_masked.percentages", "[50, 101]"], ["percentages", "is 101; expected"]),
        (["--reconstruct_masked.tell_class", "true"], ["told the class", "condition_on_class true"]),
        (["--reconstruct_masked.guidance_scale", "0"], ["guidance_scale is 0, but no class is told"]),
        (["--reconstruct_masked.rival_distil", "nowhere"], ["nowhere is neither a run folder"]),
    ],
)
def test_a_study_that_cannot_be_made_is_one_line_and_leaves_no_run_folder(ran, typed, options, said):
    before = run_folders(ran.runs)
    status, _, err = typed("reconstruct_masked", ran.runs, ran.source, *options)
    refused_in_one_line(status, err, *said)
    assert run_folders(ran.runs) == before


# --- each number in its column ----------------------------------------------------------------------------------------


def test_numbers_of_rivals_and_curves_stand_in_their_columns(ran):
    """With nothing forgotten all errors are those of the plain reconstruction, of which each picture is known."""
    known = read_csv(ran.folders["vqvae_reconstruction"] / "pictures.csv")
    test = open_split(ran.cfg).positions("test")
    for name in ("mse", "psnr"):
        each = np.array([float(known[position][name]) for position in test])
        of_rivals = [row for row in ran.table("rivals.csv") if row["rival"] != "biharmonic inpainting"]
        rows = [row for row in of_rivals if (row["percent"], row["measure"]) == ("0", f"{name}_to_picture")]
        assert len(rows) == 8, "one for each rival but the slow and the published one"
        curves = curves_of(ran.table("curves.csv"))
        rows += [curves[strategy, 0, "argmax", f"{name}_to_picture"] for strategy in STUDIED]
        for row in rows:
            mean, low, high = (float(row[column]) for column in ("mean", "low", "high"))
            assert mean == pytest.approx(each.mean(), rel=1e-4)
            assert each.min() <= low < mean < high <= each.max() and int(row["pictures"]) == len(test)


def test_the_spread_of_the_seeds_and_their_number_are_not_exchanged(ran):
    for (strategy, percent, decoding, measure), row in curves_of(ran.table("curves.csv")).items():
        if (strategy, percent, decoding, measure) == ("random", 50, "expected", "mse_to_picture"):
            spread, width = float(row["seed_sd"]), float(row["high"]) - float(row["low"])
            assert row["seeds"] == "2" and 0 < spread < width and row["pictures"] == str(TESTED)
            return
    pytest.fail("there is no such row")
