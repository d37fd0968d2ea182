"""Models of others in `train_distil.init`: read as data, and no code in them runs."""

import json
import pickle
from pathlib import Path

import pytest
import torch

from masked_memory.models.distilbert import DistilShape, build_distilbert
from masked_memory.pipeline.files import InputError
from masked_memory.settings.train_distil import TrainDistilSection
from masked_memory.stages import train_distil
from strangers import Trap


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """A small DistilBERT as transformers keeps it."""
    folder = tmp_path / "foreign"
    build_distilbert(30, 16, DistilShape(16, 1, 2, relative_positions=False)).save_pretrained(folder)
    return folder


def build(folder: Path) -> object:
    section = TrainDistilSection.model_validate({"init": str(folder), "tune": {"trials": 0}})
    return train_distil.build_model(section, 8, 16, 0)


def test_a_model_of_safetensors_is_taken(foreign: Path) -> None:
    model = build(foreign)
    assert model.config.dim == 16 and model.distilbert.embeddings.word_embeddings.num_embeddings >= 9


def refused(folder: Path) -> bool:
    """Whether it is refused in a line that says what, why and what to type."""
    with pytest.raises(InputError) as error:
        build(folder)
    said = str(error.value)
    why = said.removeprefix(f"train_distil.init {folder} cannot be had: ")
    return why != said and "\n" not in said and said.endswith("type --train_distil.init scratch")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
def test_a_pickle_is_never_run(foreign: Path, tmp_path: Path, name: str) -> None:
    (foreign / "model.safetensors").unlink()
    (foreign / name).write_bytes(pickle.dumps(Trap(tmp_path / "trapped")))
    assert refused(foreign)
    assert not (tmp_path / "trapped").exists()


def test_weights_that_only_a_pickle_holds_are_refused(foreign: Path) -> None:
    """Also such as hold nothing else: what is read is safetensors."""
    (foreign / "model.safetensors").unlink()
    torch.save({"weight": torch.zeros(3)}, foreign / "pytorch_model.bin")
    assert refused(foreign)


@pytest.mark.parametrize("name", ["AutoConfig", "AutoModelForMaskedLM"])
def test_code_beside_a_model_is_never_run(foreign: Path, tmp_path: Path, name: str) -> None:
    trapped = tmp_path / "trapped"
    (foreign / "theirs.py").write_text(
        f"from pathlib import Path\nPath({str(trapped)!r}).mkdir()\nclass Theirs: pass\n"
    )
    config = json.loads((foreign / "config.json").read_text())
    (foreign / "config.json").write_text(json.dumps(config | {"auto_map": {name: "theirs.Theirs"}}))
    build(foreign)
    assert not trapped.exists()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"model_type": "gpt2"}', '{"n_layers": "many"}'])
def test_a_config_that_is_none_is_refused_in_a_line(foreign: Path, content: str) -> None:
    (foreign / "config.json").write_text(content)
    assert refused(foreign)


def test_a_file_that_is_cut_off_is_refused_in_a_line(foreign: Path) -> None:
    weights = foreign / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:200])
    assert refused(foreign)
