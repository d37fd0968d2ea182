"""What a training on several GPUs would take: operations and memory counted, hours and cost worked out.

Counted, on the CPU, of a training step in bf16 with one and two pictures: operations of convolutions, linear layers
and attention, forward and backward, two for a multiplication with its addition; and the bytes that are kept for the
backward pass. Weights, gradients and what the optimizer remembers come on top.

    memory of a GPU = weights + gradients + optimizer + batch_size * kept bytes of a picture
    hours = pictures * epochs * operations of a picture / (GPUs * peak * share * kept) / 3600
    cost = hours * GPUs * price

peak, share, kept and price are yours to give: `python benchmarks/gpu.py` prints the share of a GPU's peak that a step
reaches. Time that is spent on compiling, validation and reading is left out; so is what a GPU library takes for itself.

    python benchmarks/budget.py --config presets/imagenet1k.yaml --peak 990 --share 0.3 --price 3
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

if __name__ == "__main__":  # started as a file: the project is one folder up
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.measured import benchmark_parser, save_table, show_columns
from masked_memory.models.distilbert import DistilShape, build_distilbert, masked_cross_entropy
from masked_memory.pipeline.from_settings import configured
from masked_memory.pipeline.machine import generator, prepare_machine
from masked_memory.pipeline.memory_check import GIGA, kept_bytes
from masked_memory.pipeline.optimizer import FitOptimizer
from masked_memory.settings import loading
from masked_memory.settings.common import RunSection
from masked_memory.settings.config import Config
from masked_memory.stages.vqvae import VQVAE, VQVAEConfig

BUDGET_HEADER = (
    "stage", "gpus", "batch_of_a_gpu", "gigaoperations_of_a_picture", "gigabytes_of_a_gpu", "epochs", "hours", "cost",
)  # fmt: skip
TERA = 1e12


class Counted(NamedTuple):
    """Of a training step: operations and kept bytes of each picture, and bytes that do not grow with the batch."""

    operations: float
    kept_bytes: float
    fixed_bytes: float


class GPUs(NamedTuple):
    """What is given: peak of one in operations a second, the share of it that a step reaches, the share that is left
    with several, and the price of one for an hour."""

    peak: float
    share: float
    kept: float
    price: float


def count_step(model: nn.Module, loss_of: Callable[[int], Tensor], kind: str, learning_rate: float) -> Counted:
    """loss_of: the loss of so many pictures."""
    optimizer = FitOptimizer(model, "muon" if kind == "muon" else "adamw", learning_rate, 1e-4)
    operations, kept = zip(*(_of_pictures(model, loss_of, pictures) for pictures in (1, 2)), strict=True)
    optimizer.step(learning_rate)
    parameters = [p for p in model.parameters() if p.requires_grad]
    remembered = sum(tensor.numel() * tensor.element_size() for tensor in optimizer.tensors().values())
    fixed = sum(2 * p.numel() * p.element_size() for p in parameters) + remembered
    return Counted(operations[1] - operations[0], kept[1] - kept[0], fixed + max(0.0, 2 * kept[0] - kept[1]))


def _of_pictures(model: nn.Module, loss_of: Callable[[int], Tensor], pictures: int) -> tuple[float, float]:
    """Operations, and bytes kept for the backward pass without the weights themselves."""
    model.zero_grad()
    with FlopCounterMode(display=False) as counter:
        kept = kept_bytes(model, lambda: loss_of(pictures), "cpu", bf16=True)
    return float(counter.get_total_flops()), kept


def vqvae_step(cfg: Config) -> tuple[nn.Module, Callable[[int], Tensor]]:
    shape: dict[str, Any] = {"image_size": cfg.data.image_size, "channels": cfg.data.channels, "data_init": False}
    shape |= {"condition_numbers": 0, "condition_classes": ()}
    model = VQVAE(configured(VQVAEConfig, cfg.train_vqvae, **shape)).train()
    draws = generator(1)

    def loss_of(pictures: int) -> Tensor:
        shape = (pictures, cfg.data.channels, cfg.data.image_size, cfg.data.image_size)
        return model(torch.rand(shape, generator=generator(0)) * 2 - 1, draws).losses["loss"]

    return model, loss_of


def distil_step(cfg: Config) -> tuple[nn.Module, Callable[[int], Tensor]]:
    """With half of the tokens masked, which is what a training sees in the mean when ratios are uniform."""
    codes, tokens = cfg.train_vqvae.codebook_size, (cfg.data.image_size // cfg.train_vqvae.stride) ** 2
    model = build_distilbert(codes, tokens, configured(DistilShape, cfg.train_distil)).train()
    model.set_attn_implementation("sdpa")  # as on a GPU

    def loss_of(pictures: int) -> Tensor:
        grids = torch.randint(0, codes, (pictures, tokens), generator=generator(2))
        mask = torch.arange(tokens).expand(pictures, tokens) % 2 == 0
        return masked_cross_entropy(model, grids, mask)[0].mean()

    return model, loss_of


def budget_rows(
    stage: str, step: Counted, batch: int, pictures: int, examples: float, gpus: Sequence[int], given: GPUs
) -> list[list[str]]:
    """A row for each number of GPUs. batch: pictures of each; examples: pictures times epochs."""
    epochs = f"{examples / pictures:.3g}"
    rows = []
    for count in gpus:
        left = given.kept if count > 1 else 1.0
        hours = examples * step.operations / (count * given.peak * given.share * left) / 3600
        memory = (step.fixed_bytes + batch * step.kept_bytes) / GIGA
        cost = f"{hours * count * given.price:.3g}"
        operations = f"{step.operations / GIGA:.3g}"
        rows.append([stage, str(count), str(batch), operations, f"{memory:.3g}", epochs, f"{hours:.3g}", cost])
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    parser = benchmark_parser("budget", __doc__)
    parser.add_argument("--config", type=Path, nargs="+", default=[Path("presets/imagenet1k.yaml")], metavar="FILE")
    parser.add_argument("--pictures", type=int, default=1_281_167, metavar="N", help="to train on [1281167]")
    parser.add_argument("--gpus", type=int, nargs="+", default=[1, 8, 64], metavar="N", help="how many [1 8 64]")
    parser.add_argument("--peak", type=float, required=True, metavar="T", help="10^12 operations a second of one GPU")
    parser.add_argument("--share", type=float, required=True, metavar="S", help="of it that a step reaches, 0 to 1")
    parser.add_argument("--kept", type=float, default=0.9, metavar="S", help="of it that is left with several [0.9]")
    parser.add_argument("--price", type=float, default=0.0, metavar="P", help="of one for an hour [0]")
    parser.add_argument("--save", type=Path, metavar="FILE", help="also write the table there, as CSV")
    asked = parser.parse_args(argv)
    try:
        cfg = loading.load(asked.config, {})
    except loading.ConfigError as error:
        print("\n".join(f"error: {problem}" for problem in error.problems), file=sys.stderr)
        return 2
    machine = prepare_machine(RunSection(device="cpu"), lambda text: None)
    given = GPUs(asked.peak * TERA, asked.share, asked.kept, asked.price)
    rows: list[list[str]] = []
    for stage, section, step in (
        ("train_vqvae", cfg.train_vqvae, vqvae_step),
        ("train_distil", cfg.train_distil, distil_step),
    ):
        found = count_step(*step(cfg), section.optimizer, section.learning_rate)
        examples = float(max(asked.pictures * section.epochs, section.least_steps * section.batch_size))
        rows += budget_rows(stage, found, section.batch_size, asked.pictures, examples, asked.gpus, given)
    show_columns(BUDGET_HEADER, rows)
    if asked.save:
        typed = f"--peak {asked.peak:g} --share {asked.share:g} --kept {asked.kept:g} --price {asked.price:g}"
        save_table(asked.save, BUDGET_HEADER, rows, machine, f"python benchmarks/budget.py {typed}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
