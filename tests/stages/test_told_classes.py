"""Classes that are told, guidance, and the published recipe."""

from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import yaml

from masked_memory.handoff.split import open_split
from masked_memory.models import distilbert
from masked_memory.models.distilbert import load_distilbert
from masked_memory.pipeline.files import read_csv, read_json
from masked_memory.stages import reconstruct_masked, train_distil
from toys import DECODINGS, ROOT, copied, curves_of, newest, refused_in_one_line, run_folders, tiny, undrawn

# --- classes that are told, and the published recipe ------------------------------------------------------------------


class Told(NamedTuple):
    """Three DistilBERTs on the split of `ran`: told the classes, told them always, and by the published recipe."""

    runs: Path
    source: Path
    told: Path
    always_told: Path
    published: Path
    masks: list[tuple[bool, ...]]  # of all grids in the two epochs in which `published` was trained

    def study(self, **changes: object) -> Path:
        """The run folder of a study with the DistilBERT that was told the classes."""
        section = {"distil": str(self.told), **changes}
        with undrawn():
            reconstruct_masked.run(tiny(self.runs, self.source, run__mlflow=False, reconstruct_masked=section))
        return newest(self.runs, "reconstruct_masked")


#: Long enough that the class counts: with everything forgotten it is all there is
LEARNED = {"condition_on_class": True, "label_drop": 0.3, "epochs": 30, "patience": 30, "learning_rate": 0.02,
           "batch_size": 4, "tune": {"trials": 0}}  # fmt: skip


def published_recipe() -> dict[str, object]:
    """presets/published_study.yaml's train_distil, as small and short as the other tiny models."""
    recipe = yaml.safe_load((ROOT / "presets" / "published_study.yaml").read_text())["train_distil"]
    return recipe | {"dim": 16, "layers": 1, "heads": 2, "epochs": 2, "tune": {"trials": 0}}


@pytest.fixture(scope="module")
def told(ran, tmp_path_factory) -> Told:
    runs = tmp_path_factory.mktemp("told") / "runs"
    copied(ran.runs, runs, "data_split", "train_vqvae", "vqvae_reconstruction", "train_classifier")
    masks: list[tuple[bool, ...]] = []
    plain = distilbert.masked_cross_entropy

    def noting(model, tokens, mask, labels=None):
        if model.training:
            masks.extend(map(tuple, mask.tolist()))
        return plain(model, tokens, mask, labels)

    def trained(section: dict[str, object]) -> Path:
        train_distil.run(tiny(runs, ran.source, run__mlflow=False, train_distil=section))
        return newest(runs, "train_distil")

    with undrawn():
        folders = [trained(LEARNED), trained(LEARNED | {"label_drop": 0, "epochs": 1})]
        with pytest.MonkeyPatch.context() as monkeypatch:
            monkeypatch.setattr(train_distil, "masked_cross_entropy", noting)
            folders.append(trained(published_recipe()))
    return Told(runs, ran.source, *folders, masks)


@pytest.fixture(scope="module")
def untold(told) -> Path:
    """A study in which no class is told, with the published recipe among the rivals."""
    return told.study(rival_distil=str(told.published))


def test_the_published_recipe_trains_and_stands_among_the_rivals(told, untold):
    """The zero vector for MASK, and one mask of 75 % for each picture, drawn once; all kept through training."""
    weights, learned = (
        load_distilbert(folder / "model", torch.device("cpu")).distilbert.embeddings.word_embeddings.weight
        for folder in (told.published, told.told)
    )
    assert (weights[16] == 0).all() and (weights[:16] != 0).any(1).all() and (learned[16] != 0).any()
    pictures = len(open_split(tiny(told.runs, told.source)).positions("train"))
    assert {sum(mask) for mask in told.masks} == {12}
    assert len(set(told.masks)) <= pictures < len(told.masks), "two epochs with the same masks"
    assert read_json(told.published / "model" / "meta.json")["label_drop"] is None
    found = {(row["rival"], int(row["percent"]), row["measure"]): row for row in read_csv(untold / "rivals.csv")}
    theirs = {name for name, _, _ in found if name.startswith("published recipe")}
    assert theirs == {"published recipe, argmax", "published recipe, expected"}
    assert {percent for name, percent, _ in found if name == "published recipe, argmax"} == {0, 50, 100}
    error = [
        float(found["published recipe, argmax", percent, "mse_to_reconstruction"]["mean"]) for percent in (0, 50, 100)
    ]
    assert error[0] < 1e-10 < error[1]
    assert error[2] != float(found["ours, argmax", 100, "mse_to_reconstruction"]["mean"]), "another model was asked"
    assert read_json(untold / "run.json")["inputs"]["rival_distil"] == str(told.published)


