"""Pictures per second of a training step of the VQ-VAE, beside the textbook recipe at the same size.

Claim: at the size of the published memory study (80x80 pixels, 400 tokens, K = 456, 144 channels, batches of 32) a step
of `train_vqvae.py` takes at most half of the time of the textbook's in float32, on a CPU.

The textbook recipe is written anew from van den Oord et al. 2017: strided 4x4 convolutions, residual blocks without
normalisation, a codebook that moves by its gradient, Adam. Ours is that of config.yaml: Muon and AdamW, an EMA codebook
with restarts. A step is forward, backward, clipping and optimizer; pictures are noise that lies ready. Ways take turns,
and each is warmed up. The share of the peak is that of a product of two large square matrices in the same arithmetic,
measured here; counted are convolutions and linear layers, forward and backward.

    python benchmarks/training_step.py
    python benchmarks/training_step.py --rounds 3 --batch 8 --size 32 --hidden 32 --codes 64 --save step.csv
"""

import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

if __name__ == "__main__":  # started as a file: the project is one folder up
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch import Tensor, nn

from benchmarks.measured import (
    add_numbers,
    benchmark_parser,
    counted_operations,
    matrix_peak,
    save_table,
    seconds_of,
    show_columns,
)  # fmt: skip
from masked_memory.pipeline.machine import generator, prepare_machine, versions
from masked_memory.pipeline.optimizer import FitOptimizer, OptimizerKind
from masked_memory.settings.common import RunSection
from masked_memory.stages.vqvae import VQVAE, VQVAEConfig

STEP_HEADER = (
    "recipe",
    "arithmetic",
    "parameters",
    "pictures_per_second",
    "lowest",
    "highest",
    "times_textbook",
    "gigaoperations_of_a_picture",
    "share_of_peak",
)
WARM_UP = 3
STEPS = 4  # of a turn
PEAK_SIDE = 2048


@dataclass(frozen=True)
class TimedRecipe:
    """A recipe in float32 or bfloat16. `step` trains once on the pictures that lie ready."""

    recipe: str
    bf16: bool
    model: VQVAE
    step: Callable[[], Tensor]
    operations: int  # of a step

    @property
    def arithmetic(self) -> str:
        return "bf16" if self.bf16 else "float32"


def make_way(recipe: str, bf16: bool, config: VQVAEConfig, pictures: Tensor) -> TimedRecipe:
    """A fresh model with its optimizer. recipe: textbook or ours."""
    torch.manual_seed(0)
    model = VQVAE(config).to(pictures.device).to(memory_format=torch.channels_last).train()
    kind: OptimizerKind = "muon" if recipe == "ours" else "adamw"
    undecayed = ("quantizer.codebook",) if config.codebook_update == "gradient" else ()
    optimizer, draws = FitOptimizer(model, kind, 1e-3, 1e-4, undecayed), generator(0)

    def step() -> Tensor:
        with torch.autocast(pictures.device.type, torch.bfloat16, enabled=bf16):
            loss = model(pictures, draws).losses["loss"]
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step(1e-3)
        return loss.detach()

    operations = counted_operations(lambda: model(pictures, draws).losses["loss"].backward())
    return TimedRecipe(recipe, bf16, model, step, operations)


def measure(ways: Sequence[TimedRecipe], batch: int, rounds: int, device: torch.device) -> list[list[object]]:
    """A row for each way; ways take turns."""
    for way in ways:
        seconds_of(way.step, WARM_UP, device)
    turns: list[list[float]] = [[] for _ in ways]
    for _ in range(rounds):
        for way, seconds in zip(ways, turns, strict=True):
            seconds.append(seconds_of(way.step, STEPS, device))
    peaks = {bf16: matrix_peak(bf16, device, PEAK_SIDE) for bf16 in {way.bf16 for way in ways}}
    medians = [statistics.median(seconds) for seconds in turns]
    return [
        [
            way.recipe,
            way.arithmetic,
            sum(p.numel() for p in way.model.parameters()),
            f"{batch / median:.1f}",
            f"{batch / max(seconds):.1f}",
            f"{batch / min(seconds):.1f}",
            f"{medians[0] / median:.2f}",
            f"{way.operations / batch / 1e9:.3g}",
            f"{way.operations / median / peaks[way.bf16]:.3g}",
        ]
        for way, seconds, median in zip(ways, turns, medians, strict=True)
    ]


def main(argv: Sequence[str] | None = None) -> int:
    parser = benchmark_parser("training_step", __doc__)
    add_numbers(
        parser,
        ("size", 80, "side of the pictures"),
        ("codes", 456, "K"),
        ("hidden", 144, "channels"),
        ("batch", 32, "pictures of a step"),
        ("rounds", 7, "turns of each way"),
        ("threads", 0, "CPU threads, 0: all cores"),
    )
    parser.add_argument("--save", type=Path, metavar="FILE", help="also write the table there, as CSV")
    asked = parser.parse_args(argv)
    machine = prepare_machine(RunSection(threads=asked.threads))
    shape = {"image_size": asked.size, "hidden": asked.hidden, "codebook_size": asked.codes, "code_dim": 64}
    ours = VQVAEConfig(**shape)
    textbook = VQVAEConfig(**shape, stem="strided", codebook_update="gradient", data_init=False, restart_share=0)
    noise = torch.rand(asked.batch, 3, asked.size, asked.size, generator=generator(0)) * 2 - 1
    pictures = noise.to(machine.device, memory_format=torch.channels_last)
    recipes = (("textbook", False, textbook), ("textbook", True, textbook), ("ours", False, ours), ("ours", True, ours))
    ways = [make_way(name, bf16, config, pictures) for name, bf16, config in recipes if machine.bf16 or not bf16]
    rows = measure(ways, asked.batch, asked.rounds, machine.device)
    print(f"{machine.describe().split(',')[0]}, torch {versions()['torch']}; {asked.rounds} turns of {STEPS} steps")
    show_columns(STEP_HEADER, rows)
    if asked.save:
        call = f"python benchmarks/training_step.py --rounds {asked.rounds}"
        save_table(asked.save, STEP_HEADER, rows, machine, call)
    return 0


if __name__ == "__main__":
    sys.exit(main())
