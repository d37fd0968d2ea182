"""Run folders of earlier versions: what still fits opens, what does not is refused with what to type.

`tests/kept/` holds small runs: `first`, whose VQ-VAEs had other layers, and `today`, of the layout as it is now. When
the layout changes, `today` is kept under another name and made anew with `tests/kept/settings.yaml` (pictures of
`toys.draw_classes`).
"""

from pathlib import Path

import numpy as np
import pytest
import torch

from masked_memory.handoff.memory import take_distil
from masked_memory.handoff.split import Split, open_split
from masked_memory.handoff.vqvae import HandedVQVAE, take_indices, take_vqvae
from masked_memory.pipeline.files import InputError, read_json
from masked_memory.pipeline.machine import Machine
from masked_memory.settings import loading
from masked_memory.settings.config import Config
from masked_memory.stages import train_distil
from toys import CPU, ROOT

KEPT = ROOT / "tests" / "kept"


def kept(name: str) -> tuple[Config, Split]:
    cfg = loading.load([KEPT / "settings.yaml"], {"run.dir": str(KEPT / name)})
    return cfg, open_split(cfg)


@pytest.mark.parametrize("name", ["first", "today"])
def test_a_split_opens(name: str) -> None:
    _, split = kept(name)
    assert {part: len(split.positions(part)) for part in ("train", "val", "test")} == {"train": 30, "val": 6, "test": 6}
    assert split.hash == "0565ad65f5fa" and split.classes == ["class0", "class1", "class2"]
    pictures = split.pictures(np.arange(len(split.manifest)))
    assert pictures.shape == (42, 3, 16, 16) and pictures.min() >= -1 and pictures.max() <= 1


def test_the_same_pictures_are_in_the_same_parts() -> None:
    (_, first), (_, today) = kept("first"), kept("today")
    assert np.array_equal(first.images, today.images)
    for part in ("train", "val", "test"):
        assert np.array_equal(first.positions(part), today.positions(part))


def test_a_vqvae_with_other_layers_is_refused_with_what_to_do() -> None:
    cfg, split = kept("first")
    with pytest.raises(InputError) as refused:
        take_vqvae(cfg, "best", split, CPU)
    assert "was trained by another version, with other layers" in str(refused.value)
    assert "use the commit in its run.json, or train anew in another folder: --run.dir FOLDER" in str(refused.value)


@pytest.fixture(scope="module")
def handed() -> tuple[Config, Split, HandedVQVAE]:
    cfg, split = kept("today")
    return cfg, split, take_vqvae(cfg, "best", split, CPU)


def test_a_vqvae_gives_the_codes_that_it_gave(handed: tuple[Config, Split, HandedVQVAE]) -> None:
    cfg, split, vqvae = handed
    indices = take_indices(cfg, "best", split, vqvae)
    every = np.arange(len(split.manifest))
    with torch.no_grad():
        codes = vqvae.model.encode_indices(split.pictures(every)).flatten(1)
    assert (codes == indices.tokens(every)).float().mean() > 0.99  # other processors round otherwise


def test_a_distilbert_has_the_loss_that_it_had(handed: tuple[Config, Split, HandedVQVAE]) -> None:
    cfg, split, vqvae = handed
    distil = take_distil(cfg, "best", split, vqvae)
    tokens = take_indices(cfg, "best", split, vqvae).tokens(split.positions("test"))
    masks = train_distil.fixed_masks("test", tokens, [50], cfg.run.seed)
    found = train_distil.evaluate(distil.model, tokens, masks, Machine(CPU, bf16=False, threads=1))
    expected = read_json(Path(distil.folder) / "metrics.json")["test_loss_at_50"]
    assert found[50][0] == pytest.approx(expected, abs=1e-3)