def test_a_class_that_is_told_with_guidance_is_recalled(told, untold):
    """With everything forgotten and nothing told, all three classes are recalled as one."""
    folder = told.study(tell_class=True, guidance_scale=2, strategies=["additive"])
    with_class, without = (curves_of(read_csv(each / "curves.csv")) for each in (folder, untold))
    assert set(with_class) == {key for key in without if key[0] in ("additive", "any")}
    for decoding in DECODINGS:
        for name in ("mse_to_picture", "classification_error"):
            key = ("additive", 0, decoding, name)
            assert with_class[key] == without[key]
    errors = [float(each["any", 100, "argmax", "classification_error"]["mean"]) for each in (with_class, without)]
    assert errors[0] < errors[1] == pytest.approx(2 / 3, abs=1e-5)
    losses = [float(each["any", 100, "tokens", "cross_entropy"]["mean"]) for each in (with_class, without)]
    assert losses[0] < losses[1]
    assert read_json(told.told / "model" / "meta.json")["label_drop"] == 0.3


def test_without_the_strategy_random_there_are_no_rivals_and_this_is_said(told, capsys):
    """Several passes, too: what they predict before and after something is filled in is no one prediction to judge."""
    folder = told.study(strategies=["half"], decodings=["expected", "sample"], percentages=[50], passes=3)
    assert "rivals.csv is skipped" in capsys.readouterr().out
    assert not (folder / "rivals.csv").exists()
    curves = curves_of(read_csv(folder / "curves.csv"))
    assert {key[:3] for key in curves} == {("half", 50, "expected"), ("half", 50, "sample")}


def test_my_class_can_be_told_with_guidance_where_the_model_knows_both_ways(told, mine, typed):
    own = ["--reconstruct_masked.distil", told.told, "--image", mine.picture, "--box", 3, 2, 17, 9]
    completed = []
    for name in ("class0", "class1"):
        guided = [*own, "--class", name, "--reconstruct_masked.guidance_scale", 2]
        status, out, err = typed("reconstruct_masked", told.runs, told.source, *guided)
        assert status == 0, err
        completed.append((Path(out.splitlines()[-1]) / "own" / "picture_completed.png").read_bytes())
    assert completed[0] != completed[1]
    before = run_folders(told.runs)
    status, _, err = typed("reconstruct_masked", told.runs, told.source, *own, "--class", "cow")
    refused_in_one_line(status, err, "--class cow is not a class of the data; expected one of: class0, class1, class2")
    assert run_folders(told.runs) == before


GUIDED = ["--reconstruct_masked.guidance_scale", 2]
TELL = ["--reconstruct_masked.tell_class", "true"]


@pytest.mark.parametrize("how", ["study", "own picture"])
def test_guidance_of_a_model_that_was_always_told_the_class_is_refused(told, mine, typed, how):
    before = run_folders(told.runs)
    options = TELL if how == "study" else ["--image", mine.picture, "--class", "class0"]
    distil = ["--reconstruct_masked.distil", told.always_told]
    status, _, err = typed("reconstruct_masked", told.runs, told.source, *distil, *options, *GUIDED)
    refused_in_one_line(status, err, str(told.always_told), "guidance_scale must be 1", "--train_distil.label_drop 0.1")
    assert run_folders(told.runs) == before


def test_guidance_with_a_class_that_is_told_only_for_the_study_is_refused(told, mine, typed):
    """tell_class is about the pictures of the data, --class about my own."""
    before = run_folders(told.runs)
    options = ["--reconstruct_masked.distil", told.told, "--image", mine.picture, *TELL, *GUIDED]
    status, _, err = typed("reconstruct_masked", told.runs, told.source, *options)
    refused_in_one_line(status, err, "guidance_scale is 2, but no class is told")
    assert run_folders(told.runs) == before
