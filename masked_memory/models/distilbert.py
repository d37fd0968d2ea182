"""The DistilBERT over code indices: it completes a partly forgotten grid.

Letters: B batch, N tokens per picture, K codes, M masked tokens of a batch, D code dimension, C classes. Ids: 0..K-1
codes, K MASK; a model that was trained with classes also has K+1..K+C for these and K+C+1 for "no class told", and
sees one of them before the grid. Masks are bool, True = masked, to be predicted.

Architecture: DistilBERT (Sanh et al. 2019), trained like the masked token models of MaskGIT (Chang et al. 2022):
variable mask ratios, loss on masked tokens only. Filling in several passes: MaskGIT, section 3.2; in Halton order:
Besnier et al. 2025. Guidance: Ho and Salimans 2022.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from masked_memory.models.pretrained import read_model_config, read_weights
from masked_memory.pipeline.commands import command
from masked_memory.pipeline.files import InputError
from masked_memory.pipeline.machine import sent
from masked_memory.stages.masking import hide

if TYPE_CHECKING:
    from transformers import DistilBertForMaskedLM

    from masked_memory.models.masked_distilbert import MaskedDistilBert


ROWS_AT_A_TIME = 64  # the output layer is given multiples of it: for each other number code is made anew, and kept


@dataclass(frozen=True)
class DistilShape:
    """How large a fresh model is. relative_positions: attention has a learnt bias for where two tokens lie to each
    other, beside the position embeddings; see `models/positions.py`."""

    dim: int
    layers: int
    heads: int
    dropout: float = 0.0
    relative_positions: bool = False


def build_distilbert(codebook_size: int, tokens: int, shape: DistilShape, classes: int = 0) -> "DistilBertForMaskedLM":
    """A fresh model. `pad_token_id=None`: its default 0 would freeze the embedding of code 0."""
    from transformers import DistilBertConfig

    from masked_memory.models.masked_distilbert import MaskedDistilBert

    sizes = _vocabulary(codebook_size, tokens, classes)
    sizes |= {"relative_positions": shape.relative_positions, "grid": math.isqrt(tokens)}
    config = DistilBertConfig(
        **sizes,
        dim=shape.dim,
        hidden_dim=4 * shape.dim,
        n_layers=shape.layers,
        n_heads=shape.heads,
        dropout=shape.dropout,
        attention_dropout=shape.dropout,
    )
    return MaskedDistilBert(config)


def _vocabulary(codebook_size: int, tokens: int, classes: int) -> dict[str, Any]:
    """Entries of the model's config that depend on the grid. codebook_size and classes are kept for loading."""
    return {
        "vocab_size": codebook_size + 1 + (classes + 1 if classes else 0),
        "max_position_embeddings": tokens + (1 if classes else 0),
        "pad_token_id": None,
        "codebook_size": codebook_size,
        "classes": classes,
    }


def from_pretrained_body(source: str, codebook_size: int, tokens: int, classes: int = 0) -> "DistilBertForMaskedLM":
    """The layers of a trained DistilBERT (a folder or a hub id) with new embeddings for codes and positions. It has no
    relative positions.

    Weights are read from safetensors; what is a pickle or code of theirs is never run. Raises OSError when the model is
    neither on disk nor to be fetched, ValueError when it is no DistilBERT or is damaged.
    """
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError
    from transformers import DistilBertConfig, DistilBertForMaskedLM

    try:
        values, _ = DistilBertConfig.get_config_dict(source)
        kind = values.get("model_type", "distilbert")
        if kind != "distilbert":
            raise ValueError(f"it is a {kind}, expected a distilbert")
        config = DistilBertConfig.from_dict(values)
        config.update(_vocabulary(codebook_size, tokens, classes))  # as options of from_dict, new names would be lost
        return DistilBertForMaskedLM.from_pretrained(
            source, config=config, ignore_mismatched_sizes=True, use_safetensors=True, trust_remote_code=False
        )
    except (SafetensorError, StrictDataclassError, TypeError, AttributeError) as error:
        raise ValueError(f"it is damaged ({error})") from error


@torch.no_grad()
def start_from_codebook(model: "DistilBertForMaskedLM", codebook: Tensor, generator: torch.Generator) -> None:
    """Start the embeddings of the codes as random projections of their vectors (K, D), at the usual scale.

    Codes that look alike then start alike, on the way in and (tied weights) on the way out.
    """
    weight = model.distilbert.embeddings.word_embeddings.weight
    centred = (codebook - codebook.mean(0)).to(weight)
    projected = centred @ torch.randn(codebook.shape[1], weight.shape[1], generator=generator).to(weight)
    spread = projected.std().clamp(min=1e-8)
    weight[: len(codebook)] = projected * model.config.initializer_range / spread


def blank_mask_token(model: "DistilBertForMaskedLM") -> None:
    """MASK becomes the zero vector and stays it (the published study feeds zeros for forgotten tokens)."""
    embeddings = model.distilbert.embeddings.word_embeddings
    token = mask_id(model)
    with torch.no_grad():
        embeddings.weight[token] = 0

    def keep_zero(gradient: Tensor) -> Tensor:
        gradient = gradient.clone()
        gradient[token] = 0
        return gradient

    embeddings.weight.register_hook(keep_zero)


