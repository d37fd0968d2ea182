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
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from masking import hide

if TYPE_CHECKING:
    from transformers import DistilBertForMaskedLM

FillOrder = Literal["confidence", "halton"]


def build_distilbert(
    codebook_size: int, tokens: int, dim: int, layers: int, heads: int, dropout: float, classes: int = 0
) -> "DistilBertForMaskedLM":
    """A fresh model. `pad_token_id=None`: its default 0 would freeze the embedding of code 0."""
    from transformers import DistilBertConfig, DistilBertForMaskedLM

    sizes = _vocabulary(codebook_size, tokens, classes)
    config = DistilBertConfig(
        **sizes,
        dim=dim,
        hidden_dim=4 * dim,
        n_layers=layers,
        n_heads=heads,
        dropout=dropout,
        attention_dropout=dropout,
    )
    return DistilBertForMaskedLM(config)


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
    """The layers of a trained DistilBERT (a folder or a hub id) with new embeddings for codes and positions.

    Raises OSError when the model is neither on disk nor to be fetched.
    """
    from transformers import DistilBertConfig, DistilBertForMaskedLM

    config = DistilBertConfig.from_pretrained(source)
    config.update(_vocabulary(codebook_size, tokens, classes))  # as options of the line above, new names would be lost
    return DistilBertForMaskedLM.from_pretrained(source, config=config, ignore_mismatched_sizes=True)


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


