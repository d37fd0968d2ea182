"""What a step of the VQ-VAE shows and tells, the term of SSIM, augmentation, retraining, and its study."""

import math
import threading
from typing import Any

import pytest
import torch
from masked_memory.stages.train_vqvae import VQVAELearner, with_ssim
from torch import Tensor

from masked_memory.handoff.split import PictureReader, Split, open_split
from masked_memory.models.conditioning import Told
from masked_memory.pipeline.engine import fit
from masked_memory.pipeline.machine import Machine, generator
from masked_memory.pipeline.memory_check import PROBED
from masked_memory.pipeline.metrics import ssim
from masked_memory.settings.train_vqvae import TrainVQVAESection
from masked_memory.stages import train_classifier, train_vqvae
from toys import STAGES, copied, fake_split, fit_plan, heads, newest, notes_of, tiny

# --- what training has for it -----------------------------------------------------------------------------------------


def test_the_ssim_term_adds_its_weight_times_one_minus_ssim_and_has_a_gradient():
    truth = heads(2, 32)
    painted = (truth * 0.8 + 0.1).requires_grad_()
    losses = {"loss": torch.tensor(1.5)}
    assert with_ssim(losses, painted, truth, 0.0) is losses
    found = with_ssim(losses, painted, truth, 3.0)
    assert float(found["loss"]) == pytest.approx(1.5 + 3 * (1 - float(ssim(painted, truth).mean())), rel=1e-5)
    found["loss"].backward()
    better = (painted - 0.05 * painted.grad / painted.grad.abs().max()).detach()
    assert ssim(better, truth).mean() > ssim(painted, truth).mean()


@pytest.mark.system
@pytest.mark.usefixtures("without_drawing")
@pytest.mark.parametrize("stage", ["train_vqvae", "train_classifier"])
def test_the_retrain_sees_train_and_validation_and_the_fit_sees_train_only(ran, tmp_path, monkeypatch, stage):
    """By the pictures that each learner asks for in its steps; test pictures are in neither."""
    runs = copied(ran.runs, tmp_path / "runs", "data_split", "train_vqvae", "vqvae_reconstruction")
    learner = {"train_vqvae": train_vqvae.VQVAELearner, "train_classifier": train_classifier.ClassifierLearner}[stage]
    seen: list[tuple[object, set[int]]] = []  # each learner with the positions that its steps asked for
    plain_step, plain_take = learner.step, PictureReader.take

    def step(self, rows, generator):
        if not seen or seen[-1][0] is not self:
            seen.append((self, set()))
        return plain_step(self, rows, generator)

    def take(self, rows):
        seen[-1][1].update(self.positions[rows.numpy()].tolist())
        return plain_take(self, rows)

    monkeypatch.setattr(learner, "step", step)
    monkeypatch.setattr(PictureReader, "take", take)
    section = {"epochs": 1, "batch_size": 6, "retrain": True, "tune": {"trials": 0}}
    STAGES[stage].run(tiny(runs, ran.source, run__mlflow=False, **{stage: section}))
    split = open_split(ran.cfg)
    train, val = (set(split.positions(part).tolist()) for part in ("train", "val"))
    assert train and val and not train & val
    (_, counted), (_, fitted), (_, retrained) = seen  # the first only to count what a step takes in memory
    assert counted <= train
    assert fitted == train and retrained == train | val
    assert (newest(runs, stage) / "last" / "retrain.safetensors").is_file()


def test_objective_of_a_trial_is_run_with_a_trial(ran):
    """run(cfg, trial) is an Optuna objective: it returns the validation score and makes no run folder."""
    import optuna

    before = sorted((ran.runs / "train_vqvae").iterdir())
    study = optuna.create_study()
    study.optimize(lambda trial: train_vqvae.run(ran.cfg, trial), n_trials=1)
    assert 0 < study.best_value < 1 and set(study.best_params) == {"code_dim", "learning_rate"}
    assert sorted((ran.runs / "train_vqvae").iterdir()) == before


