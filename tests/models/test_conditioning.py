"""A decoder that is told metadata, and the columns that it is told."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from masked_memory.models.conditioning import Told, columns_of, drop, fit_columns
from masked_memory.pipeline.files import InputError, write_json
from masked_memory.stages.vqvae import VQVAE, VQVAEConfig

TINY = VQVAEConfig(16, 5, 4, 16, 1, codebook_size=12, code_dim=6, data_init=False)
TOLD = replace(TINY, condition_numbers=2, condition_classes=(3, 4))
MANIFEST = [
    {"path": f"{n}.npy", "row": str(n), "class": "xyz"[n % 3], "age": str(n), "kind": "pq"[n % 2]} for n in range(12)
]


def pictures(batch: int = 4) -> torch.Tensor:
    return torch.rand(batch, 5, 16, 16) * 2 - 1


def told(batch: int = 4) -> Told:
    return Told(torch.randn(batch, 2), torch.randint(3, (batch, 2)), torch.ones(batch, dtype=torch.bool))


def awake(config: VQVAEConfig = TOLD) -> VQVAE:
    """A model whose conditioning does something, as after training."""
    model = VQVAE(config).eval()
    torch.nn.init.normal_(model.conditioning.layers[-1].weight)
    torch.nn.init.normal_(model.conditioning.not_told)
    return model


# --- metadata ---------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_a_conditioned_decoder_starts_as_one_that_is_told_nothing():
    torch.manual_seed(1)
    plain = VQVAE(TINY).eval()
    torch.manual_seed(1)
    model = VQVAE(TOLD).eval()
    x = pictures()
    assert torch.equal(model(x, told=told()).reconstruction, plain(x).reconstruction)
    assert set(plain.state_dict()) < set(model.state_dict())


@torch.no_grad()
def test_guidance_is_the_formula_and_what_is_not_told_does_not_matter():
    model, metadata, indices = awake(), told(), torch.randint(12, (4, 4, 4))
    codes = model.embed_indices(indices)
    raw = model.decoder(codes, model.conditioning(metadata, 4)), model.decoder(codes, model.conditioning(None, 4))
    expected = (raw[1] + 2.5 * (raw[0] - raw[1])).clamp(-1, 1)
    torch.testing.assert_close(model.decode_indices(indices, metadata, 2.5), expected)
    assert torch.equal(model.decode_indices(indices, metadata, 1.0), raw[0].clamp(-1, 1))
    unknown = metadata._replace(known=torch.zeros(4, dtype=torch.bool))
    for scale in (1.0, 3.0):
        untold = model.decode_indices(indices, unknown, scale)
        torch.testing.assert_close(untold, model.decode_indices(indices), rtol=0, atol=1e-5)
    assert not torch.equal(raw[0], raw[1])


def test_gradients_reach_what_is_told_and_what_is_not():
    model = awake().train()
    half = told()._replace(known=torch.tensor([True, False, True, False]))
    model(pictures(), told=half).losses["loss"].backward()
    parts = model.conditioning
    for parameter in (parts.numbers.weight, parts.embeddings[0].weight, parts.not_told, parts.layers[1].weight):
        assert parameter.grad.abs().sum() > 0


def test_telling_a_plain_model_is_an_error():
    with pytest.raises(ValueError, match="trained without conditions"):
        VQVAE(TINY).decode_indices(torch.zeros(1, 4, 4, dtype=torch.long), told(1))


def test_columns_standardise_number_and_round_trip(draws):
    found = fit_columns(MANIFEST, range(8), ["age"], ["kind", "class"])
    values = found.tell(MANIFEST)
    assert float(values.numbers[:8].mean()) == pytest.approx(0, abs=1e-6)
    assert float(values.numbers[:8].std(correction=0)) == pytest.approx(1, abs=1e-6)
    assert values.classes.tolist()[:3] == [[0, 0], [1, 1], [0, 2]]
    assert columns_of(json.loads(json.dumps(found.describe()))) == found
    dropped = drop(Told(*(part.repeat(200, *[1] * (part.ndim - 1)) for part in values)), 0.25, draws)
    assert 0.2 < float((~dropped.known).float().mean()) < 0.3


@pytest.mark.parametrize(
    ("change", "numbers", "classes", "message"),
    [
        ({"age": "old"}, ["age"], [], r"metadata age of 3\.npy is 'old'; expected a number"),
        ({"age": "nan"}, ["age"], [], r"metadata age of 3\.npy is 'nan'; expected a number"),
        ({"kind": ""}, [], ["kind"], r"metadata kind of 3\.npy is empty"),
        ({}, ["size"], [], "there is no metadata size in the manifest; expected one of: class, age, kind"),
    ],
)
def test_metadata_that_cannot_be_told_are_refused(change, numbers, classes, message):
    manifest = [row | change if row["path"] == "3.npy" else row for row in MANIFEST]
    with pytest.raises(InputError, match=message):
        fit_columns(manifest, range(8), numbers, classes)


def test_values_that_training_did_not_have_are_refused():
    found = fit_columns(MANIFEST, range(8), [], ["kind"])
    with pytest.raises(InputError, match="is 'r', which training did not have; expected one of: p, q"):
        found.tell([MANIFEST[0] | {"kind": "r"}])


def test_a_model_of_before_conditions_still_loads(tmp_path: Path):
    from masked_memory.pipeline.files import write_safetensors

    model = VQVAE(TINY)
    stored = asdict(TINY)
    old = {name: value for name, value in stored.items() if not name.startswith("condition")}
    write_json(tmp_path / "config.json", old)
    write_safetensors(tmp_path / "model.safetensors", model.state_dict())
    assert VQVAE.from_pretrained(tmp_path).config == TINY
    write_json(tmp_path / "config.json", asdict(TOLD))
    write_safetensors(tmp_path / "model.safetensors", VQVAE(TOLD).state_dict())
    assert VQVAE.from_pretrained(tmp_path).config == TOLD