def load_distilbert(folder: Path, device: torch.device) -> "DistilBertForMaskedLM":
    """The model that `train_distil.py` wrote to `folder`, in evaluation mode."""
    from transformers import DistilBertForMaskedLM

    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder / 'config.json'} is missing; type: python train_distil.py")
    model = DistilBertForMaskedLM.from_pretrained(folder, local_files_only=True).eval()
    prepare_for(model, device, training=False)
    return model


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

    labels: (B,) classes, -1 for "not told"; None tells none. The output layer runs on masked tokens only and answers
    with codes only. Raises ValueError for labels on a model that was trained without.
    """
    ids = hide(indices, mask, mask_id(model))
    classes, codes = classes_of(model), codes_of(model)
    if labels is not None and not classes:
        raise ValueError("labels given to a DistilBERT that was trained without classes")
    if classes:
        labels = torch.full((len(ids),), -1, device=ids.device) if labels is None else labels.to(ids.device)
        told = torch.where(labels < 0, codes + 1 + classes, codes + 1 + labels)
        ids = torch.cat([told.unsqueeze(1), ids], dim=1)
    hidden = model.distilbert(input_ids=ids).last_hidden_state
    hidden = hidden[:, 1:][mask] if classes else hidden[mask]  # (M, dim)
    hidden = model.vocab_layer_norm(model.activation(model.vocab_transform(hidden)))
    projector = model.vocab_projector
    return F.linear(hidden, projector.weight[:codes], projector.bias[:codes]).float()  # (M, K)


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
    targets = indices[mask]
    return F.cross_entropy(logits, targets, reduction="none"), logits.argmax(1) == targets


def prepare_for(model: "DistilBertForMaskedLM", device: torch.device, training: bool = True) -> None:
    """Move to the device. On CPU the plain attention is about twice as fast to train at these sizes, the fused one a
    quarter faster to ask."""
    torch.nn.Module.to(model, device)
    model.set_attn_implementation("eager" if training and device.type == "cpu" else "sdpa")


def blank_out(codes: Tensor, mask: Tensor, blank: Tensor) -> Tensor:
    """Code vectors (B, D, h, w) with `blank` (D,) where `mask` (B, N) is True: what is left without completion."""
    b, _, h, w = codes.shape
    return torch.where(mask.view(b, 1, h, w), blank.view(1, -1, 1, 1), codes)


@dataclass(frozen=True)
class Filling:
    """How masked tokens are filled. `temperature` 0 takes the likeliest code, otherwise codes are drawn.

    passes: 1 fills everything at once; more fill a part each, the sure tokens ("confidence") or well spread ones
    ("halton") first, so that later ones see what was filled before.
    """

    passes: int = 1
    order: FillOrder = "confidence"
    temperature: float = 0.0
    top_k: int = 0  # draw from the k likeliest codes; 0: from all
    top_p: float = 1.0  # draw from the likeliest codes that together have this probability
    guidance_scale: float = 1.0  # with labels


class Completed(NamedTuple):
    """A completed batch of grids. Tokens that were not masked are as they were, with confidence 1."""

    indices: Tensor  # (B, N) long
    expected: Tensor  # (B, N, D): mean of all code vectors weighted by their probability when the token was filled
    confidence: Tensor  # (B, N): the probability of the code that was filled in


@torch.no_grad()
def complete(
    model: "DistilBertForMaskedLM",
    indices: Tensor,
    mask: Tensor,
    codebook: Tensor,
    filling: Filling = Filling(),
    generator: torch.Generator | None = None,
    labels: Tensor | None = None,
    bf16: bool = False,
) -> Completed:
    """Fill all masked tokens; the others stay as they are. codebook: (K, D) code vectors.

    generator: on the CPU; needed when temperature > 0. bf16: the model is asked in bfloat16, the rest is float32.
    """
    completed, expected = indices.clone(), codebook[indices.masked_fill(mask, 0)]
    confidence = torch.ones_like(expected[..., 0])
    waiting = mask.clone()
    for step in range(filling.passes):
        if not waiting.any():
            break
        with torch.autocast(indices.device.type, torch.bfloat16, enabled=bf16):
            logits = guided_logits(model, completed, waiting, labels, filling.guidance_scale)  # (M, K)
        chosen = choose_codes(logits, filling, generator)
        probabilities = logits.softmax(1)
        sure = torch.full_like(confidence, -1)
        sure[waiting] = probabilities.gather(1, chosen.unsqueeze(1)).squeeze(1)
        candidates = completed.masked_scatter(waiting, chosen)
        now = waiting & _take_now(waiting, mask, sure, step, filling)
        rows = now[waiting]
        completed = torch.where(now, candidates, completed)
        expected[now] = probabilities[rows] @ codebook
        confidence[now] = sure[now]
        waiting = waiting & ~now
    return Completed(completed, expected, confidence)


def choose_codes(logits: Tensor, filling: Filling, generator: torch.Generator | None) -> Tensor:
    """(M, K) -> (M,): the likeliest code, or one drawn after temperature, top-k and top-p.

    Raises ValueError when something is to be drawn without a generator.
    """
    if filling.temperature == 0:
        return logits.argmax(1)
    if generator is None:
        raise ValueError("drawing codes needs a generator")
    probabilities = truncate(logits / filling.temperature, filling.top_k, filling.top_p).softmax(1)
    return draw_codes(probabilities, generator)


def draw_codes(probabilities: Tensor, generator: torch.Generator) -> Tensor:
    """(M, K) -> (M,): a code of each row, by inverting its distribution; never one of probability zero. generator: on
    the CPU. (torch.multinomial does the same in ten times the time on a CPU.)"""
    reached = probabilities.double().cumsum(1)
    drawn = torch.rand(len(probabilities), 1, generator=generator).to(reached) * reached[:, -1:]
    return torch.searchsorted(reached, drawn, right=True).squeeze(1)


def truncate(logits: Tensor, top_k: int = 0, top_p: float = 1.0) -> Tensor:
    """(M, K): minus infinity for all but the `top_k` likeliest, and for the tail beyond probability `top_p`.

    The likeliest code always stays. top_k 0 and top_p 1 keep all.
    """
    if 0 < top_k < logits.shape[1]:
        least = logits.topk(top_k, dim=1).values[:, -1:]
        logits = logits.masked_fill(logits < least, -math.inf)
    if top_p < 1:
        ordered, places = logits.sort(dim=1, descending=True)
        before = ordered.softmax(1).cumsum(1) - ordered.softmax(1)  # probability of all likelier codes
        tail = torch.zeros_like(ordered, dtype=torch.bool).scatter(1, places, before >= top_p)
        tail.scatter_(1, places[:, :1], False)
        logits = logits.masked_fill(tail, -math.inf)
    return logits


def _take_now(waiting: Tensor, mask: Tensor, sure: Tensor, step: int, filling: Filling) -> Tensor:
    """(B, N) bool: the tokens to fill in this pass. After pass s of S, cos(pi/2 * s/S) of the masked still wait."""
    total = mask.sum(1)
    share = math.cos(math.pi / 2 * (step + 1) / filling.passes) if step + 1 < filling.passes else 0.0
    count = (waiting.sum(1) - (total * share).floor().long()).clamp(min=1)
    if filling.order == "halton":
        side = math.isqrt(waiting.shape[1])
        early = halton_order(side, waiting.shape[1] // side).to(sure.device).expand_as(waiting).float()
        preference = -early
    else:
        preference = sure
    preference = preference.masked_fill(~waiting, -math.inf)
    ranks = preference.argsort(dim=1, descending=True, stable=True).argsort(dim=1, stable=True)
    return ranks < count.unsqueeze(1)


def halton_order(height: int, width: int) -> Tensor:
    """(N,) long: the rank of each token in the Halton sequence of bases 2 and 3, which spreads early ones evenly."""
    seen: dict[int, int] = {}
    number = 0
    while len(seen) < height * width:
        number += 1
        token = int(_radical_inverse(number, 2) * height) * width + int(_radical_inverse(number, 3) * width)
        seen.setdefault(token, len(seen))
    ranks = torch.empty(height * width, dtype=torch.long)
    ranks[torch.tensor(list(seen))] = torch.arange(height * width)
    return ranks


def _radical_inverse(number: int, base: int) -> float:
    """The digits of `number` mirrored behind the point: 6 = 110 in base 2 gives .011 = 3/8."""
    value, scale = 0.0, 1.0 / base
    while number:
        number, digit = divmod(number, base)
        value, scale = value + digit * scale, scale / base
    return value