@pytest.mark.usefixtures("without_drawing")
def test_diverging_trial_fails_and_the_study_goes_on(ran, tmp_path, monkeypatch):
    import optuna

    runs = copied(ran.runs, tmp_path / "runs", "data_split")
    real = train_vqvae.VQVAELearner.step
    built = []

    def poisoned(self, rows, generator):
        if len(rows) > max(PROBED) and self not in built:  # smaller steps are made to count what they take in memory
            built.append(self)
        losses = real(self, rows, generator)
        return losses | {"loss": losses["loss"] * float("nan")} if [self] == built else losses

    monkeypatch.setattr(train_vqvae.VQVAELearner, "step", poisoned)
    train_vqvae.run(tiny(runs, ran.source, run__mlflow=False))
    storage = f"sqlite:///{runs / 'optuna.db'}"
    study = optuna.load_study(study_name=None, storage=storage)
    assert [t.state.name for t in study.trials] == ["FAIL", "COMPLETE"]
    assert "trial 0: the loss is not finite at step 0 (learning rate" in study.trials[0].user_attrs["error"]


K, PICTURES, TRAIN = 8, 200, 160
SMALL = {"hidden": 8, "residual_blocks": 0, "codebook_size": K, "code_dim": 4, "data_init": False}
TELLS = {"condition_numbers": ["age"], "condition_classes": ["label"]}
ALMOST_ONE = math.nextafter(1.0, 0.0)  # label_drop of a VQ-VAE is below 1
ALL_ROWS = torch.arange(TRAIN)


def a_split() -> Split:
    """Every fifth picture is of the validation part. No byte is 0 in [-1, 1], so exact zeros are hidden pixels."""
    parts = ["train" if n % 5 else "val" for n in range(PICTURES)]
    columns = [{"age": str(n), "label": f"class {n % 4}"} for n in range(PICTURES)]
    return fake_split(parts, 0, columns=columns)


def vqvae_learner(machine: Machine, **changes: Any) -> VQVAELearner:
    return VQVAELearner(TrainVQVAESection.model_validate(SMALL | changes), a_split(), machine, with_val=False)


def shown_and_wanted(learner: VQVAELearner, rows: Tensor = ALL_ROWS) -> tuple[Tensor, Tensor]:
    """What one training step shows the model, and what the model is to paint: (B, C, H, W) each."""
    calls = notes_of(learner.model)
    learner.step(rows, generator(0))
    (call,) = calls
    return call["x"], call["target"]


def components_shown(shown: Tensor) -> Tensor:
    """(B, C) bool. Each component is there as a whole or exactly 0 as a whole."""
    there = (shown != 0).flatten(2)
    assert torch.equal(there.any(2), there.all(2))
    return there.all(2)


MASKING = {"enabled": True, "mask_prob_max": 1.0, "warmup_epochs": 4}


@pytest.mark.parametrize("augmentation", ["none", "dihedral"])
def test_masked_pictures_show_one_component_and_the_full_picture_is_to_be_painted(
    augmentation: str, machine: Machine
) -> None:
    learner = vqvae_learner(machine, component_masking=MASKING, augmentation=augmentation)
    learner.start_epoch(4)
    shown, wanted = shown_and_wanted(learner)
    kept = components_shown(shown)
    assert kept.sum(1).tolist() == [1] * TRAIN
    assert (kept.sum(0) > TRAIN / 6).all(), "each component is the one that is shown, now and then"
    assert torch.equal(shown, wanted * kept[..., None, None])
    whole = learner.pictures(learner.train_positions)
    if augmentation == "none":
        assert torch.equal(wanted, whole)
    else:
        assert not torch.equal(wanted, whole)
        assert torch.equal(wanted.flatten(2).sort(2).values, whole.flatten(2).sort(2).values)


def test_the_error_of_a_masked_step_is_that_to_the_full_picture(machine: Machine) -> None:
    learner = vqvae_learner(machine, component_masking=MASKING)
    learner.start_epoch(9)
    painted: list[Tensor] = []
    learner.model.register_forward_hook(lambda model, inputs, output: painted.append(output.reconstruction.detach()))
    values = learner.step(ALL_ROWS, generator(0))
    whole = learner.pictures(learner.train_positions)
    assert float(values["mse"]) == pytest.approx(float((painted[0] - whole).square().mean()) / 4, rel=1e-5)