def load_distilbert(folder: str | Path, device: torch.device) -> "MaskedDistilBert":
    """The model that `train_distil.py` wrote to a run folder, or to `model/` of one, in evaluation mode.

    Raises InputError when there is none, when it is one of another kind, and when it is damaged.
    """
    from transformers import DistilBertConfig

    from masked_memory.models.masked_distilbert import MaskedDistilBert

    stored, weights = read_model_config(folder, "train_distil"), read_weights(folder, "train_distil")
    embedded = weights.get("distilbert.embeddings.word_embeddings.weight")
    if stored.get("model_type") != "distilbert" or embedded is None:
        found = stored.get("model_type") or f"a model with {', '.join(sorted(stored)[:3])}"
        raise InputError(f"{folder} holds {found}; expected a DistilBERT, made by: {command('train_distil')}")
    model = MaskedDistilBert(DistilBertConfig.from_dict(stored))
    weights["vocab_projector.weight"] = embedded  # the output layer is tied to the embeddings, and stored there
    model.load_state_dict(weights)
    model.eval()
    prepare_for(model, device, training=False)
    return model


def weights_of(model: "DistilBertForMaskedLM") -> dict[str, Tensor]:
    """What is stored of a model: all but the output layer, which is tied to the embeddings."""
    return {name: tensor for name, tensor in model.state_dict().items() if name != "vocab_projector.weight"}


def codes_of(model: "DistilBertForMaskedLM") -> int:
    """K. Models of version 0.1 did not say; they had no classes."""
    return int(getattr(model.config, "codebook_size", model.config.vocab_size - 1))


def classes_of(model: "DistilBertForMaskedLM") -> int:
    """C, 0 for a model that was trained without classes."""
    return int(getattr(model.config, "classes", 0))


def mask_id(model: "DistilBertForMaskedLM") -> int:
    """K, the id of MASK."""
    return codes_of(model)


def masked_logits(
    model: "DistilBertForMaskedLM", indices: Tensor, mask: Tensor, labels: Tensor | None = None
) -> Tensor:
    """(B, N) indices, (B, N) bool -> (M, K) logits of the M masked tokens, row by row.

    labels: (B,) classes, -1 for "not told"; None tells none. The output layer runs on masked tokens only, in float32
    also under autocast, and answers with codes only. mask: best on the CPU, as a GPU would have to wait for how many
    tokens are masked. Raises ValueError for labels on a model that was trained without.
    """
    ids = hide(indices, sent(mask, indices.device), mask_id(model))
    classes, codes = classes_of(model), codes_of(model)
    if labels is not None and not classes:
        raise ValueError("labels given to a DistilBERT that was trained without classes")
    if classes:
        labels = torch.full((len(ids),), -1, device=ids.device) if labels is None else sent(labels, ids.device)
        told = torch.where(labels < 0, codes + 1 + classes, codes + 1 + labels)
        ids = torch.cat([told.unsqueeze(1), ids], dim=1)
    hidden = model.distilbert(input_ids=ids, attention_mask=attention_bias(model)).last_hidden_state
    places = masked_places(mask, indices.device)
    some_more = F.pad(places, (0, -len(places) % ROWS_AT_A_TIME))
    hidden = (hidden[:, 1:] if classes else hidden).flatten(0, 1)[some_more]  # (M and a few more, dim)
    hidden = model.vocab_layer_norm(model.activation(model.vocab_transform(hidden)))
    projector = model.vocab_projector
    with torch.autocast(hidden.device.type, enabled=False):  # in bfloat16 one in thirty of the two likeliest are equal
        logits = F.linear(hidden.float(), projector.weight[:codes].float(), projector.bias[:codes].float())
    return logits[: len(places)]  # (M, K)


def masked_places(mask: Tensor, device: torch.device) -> Tensor:
    """(B, N) bool -> (M,), where masked tokens stand in a flattened grid, on the device."""
    return sent(mask.flatten().nonzero().squeeze(1), device)


def attention_bias(model: "DistilBertForMaskedLM") -> Tensor | None:
    """(1, heads, n, n), what is added to the scores of attention; n counts the class before the grid, where there is
    one. None for a model without relative positions."""
    near = getattr(model, "near", None)
    if near is None:
        return None
    return near() if classes_of(model) else near()[:, :, 1:, 1:]


def guided_logits(
    model: "DistilBertForMaskedLM", indices: Tensor, mask: Tensor, labels: Tensor | None, guidance_scale: float
) -> Tensor:
    """(M, K): untold + scale * (told - untold); 0 ignores the class, 1 is plain conditioning, more exaggerates it.

    Classifier-free guidance (Ho and Salimans 2022, equation 6 with w = scale - 1).
    """
    if labels is None or guidance_scale == 1:
        return masked_logits(model, indices, mask, labels)
    untold = masked_logits(model, indices, mask)
    return untold + guidance_scale * (masked_logits(model, indices, mask, labels) - untold)


def masked_cross_entropy(
    model: "DistilBertForMaskedLM", indices: Tensor, mask: Tensor, labels: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of each masked token, in nats, and whether the likeliest code is the true one; both (M,)."""
    logits = masked_logits(model, indices, mask, labels)
    targets = indices.flatten()[masked_places(mask, indices.device)]
    return F.cross_entropy(logits, targets, reduction="none"), logits.argmax(1) == targets


def prepare_for(model: "DistilBertForMaskedLM", device: torch.device, training: bool = True) -> None:
    """Move to the device. On CPU the plain attention is about twice as fast to train at these sizes as the fused one;
    to ask, the one of `models/attention.py` is."""
    from masked_memory.models.attention import IN_PARTS, offer_attention_in_parts

    torch.nn.Module.to(model, device)
    offer_attention_in_parts()
    asked = IN_PARTS if device.type == "cpu" else "sdpa"
    model.set_attn_implementation("eager" if training and device.type == "cpu" else asked)
