"""Models on disk: each kind comes back as it was, from a run folder or its model folder; what is none is refused."""

import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from masked_memory.models.classifier import Classifier
from masked_memory.models.masked_distilbert import MaskedDistilBert
from masked_memory.pipeline.files import InputError, read_json, write_json
from masked_memory.stages.vqvae import VQVAE
from toys import Ran

KINDS = {"train_vqvae": VQVAE, "train_classifier": Classifier, "train_distil": MaskedDistilBert}
each_kind = pytest.mark.parametrize("stage", KINDS)


def same(one: nn.Module, other: nn.Module) -> bool:
    mine, theirs = one.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


@each_kind
def test_a_run_its_model_folder_and_text_give_the_same_model(stage: str, ran: Ran) -> None:
    folder = ran.folders[stage]
    first = KINDS[stage].from_pretrained(folder)
    assert not first.training
    assert same(first, KINDS[stage].from_pretrained(folder / "model")) and same(
        first, KINDS[stage].from_pretrained(str(folder))
    )


@each_kind
def test_what_is_saved_comes_back_and_is_what_the_stage_wrote(stage: str, ran: Ran, tmp_path: Path) -> None:
    model = KINDS[stage].from_pretrained(ran.folders[stage])
    folder = model.save_pretrained(str(tmp_path / "made" / "model"))
    assert {file.name for file in folder.iterdir()} == {"config.json", "model.safetensors"}
    assert same(model, KINDS[stage].from_pretrained(folder))
    written = ran.folders[stage] / "model"
    assert (folder / "model.safetensors").read_bytes() == (written / "model.safetensors").read_bytes()
    assert read_json(folder / "config.json") == read_json(written / "config.json")


@each_kind
def test_a_folder_without_a_model_says_which_command_makes_one(stage: str, ran: Ran, tmp_path: Path) -> None:
    for folder, found in ((tmp_path / "absent", "is no folder"), (tmp_path, "has no model")):
        with pytest.raises(InputError, match=rf"{found}.*expected a run folder of {stage}.*python {stage}\.py"):
            KINDS[stage].from_pretrained(folder)


@each_kind
def test_missing_and_damaged_weights_are_refused(stage: str, ran: Ran, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(ran.folders[stage] / "model", tmp_path / "model"))
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(InputError, match=rf"is damaged.*type: python {stage}\.py"):
        KINDS[stage].from_pretrained(folder)
    weights.unlink()
    with pytest.raises(InputError, match=rf"safetensors is missing.*type: python {stage}\.py"):
        KINDS[stage].from_pretrained(folder)


@each_kind
def test_a_model_of_another_kind_is_refused(stage: str, ran: Ran) -> None:
    for other in set(KINDS) - {stage}:
        with pytest.raises(InputError, match=r"is not that of a|expected a DistilBERT"):
            KINDS[stage].from_pretrained(ran.folders[other])


@pytest.mark.parametrize("stored", [[1, 2], {"hidden": 16, "architecture": "resnet18"}, {"stride": 5}])
def test_a_config_that_is_none_is_refused(stored: object, tmp_path: Path) -> None:
    write_json(tmp_path / "config.json", stored)
    with pytest.raises(InputError, match=r"config\.json (holds list|is not that of a VQ-VAE)"):
        VQVAE.from_pretrained(tmp_path)