@pytest.mark.parametrize(
    ("masking", "epoch"),
    [
        ({"enabled": False, "mask_prob_max": 1.0, "warmup_epochs": 0}, 9),
        ({"enabled": True, "mask_prob_max": 0.0, "warmup_epochs": 0}, 9),
        ({"enabled": True, "mask_prob_max": 1.0, "warmup_epochs": 4}, 0),
    ],
    ids=["masking off", "probability 0", "first epoch of the warm-up"],
)
def test_without_masking_the_full_picture_is_shown(masking: dict[str, Any], epoch: int, machine: Machine) -> None:
    learner = vqvae_learner(machine, component_masking=masking)
    learner.start_epoch(epoch)
    shown, wanted = shown_and_wanted(learner)
    whole = learner.pictures(learner.train_positions)
    assert torch.equal(shown, whole) and torch.equal(wanted, whole)


def test_half_way_through_the_warm_up_half_of_the_pictures_show_one_component(machine: Machine) -> None:
    learner = vqvae_learner(machine, component_masking=MASKING)
    learner.start_epoch(2)
    shown, wanted = shown_and_wanted(learner)
    assert components_shown(shown).sum(1).bincount(minlength=4).tolist() == [0, TRAIN // 2, 0, TRAIN // 2]
    assert torch.equal(wanted, learner.pictures(learner.train_positions))


# Of whom a step tells


@pytest.mark.parametrize(("label_drop", "low", "high"), [(0.0, 160, 160), (0.25, 100, 140), (ALMOST_ONE, 0, 0)])
@pytest.mark.parametrize("masking", [False, True])
def test_the_decoder_is_told_nothing_at_the_rate_of_label_drop(
    masking: bool, label_drop: float, low: int, high: int, machine: Machine
) -> None:
    """Three quarters of 160 pictures are 120, with a standard deviation of 5.5."""
    learner = vqvae_learner(machine, **TELLS, label_drop=label_drop, component_masking={"enabled": masking})
    calls = notes_of(learner.model)
    learner.step(ALL_ROWS, generator(0))
    told = calls[0]["told"]
    assert low <= int(told.known.sum()) <= high
    assert learner.metadata is not None and learner.metadata.known.all(), "dropped for this step only"


def test_the_decoder_is_told_of_the_pictures_that_are_shown(machine: Machine) -> None:
    learner = vqvae_learner(machine, **TELLS, label_drop=0)
    calls, rows = notes_of(learner.model), torch.tensor([5, 0, 77, 3])
    learner.step(rows, generator(0))
    positions = torch.from_numpy(learner.train_positions)[rows]
    told = calls[0]["told"]
    assert isinstance(told, Told) and told.classes[:, 0].tolist() == (positions % 4).tolist()
    ages = torch.from_numpy(learner.train_positions).double()
    expected = (positions - ages.mean()) / ages.std(correction=0)
    torch.testing.assert_close(told.numbers[:, 0].double(), expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(calls[0]["target"], learner.pictures(positions))


def test_who_is_told_is_drawn_anew_at_each_step(machine: Machine) -> None:
    learner = vqvae_learner(machine, **TELLS, label_drop=0.5)
    calls, draws = notes_of(learner.model), generator(0)
    learner.step(ALL_ROWS, draws)
    learner.step(ALL_ROWS, draws)
    first, second = (call["told"].known for call in calls)
    assert not torch.equal(first, second)


def test_each_batch_is_read_once_and_ahead_of_its_step(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """All on the reader's thread: a batch that was not asked for in time would be read on this one."""
    threads: list[str] = []
    plain = PictureReader._read

    def read(self: PictureReader, rows: Tensor) -> Tensor:
        threads.append(threading.current_thread().name)
        return plain(self, rows)

    monkeypatch.setattr(PictureReader, "_read", read)
    learner = vqvae_learner(machine)
    plan = fit_plan(epochs=2, horizon=2, batch_size=4)
    fit(learner, plan, machine, "read")
    assert len(threads) == 2 * (learner.count // 4) > 2
    assert all(name.startswith("pictures") for name in threads)
