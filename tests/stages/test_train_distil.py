"""What training of the DistilBERT draws and starts from: masks, classes, embeddings. K = 8 codes, grids of 3x3."""

from pathlib import Path
from typing import Any

import pytest
import torch
from masked_memory.stages.train_distil import DistilLearner
from torch import Tensor

from masked_memory.handoff.split import Split
from masked_memory.handoff.vqvae import HandedVQVAE
from masked_memory.models.distilbert import classes_of, masked_cross_entropy
from masked_memory.pipeline.engine import fit
from masked_memory.pipeline.files import InputError, write_json, write_safetensors
from masked_memory.pipeline.machine import Machine
from masked_memory.settings.config import Config
from masked_memory.settings.train_distil import TrainDistilSection
from masked_memory.stages import train_distil
from toys import fake_indices, fake_split, fit_plan, handed_vqvae, tiny_vqvae

K, SIDE, CLASSES = 8, 3, 4
PICTURES = 40
SMALL = {"dim": 16, "layers": 1, "heads": 2, "percentages": [50, 100]}


def a_split(classes: int = CLASSES) -> Split:
    """Every fifth picture is of the validation part."""
    return fake_split(["train" if n % 5 else "val" for n in range(PICTURES)], classes, 4 * SIDE)


def a_vqvae() -> HandedVQVAE:
    """Always the same weights."""
    torch.manual_seed(0)
    return handed_vqvae(tiny_vqvae(image_size=4 * SIDE), codebook="x", codebook_size=K, grid=SIDE)


