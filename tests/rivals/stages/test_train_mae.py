"""train_mae.py on a few dozen pictures: what it leaves behind, killed runs, the rival in the study, what is refused."""

from pathlib import Path

import numpy as np
import optuna
import pytest
import torch

from masked_memory.handoff.split import open_split
from masked_memory.handoff.vqvae import take_vqvae
from masked_memory.pipeline.files import InputError, read_csv, read_json, write_json
from masked_memory.pipeline.memory_check import PROBED
from masked_memory.pipeline.metrics import mse, to_unit
from masked_memory.pipeline.runs import read_best
from masked_memory.recall.simple_fillers import MeanPicture
from masked_memory.rivals import train_mae
from masked_memory.rivals.fillers import MAEFiller
from masked_memory.rivals.handoff.trained_rivals import take_rivals
from masked_memory.settings import loading
from masked_memory.settings.config import Config
from masked_memory.settings.train_mae import TrainMAESection
from masked_memory.stages import reconstruct_masked
from toys import CPU, STAGES, Ran, Reads, copied, fake_split, newest, numbers, tiny, tiny_mae, undrawn

KINDS = ("originals", "reconstructions")


@pytest.fixture(scope="module")
def runs(ran: Ran, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All stages, and a masked autoencoder of each kind of picture."""
    runs = copied(ran.runs, tmp_path_factory.mktemp("mae") / "runs", *STAGES)
    with undrawn():
        for kind in KINDS:
            train_mae.run(settings(runs, ran, inputs=kind))
    return runs


def settings(runs: Path, ran: Ran, **section: object) -> Config:
    return tiny(runs, ran.source, run__mlflow=False, train_mae=section)


def test_each_kind_of_picture_has_its_own_best(runs: Path, ran: Ran) -> None:
    best = read_best(runs, "train_mae")
    assert [key.rpartition("-mae of ")[2] for key in best] == list(KINDS)
    for kind, entry in zip(KINDS, best.values(), strict=True):
        folder = runs / "train_mae" / entry["run"]
        meta, record = read_json(folder / "model" / "meta.json"), read_json(folder / "run.json")
        assert meta["inputs"] == kind and meta["split_hash"] == open_split(ran.cfg).hash and meta["grid"] == 4
        assert set(record["inputs"]) == {"data_split", "train_vqvae"} and record["score"] == entry["score"]
        assert {file.stem for file in (folder / "figures").iterdir()} == {"curves", "errors", "completed"}


def test_errors_of_test_stand_beside_the_mean_picture(runs: Path, ran: Ran) -> None:
    best, split = read_best(runs, "train_mae"), open_split(ran.cfg)
    folder = runs / "train_mae" / next(iter(best.values()))["run"]
    rows = {(row["model"], row["percent"]): row for row in read_csv(folder / "errors.csv")}
    assert list(rows) == [(name, p) for name in ("masked autoencoder", "mean picture") for p in ("25", "100")]
    pictures = to_unit(split.pictures(split.positions("test")))
    mean = to_unit(split.pictures(split.positions("train"))).mean(0)
    expected = float(mse(pictures, mean.expand_as(pictures)).mean())
    row = rows["mean picture", "100"]
    assert float(row["masked_mse"]) == pytest.approx(expected, rel=1e-4) and row["mse"] == row["masked_mse"]
    metrics, part = read_json(folder / "metrics.json"), rows["masked autoencoder", "25"]
    assert float(part["mse"]) == pytest.approx(metrics["test_mse_at_25"], rel=1e-4)
    assert metrics["test_masked_mse_at_25"] == pytest.approx(4 * metrics["test_mse_at_25"], rel=1e-4)


@pytest.mark.usefixtures("without_drawing")
def test_both_stand_among_the_rivals_of_the_study(runs: Path, ran: Ran) -> None:
    """The best of the kind that train_mae.inputs says, or the one that is named."""
    best = read_best(runs, "train_mae")
    folders = {key.rpartition(" ")[2]: runs / "train_mae" / each["run"] for key, each in best.items()}
    asked = {"originals": "best", "reconstructions": str(folders["reconstructions"])}
    few = {"strategies": ["random"], "percentages": [50], "seeds": 1}
    for kind, name in asked.items():
        cfg = tiny(runs, ran.source, run__mlflow=False, reconstruct_masked={**few, "rival_mae": name})
        reconstruct_masked.run(cfg)
        study = newest(runs, "reconstruct_masked")
        assert read_json(study / "run.json")["inputs"]["rival_mae"] == str(folders[kind])
        rivals = {row["rival"] for row in read_csv(study / "rivals.csv")}
        assert {name for name in rivals if "autoencoder" in name} == {f"masked autoencoder of {kind}"}


@pytest.mark.usefixtures("without_drawing")
def test_killed_and_resumed_equals_never_killed(runs: Path, ran: Ran, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = tiny(runs, ran.source, run__mlflow=False, run__seed=7, train_mae={"epochs": 3, "patience": 9})
    plain, steps = train_mae.MAELearner.step, []

    def dying(learner: train_mae.MAELearner, rows: torch.Tensor, draws: torch.Generator) -> dict[str, torch.Tensor]:
        if len(rows) > max(PROBED):  # smaller steps are made to count what they take in memory
            steps.append(rows)
        if len(steps) == 2 * (learner.count // 8) + 2:
            raise KeyboardInterrupt
        return plain(learner, rows, draws)

    with monkeypatch.context() as patched:
        patched.setattr(train_mae.MAELearner, "step", dying)
        with pytest.raises(KeyboardInterrupt):
            train_mae.run(cfg)
    killed = newest(runs, "train_mae")
    torch.manual_seed(99)
    train_mae.run(cfg, resume=True)
    assert newest(runs, "train_mae") == killed and read_json(killed / "run.json")["status"] == "finished"
    train_mae.run(cfg)
    whole = newest(runs, "train_mae")
    assert whole != killed and numbers(whole) == numbers(killed)
    for file in ("model/model.safetensors", "metrics.jsonl", "errors.csv"):
        assert (killed / file).read_bytes() == (whole / file).read_bytes(), file


def test_it_trains_in_bf16_too(runs: Path, ran: Ran) -> None:
    """The score is near that in float32."""
    trial = optuna.trial.FixedTrial({})
    half = train_mae.run(tiny(runs, ran.source, run__mlflow=False, run__precision="bf16"), trial)
    assert half == pytest.approx(train_mae.run(settings(runs, ran), trial), rel=0.05)


@pytest.mark.usefixtures("without_drawing")
def test_every_setting_is_read(runs: Path, ran: Ran, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = Reads(monkeypatch)
    space = {"learning_rate": {"low": 1e-3, "high": 2e-3}}
    tuned = {"retrain": True, "tune": {"trials": 1, "epochs": 1, "space": space}}
    train_mae.run(settings(runs, ran, epochs=1, **tuned))
    fields = {("TrainMAESection", name) for name in TrainMAESection.model_fields}
    assert fields - reads.seen == set()


def test_a_trial_leaves_no_run_folder(runs: Path, ran: Ran) -> None:
    before = set((runs / "train_mae").iterdir())
    score = train_mae.run(settings(runs, ran), optuna.trial.FixedTrial({}))
    assert 0 < score < 1 and set((runs / "train_mae").iterdir()) == before


def test_reconstructions_are_those_of_the_vqvae_to_the_nearest_of_256_values(runs: Path, ran: Ran) -> None:
    split = open_split(ran.cfg)
    vqvae = take_vqvae(ran.cfg, "best", split, CPU)
    shown, positions = train_mae.as_reconstructions(split, vqvae), split.positions("val")
    tokens = vqvae.model.encode_indices(split.pictures(positions)).flatten(1)
    painted = vqvae.paint(tokens)
    assert (shown.pictures(positions) - painted).abs().max() <= 1 / 255 + 1e-6
    assert (shown.pictures(positions) - split.pictures(positions)).abs().max() > 0.1
    assert np.array_equal(shown.positions("val"), positions)


@pytest.mark.parametrize("augmentation", ["none", "shift", "shift_flip"])
def test_a_step_is_the_mean_error_over_all_hidden_pixels(machine, augmentation: str) -> None:
    """In whatever parts a batch is taken; pictures of one grey are the same moved and mirrored."""
    split = fake_split(["train"] * 6 + ["val"] * 2)
    split.images[:] = np.arange(8, dtype=np.uint8).reshape(8, 1, 1, 1) * 30
    section = TrainMAESection(dim=16, heads=2, decoder_dim=8, augmentation=augmentation)
    learner = train_mae.MAELearner(section, split, 4, machine, 0, with_val=False)
    seen: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
    learner.model.register_forward_hook(lambda model, given, painted: seen.append((*given, painted)))
    loss = learner.step(torch.arange(6), torch.Generator().manual_seed(0))["loss"].item()
    pictures, masks, painted = (torch.cat(parts) for parts in zip(*seen, strict=True))
    assert len(pictures) == 6 and masks.sum(1).tolist() == sorted(masks.sum(1).tolist())
    hidden = masks.view(6, 1, 4, 4).repeat_interleave(4, 2).repeat_interleave(4, 3).expand_as(pictures)
    assert loss == pytest.approx(((painted - pictures) / 2)[hidden].square().mean().item(), rel=1e-5)


def test_what_a_filler_leaves_wrong_is_measured_within_and_over(machine) -> None:
    """Black pictures, filled in white: an error of one wherever a cell is hidden."""
    split = fake_split(["val"] * 3)
    split.images[:] = 0
    masks = train_mae.masked_cells("val", 3, 16, [25, 100], 0)
    rows = train_mae.evaluate(MeanPicture(torch.ones(3, 16, 16), 4), split, np.arange(3), masks, machine)
    assert [(row["percent"], row["masked_mse"], row["mse"]) for row in rows] == [(25, 1.0, 0.25), (100, 1.0, 1.0)]
    again = train_mae.masked_cells("val", 3, 16, [25], 0)[25]
    assert torch.equal(again, masks[25]) and not torch.equal(again, train_mae.masked_cells("test", 3, 16, [25], 0)[25])
    kept = train_mae.fill_cells(MAEFiller("", tiny_mae()), split.pictures(np.arange(3)), masks[25])
    assert (kept == -1).float().mean() >= 0.75, "what is visible stays black"


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"percentages": [1, 50]}, r'1, which masks none of 16 tokens; type --train_mae.percentages "\[50\]"'),
        ({"vqvae": "nowhere"}, "nowhere is neither a run folder"),
    ],
)
def test_what_cannot_be_trained_is_refused(runs: Path, ran: Ran, section: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        train_mae.run(settings(runs, ran, **section))


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"dim": 30}, "dim is 30; expected a multiple of 4 and of heads 4"),
        ({"tune": {"space": {"inputs": list(KINDS)}}}, "expected the same pictures in all trials of a study"),
    ],
)
def test_settings_that_do_not_fit_are_refused(section: dict[str, object], message: str) -> None:
    with pytest.raises(loading.ConfigError, match=message):
        loading.check({"train_mae": section})


def test_a_rival_that_does_not_fit_is_refused(runs: Path, ran: Ran, tmp_path: Path) -> None:
    """Not there; made for other tokens; trained on what is to be measured."""
    cfg = tiny(ran.runs, ran.source, run__mlflow=False, reconstruct_masked__rival_mae="best")
    with pytest.raises(InputError, match=r"no finished run of train_mae for originals and VQ-VAE .*train_mae.inputs"):
        reconstruct_masked.run(cfg)
    other = copied(runs, tmp_path / "runs", *STAGES, "train_mae")
    folder = other / "train_mae" / next(iter(read_best(other, "train_mae").values()))["run"]
    cfg = tiny(other, ran.source, run__mlflow=False, reconstruct_masked={"rival_mae": "best", "part": "val+test"})
    split, kept = open_split(cfg), (folder / "config.yaml").read_text()
    vqvae = take_vqvae(cfg, "best", split, CPU)
    assert take_rivals(cfg, split, vqvae).inputs == {"rival_mae": str(folder)}
    (folder / "config.yaml").write_text(kept.replace("retrain: false", "retrain: true"))
    with pytest.raises(InputError, match=r"would measure its own training pictures.*--train_mae.retrain false"):
        take_rivals(cfg, split, vqvae)
    meta = read_json(folder / "model" / "meta.json")
    write_json(folder / "model" / "meta.json", meta | {"codebook": "another"})
    with pytest.raises(InputError, match=r"codebook is another, but .* is needed here"):
        take_rivals(cfg, split, vqvae)
