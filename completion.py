"""The DistilBERT over code indices: it completes a partly forgotten grid.

Letters: B batch, N tokens per picture, K codes, V = K + 1; id K is MASK. Masks are bool, True = masked, to be
predicted. Architecture: DistilBERT (Sanh et al. 2019), trained like the masked token models of MaskGIT (Chang et al.
2022): variable mask ratios, loss on masked tokens only.
"""

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from masking import hide

if TYPE_CHECKING:
    from transformers import DistilBertForMaskedLM


def build_distilbert(
    codebook_size: int, tokens: int, dim: int, layers: int, heads: int, dropout: float
) -> "DistilBertForMaskedLM":
    """A fresh model. `pad_token_id=None`: its default 0 would freeze the embedding of code 0."""
    from transformers import DistilBertConfig, DistilBertForMaskedLM

    config = DistilBertConfig(
        vocab_size=codebook_size + 1,
        max_position_embeddings=tokens,
        dim=dim,
        hidden_dim=4 * dim,
        n_layers=layers,
        n_heads=heads,
        dropout=dropout,
        attention_dropout=dropout,
        pad_token_id=None,
    )
    return DistilBertForMaskedLM(config)


def from_pretrained_body(source: str, codebook_size: int, tokens: int) -> "DistilBertForMaskedLM":
    """The layers of a trained DistilBERT (a folder or a hub id) with new embeddings for codes and positions.

    Raises OSError when the model is neither on disk nor to be fetched.
    """
    from transformers import DistilBertConfig, DistilBertForMaskedLM

    config = DistilBertConfig.from_pretrained(
        source, vocab_size=codebook_size + 1, max_position_embeddings=tokens, pad_token_id=None
    )
    return DistilBertForMaskedLM.from_pretrained(source, config=config, ignore_mismatched_sizes=True)


def load_distilbert(folder: Path, device: torch.device) -> "DistilBertForMaskedLM":
    """The model that `train_distil.py` wrote to `folder`, in evaluation mode."""
    from transformers import DistilBertForMaskedLM

    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder / 'config.json'} is missing; type: python train_distil.py")
    model = DistilBertForMaskedLM.from_pretrained(folder, local_files_only=True).eval()
    prepare_for(model, device)
    return model


def mask_id(model: "DistilBertForMaskedLM") -> int:
    """K, the id of MASK: the last of the vocabulary."""
    return int(model.config.vocab_size) - 1


def masked_logits(model: "DistilBertForMaskedLM", indices: Tensor, mask: Tensor) -> Tensor:
    """(B, N) indices, (B, N) bool -> (M, K) logits of the M masked tokens, row by row.

    The output layer runs on masked tokens only and never offers MASK as an answer.
    """
    hidden = model.distilbert(input_ids=hide(indices, mask, mask_id(model))).last_hidden_state[mask]  # (M, dim)
    hidden = model.vocab_layer_norm(model.activation(model.vocab_transform(hidden)))
    projector = model.vocab_projector
    return F.linear(hidden, projector.weight[:-1], projector.bias[:-1]).float()  # (M, K)


def masked_cross_entropy(model: "DistilBertForMaskedLM", indices: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy of each masked token, in nats, and whether the likeliest code is the true one; both (M,)."""
    logits = masked_logits(model, indices, mask)
    targets = indices[mask]
    return F.cross_entropy(logits, targets, reduction="none"), logits.argmax(1) == targets


def prepare_for(model: "DistilBertForMaskedLM", device: torch.device) -> None:
    """Move to the device. On CPU the plain attention is about twice as fast as the fused one at these sizes."""
    torch.nn.Module.to(model, device)
    model.set_attn_implementation("eager" if device.type == "cpu" else "sdpa")


def blank_out(codes: Tensor, mask: Tensor, blank: Tensor) -> Tensor:
    """Code vectors (B, D, h, w) with `blank` (D,) where `mask` (B, N) is True: what is left without completion."""
    b, _, h, w = codes.shape
    return torch.where(mask.view(b, 1, h, w), blank.view(1, -1, 1, 1), codes)


class Completed(NamedTuple):
    """A completed batch of grids: the likeliest codes, and for each token the code vector to expect there."""

    indices: Tensor  # (B, N) long, masked tokens replaced by the likeliest code
    expected: Tensor  # (B, N, D), masked tokens: mean of all code vectors weighted by their probability


@torch.no_grad()
def complete(model: "DistilBertForMaskedLM", indices: Tensor, mask: Tensor, codebook: Tensor) -> Completed:
    """Fill all masked tokens in one pass; the others stay as they are. codebook: (K, D) code vectors."""
    completed, expected = indices.clone(), codebook[indices.masked_fill(mask, 0)]
    if mask.any():
        logits = masked_logits(model, indices, mask)  # (M, K)
        completed[mask] = logits.argmax(1)
        expected[mask] = logits.softmax(1) @ codebook
    return Completed(completed, expected)