def learner(machine: Machine, section: dict[str, Any], with_val: bool = False) -> DistilLearner:
    """Always the same start."""
    chosen = TrainDistilSection.model_validate(SMALL | section)
    vqvae = a_vqvae()
    torch.manual_seed(0)
    return DistilLearner(chosen, a_split(), fake_indices(PICTURES, SIDE), vqvae, machine, 0, with_val)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Tensor, Tensor, Tensor | None]]:
    """Grows by tokens, mask and labels of each training step."""
    seen: list[tuple[Tensor, Tensor, Tensor | None]] = []

    def note(model: Any, tokens: Tensor, mask: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        seen.append((tokens.clone(), mask.clone(), None if labels is None else labels.clone()))
        return masked_cross_entropy(model, tokens, mask, labels)

    monkeypatch.setattr(train_distil, "masked_cross_entropy", note)
    return seen


def two_epochs(made: DistilLearner) -> None:
    """The second in another order and with other draws."""
    for rows in torch.arange(made.count).split(8):
        made.step(rows, torch.Generator().manual_seed(int(rows[0])))
    for rows in torch.randperm(made.count).split(8):
        made.step(rows, torch.Generator().manual_seed(100 + int(rows[0])))


def masks_by_picture(asked: list[tuple[Tensor, Tensor, Tensor | None]]) -> dict[tuple[int, ...], list[Tensor]]:
    found: dict[tuple[int, ...], list[Tensor]] = {}
    for tokens, mask, _ in asked:
        for grid, hidden in zip(tokens.tolist(), mask, strict=True):
            found.setdefault(tuple(grid), []).append(hidden)
    return found


# Masks


@pytest.mark.parametrize("with_val", [False, True])
def test_masks_that_are_not_redrawn_stay_with_their_picture(
    with_val: bool, machine: Machine, asked: list[tuple[Tensor, Tensor, Tensor | None]]
) -> None:
    made = learner(machine, {"redraw_masks": False}, with_val)
    two_epochs(made)
    found = masks_by_picture(asked)
    assert len(found) == made.count == (40 if with_val else 32)
    for masks in found.values():
        assert len(masks) == 2 and torch.equal(*masks)
    assert len({tuple(first.tolist()) for first, _ in found.values()}) > made.count / 2, "each picture has its own"
    again = learner(machine, {"redraw_masks": False}, with_val)
    assert torch.equal(again.once, made.once), "the same seed draws the same"


def test_masks_are_redrawn_at_each_step_unless_told_otherwise(
    machine: Machine, asked: list[tuple[Tensor, Tensor, Tensor | None]]
) -> None:
    two_epochs(learner(machine, {}))
    changed = [not torch.equal(*masks) for masks in masks_by_picture(asked).values()]
    assert sum(changed) > 24, "of 32 pictures"


@pytest.mark.parametrize("redraw", [False, True])
def test_fixed_masks_have_the_exact_count(
    redraw: bool, machine: Machine, asked: list[tuple[Tensor, Tensor, Tensor | None]]
) -> None:
    """A third of 9 tokens is 3."""
    made = learner(machine, {"redraw_masks": redraw, "mask_schedule": "fixed", "fixed_ratio": 1 / 3})
    made.step(torch.arange(20), torch.Generator().manual_seed(0))
    assert asked[0][1].sum(1).tolist() == [3] * 20


# Classes


@pytest.mark.parametrize(("label_drop", "low", "high"), [(0.0, 0, 0), (0.25, 420, 580), (1.0, 2000, 2000)])
def test_classes_are_kept_back_at_the_rate_of_label_drop(
    label_drop: float,
    low: int,
    high: int,
    machine: Machine,
    asked: list[tuple[Tensor, Tensor, Tensor | None]],
) -> None:
    """2000 draws at 0.25: 500, with a standard deviation of 19. Those that are told are the true ones."""
    made = learner(machine, {"condition_on_class": True, "label_drop": label_drop})
    rows = torch.arange(2000) % made.count
    made.step(rows, torch.Generator().manual_seed(0))
    ((_, _, labels),) = asked
    positions = a_split().positions("train")[rows.numpy()]
    true = torch.from_numpy(a_split().labels[positions])
    assert labels is not None
    told = labels >= 0
    assert torch.equal(labels[told], true[told])
    assert low <= int((~told).sum()) <= high and (labels[~told] == -1).all()


def test_no_class_is_told_unless_asked_for(machine: Machine, asked: list[tuple[Tensor, Tensor, Tensor | None]]) -> None:
    made = learner(machine, {})
    made.step(torch.arange(8), torch.Generator().manual_seed(0))
    assert asked[0][2] is None and classes_of(made.model) == 0
    conditioned = learner(machine, {"condition_on_class": True})
    assert classes_of(conditioned.model) == CLASSES


def test_validation_tells_no_class(machine: Machine, asked: list[tuple[Tensor, Tensor, Tensor | None]]) -> None:
    """So that models with and without classes compare."""
    made = learner(machine, {"condition_on_class": True})
    made.model.eval()
    with torch.no_grad():
        values = made.validate()
    assert [labels for _, _, labels in asked] == [None, None]
    assert values["loss"] == pytest.approx((values["loss_at_50"] + values["loss_at_100"]) / 2)


def test_classes_cannot_be_told_of_data_without_any(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_distil, "prepare_machine", lambda *asked: machine)
    monkeypatch.setattr(train_distil, "open_split", lambda cfg: a_split(classes=0))
    monkeypatch.setattr(train_distil, "take_vqvae", lambda *asked: a_vqvae())
    monkeypatch.setattr(train_distil, "take_indices", lambda *asked: fake_indices(PICTURES, SIDE))
    cfg = Config.model_validate(
        {"run": {"dir": str(tmp_path / "runs"), "mlflow": False}, "train_distil": {"condition_on_class": True}}
    )
    with pytest.raises(InputError, match="needs pictures with classes") as refused:
        train_distil.run(cfg)
    assert "\n" not in str(refused.value)
    assert str(refused.value).endswith("type --train_distil.condition_on_class false")
    assert not (tmp_path / "runs").exists(), "nothing half-written"


# The start


def weights(made: DistilLearner) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in made.model.state_dict().items()}


def changed_by(one: DistilLearner, other: DistilLearner) -> set[str]:
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    return {name for name in first if not torch.equal(first[name], second[name])}


EMBEDDING = "distilbert.embeddings.word_embeddings.weight"


