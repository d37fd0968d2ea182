"""train_painter.py on a few dozen pictures: what it leaves behind, killed runs, how the study takes it, refusals."""

from pathlib import Path

import optuna
import pytest
import torch

from masked_memory.handoff.memory import take_memory
from masked_memory.handoff.split import open_split
from masked_memory.handoff.vqvae import take_indices
from masked_memory.pipeline.files import InputError, read_csv, read_json, write_json
from masked_memory.pipeline.machine import Machine, Stream, generator
from masked_memory.pipeline.memory_check import PROBED
from masked_memory.pipeline.metrics import mse, to_unit
from masked_memory.pipeline.runs import read_best
from masked_memory.recall.fillers import distil_filler
from masked_memory.recall.hole import dig
from masked_memory.rivals import train_painter
from masked_memory.settings.train_painter import TrainPainterSection
from masked_memory.stages import reconstruct_masked
from masked_memory.stages.masking import random_mask
from toys import STAGES, Ran, Reads, copied, curves_of, newest, numbers, tiny, undrawn


@pytest.fixture(scope="module")
def runs(ran: Ran, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All stages, and a painter."""
    runs = copied(ran.runs, tmp_path_factory.mktemp("painter") / "runs", *STAGES)
    with undrawn():
        train_painter.run(tiny(runs, ran.source, run__mlflow=False))
    return runs


def first_of(runs: Path) -> Path:
    """The painter of the fixture: tests train further ones."""
    return min((runs / "train_painter").glob("2*"))


def test_a_painter_is_kept_for_one_distilbert(runs: Path, ran: Ran) -> None:
    (key,) = read_best(runs, "train_painter")
    distil, folder = ran.folders["train_distil"].name, first_of(runs)
    assert key.endswith(f"-painter for {distil}")
    meta = read_json(folder / "model" / "meta.json")
    assert meta["distil"] == distil and meta["vqvae"] == ran.folders["train_vqvae"].name
    inputs = read_json(folder / "run.json")["inputs"]
    assert set(inputs) == {"data_split", "train_vqvae", "vqvae_reconstruction", "train_distil"}
    assert {file.stem for file in (folder / "figures").iterdir()} == {"curves", "errors", "painted"}


def test_errors_are_those_of_the_study_on_test_masks(runs: Path, ran: Ran, machine: Machine) -> None:
    """Worked out anew from the memory that a later stage takes, with and without the painter."""
    rows = {(row["painted_by"], row["percent"]): float(row["mse"]) for row in read_csv(first_of(runs) / "errors.csv")}
    assert list(rows) == [(name, percent) for name in ("painter", "decoder") for percent in ("25", "75")]
    for name, asked in (("painter", str(first_of(runs))), ("decoder", None)):
        cfg = tiny(runs, ran.source, run__mlflow=False, reconstruct_masked__painter=asked)
        split = open_split(cfg)
        handed = take_memory(cfg, split, machine)
        memory = handed.memory
        tokens = take_indices(cfg, "best", split, handed.vqvae).tokens(split.positions("test"))
        mask = random_mask(len(tokens), tokens.shape[1], 0.75, generator(0, Stream.PAINTER_TEST_MASKS, 75))
        with torch.no_grad():
            painted = memory.paint(distil_filler(memory).fill(dig(tokens, mask), "expected", None))
            error = mse(to_unit(painted), to_unit(memory.paint_tokens(tokens))).mean()
        assert rows[name, "75"] == pytest.approx(float(error), rel=1e-4)


def test_training_lowers_the_error(runs: Path, ran: Ran, machine: Machine) -> None:
    """More epochs than in the other tests, from the decoder on, on the masks of validation."""
    cfg = tiny(runs, ran.source, run__mlflow=False, train_painter={"epochs": 12, "learning_rate": 2e-3})
    with undrawn():
        train_painter.run(cfg)
    folder = newest(runs, "train_painter")
    history = [line for line in (folder / "metrics.jsonl").read_text().splitlines() if line]
    rows = {(row["painted_by"], row["percent"]): float(row["mse"]) for row in read_csv(folder / "errors.csv")}
    assert len(history) > 2 and rows["painter", "75"] < rows["decoder", "75"]


@pytest.mark.usefixtures("without_drawing")
def test_the_study_paints_expected_vectors_with_it(runs: Path, ran: Ran) -> None:
    few = {"strategies": ["random"], "percentages": [50], "seeds": 1, "decodings": ["argmax", "expected"]}
    tables = {}
    for asked in (None, str(first_of(runs))):
        settings = {**few, "painter": asked}
        reconstruct_masked.run(tiny(runs, ran.source, run__mlflow=False, reconstruct_masked=settings))
        study = newest(runs, "reconstruct_masked")
        tables[asked] = (
            curves_of(read_csv(study / "curves.csv")),
            {row["rival"] for row in read_csv(study / "rivals.csv")},
        )
        assert read_json(study / "run.json")["inputs"].get("train_painter") == asked
    (plain, without), (painted, with_it) = tables.values()
    key = ("random", 50, "expected", "mse_to_picture")
    assert plain["random", 50, "argmax", "mse_to_picture"] == painted["random", 50, "argmax", "mse_to_picture"]
    assert plain[key] != painted[key]
    assert with_it - without == {"ours, expected, painter", "ours, expected, painter, kept cells' pixels"}


@pytest.mark.usefixtures("without_drawing")
def test_killed_and_resumed_equals_never_killed(runs: Path, ran: Ran, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = tiny(runs, ran.source, run__mlflow=False, run__seed=7, train_painter={"epochs": 3, "patience": 9})
    learner = train_painter.PainterLearner
    plain, steps = learner.step, []

    def dying(
        self: train_painter.PainterLearner, rows: torch.Tensor, draws: torch.Generator
    ) -> dict[str, torch.Tensor]:
        if len(rows) > max(PROBED):  # smaller steps are made to count what they take in memory
            steps.append(rows)
        if len(steps) == 2 * (self.count // 8) + 2:
            raise KeyboardInterrupt
        return plain(self, rows, draws)

    with monkeypatch.context() as patched:
        patched.setattr(learner, "step", dying)
        with pytest.raises(KeyboardInterrupt):
            train_painter.run(cfg)
    killed = newest(runs, "train_painter")
    torch.manual_seed(99)
    train_painter.run(cfg, resume=True)
    assert newest(runs, "train_painter") == killed and read_json(killed / "run.json")["status"] == "finished"
    train_painter.run(cfg)
    whole = newest(runs, "train_painter")
    assert whole != killed and numbers(whole) == numbers(killed)
    for file in ("model/model.safetensors", "metrics.jsonl", "errors.csv"):
        assert (killed / file).read_bytes() == (whole / file).read_bytes(), file


def test_it_trains_in_bf16_too(runs: Path, ran: Ran) -> None:
    """The score is near that in float32."""
    cfg = tiny(runs, ran.source, run__mlflow=False)
    trial = optuna.trial.FixedTrial({})
    half = train_painter.run(tiny(runs, ran.source, run__mlflow=False, run__precision="bf16"), trial)
    assert half == pytest.approx(train_painter.run(cfg, trial), rel=0.05)


@pytest.mark.system
@pytest.mark.usefixtures("without_drawing")
def test_every_setting_is_read(runs: Path, ran: Ran, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = Reads(monkeypatch)
    space = {"learning_rate": {"low": 1e-3, "high": 2e-3}}
    section = {"epochs": 1, "retrain": True, "tune": {"trials": 1, "epochs": 1, "space": space}}
    train_painter.run(tiny(runs, ran.source, run__mlflow=False, train_painter=section))
    assert {("TrainPainterSection", name) for name in TrainPainterSection.model_fields} - reads.seen == set()


def test_a_trial_leaves_no_run_folder(runs: Path, ran: Ran) -> None:
    before = set((runs / "train_painter").iterdir())
    score = train_painter.run(tiny(runs, ran.source, run__mlflow=False), optuna.trial.FixedTrial({}))
    assert 0 < score < 1 and set((runs / "train_painter").iterdir()) == before


def test_what_cannot_be_trained_is_refused(runs: Path, ran: Ran) -> None:
    with pytest.raises(InputError, match=r"1, which masks none of 16 tokens; type --train_painter.percentages"):
        train_painter.run(tiny(runs, ran.source, run__mlflow=False, train_painter__percentages=[1, 50]))


@pytest.mark.parametrize("name", ["vqvae", "distil", "codebook"])
def test_a_painter_for_other_models_is_refused(
    runs: Path, ran: Ran, tmp_path: Path, machine: Machine, name: str
) -> None:
    other = copied(runs, tmp_path / "runs", *STAGES, "train_painter")
    folder = first_of(other)
    cfg = tiny(other, ran.source, run__mlflow=False, reconstruct_masked__painter=str(folder))
    take_memory(cfg, open_split(cfg), machine)
    file = folder / "model" / "meta.json"
    write_json(file, read_json(file) | {name: "another"})
    with pytest.raises(
        InputError, match=rf"{name} is another, but .* is needed here; type: python -m masked_memory train_painter"
    ):
        take_memory(cfg, open_split(cfg), machine)


def test_a_painter_that_is_not_there_is_refused_with_the_command(ran: Ran, machine: Machine) -> None:
    cfg = tiny(ran.runs, ran.source, run__mlflow=False, reconstruct_masked__painter="best")
    with pytest.raises(InputError, match=r"no finished run of train_painter for DistilBERT .*--train_painter\.distil"):
        take_memory(cfg, open_split(cfg), machine)