def test_from_scratch_only_the_embeddings_of_the_codes_start_from_the_codebook(machine: Machine) -> None:
    from_codebook, plain = (learner(machine, {"start_from_codebook": flag}) for flag in (True, False))
    assert changed_by(from_codebook, plain) == {EMBEDDING, "vocab_projector.weight"}, "tied, so one and the same"
    codes, plain_codes = (weights(made)[EMBEDDING] for made in (from_codebook, plain))
    assert torch.equal(codes[K:], plain_codes[K:]), "MASK as ever"
    vectors = a_vqvae().model.codebook_vectors()
    distances, embedded = torch.pdist(vectors), torch.pdist(codes[:K])
    correlation = torch.corrcoef(torch.stack([distances, embedded]))[0, 1]
    assert correlation > 0.8, "codes that look alike start alike"


def test_with_layers_of_another_model_the_start_is_left_alone(machine: Machine, tmp_path: Path) -> None:
    tensors = weights(learner(machine, {}))
    tensors.pop("vocab_projector.weight")
    write_safetensors(tmp_path / "model.safetensors", tensors, metadata={"format": "pt"})
    write_json(tmp_path / "config.json", learner(machine, {}).model.config.to_dict())
    given = [learner(machine, {"init": str(tmp_path), "start_from_codebook": flag}) for flag in (True, False)]
    assert changed_by(*given) == set()


@pytest.mark.parametrize("embedding", ["zero", "learned"])
def test_a_zero_mask_embedding_stays_zero_through_training(embedding: str, machine: Machine) -> None:
    made = learner(machine, {"mask_embedding": embedding})
    before = weights(made)[EMBEDDING]
    progress = fit(made, fit_plan(), machine, "test")
    after = weights(made)[EMBEDDING]
    assert progress.epoch == 3
    assert ((before[:K] - after[:K]).abs().amax(1) > 0).all(), "the codes learn"
    assert bool((before[K] == 0).all()) == bool((after[K] == 0).all()) == (embedding == "zero")
    assert torch.equal(before[K], after[K]) == (embedding == "zero")


@pytest.mark.parametrize(("label_drop", "told"), [(0.0, True), (0.5, False)])
def test_validation_tells_the_class_only_to_a_model_that_never_does_without(
    label_drop: float, told: bool, machine: Machine, asked: list[tuple[Tensor, Tensor, Tensor | None]]
) -> None:
    made = learner(machine, {"condition_on_class": True, "label_drop": label_drop})
    made.validate()
    labels = [each for _, _, each in asked]
    if told:
        assert all(torch.equal(each, made.val_labels) for each in labels) and (made.val_labels >= 0).all()
    else:
        assert labels == [None] * len(SMALL["percentages"])


# Augmentation


@torch.no_grad()
def test_mirrored_pictures_are_encoded_anew_and_others_are_as_they_were(
    machine: Machine, asked: list[tuple[Tensor, Tensor, Tensor | None]]
) -> None:
    made = learner(machine, {"augmentation": "flip"})
    rows = torch.arange(made.count)
    pictures = a_split().pictures(made.train_positions)
    plain, mirrored = (made.vqvae.encode_indices(x).flatten(1) for x in (pictures, pictures.flip(3)))
    made.step(rows, torch.Generator().manual_seed(0))
    tokens = asked[0][0]
    same, turned = (tokens == plain).all(1), (tokens == mirrored).all(1)
    assert (same | turned).all() and 0.2 < float(turned[~same].sum()) / len(rows) < 0.8
    made.step(rows, torch.Generator().manual_seed(1))
    assert not torch.equal(asked[1][0], tokens), "drawn anew at each step"


def test_moved_pictures_have_other_tokens_than_mirrored_ones(
    machine: Machine, asked: list[tuple[Tensor, Tensor, Tensor | None]]
) -> None:
    for kind in ("flip", "shift"):
        learner(machine, {"augmentation": kind}).step(torch.arange(32), torch.Generator().manual_seed(0))
    assert not torch.equal(asked[0][0], asked[1][0])
