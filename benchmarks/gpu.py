"""Training steps on a GPU: ours as it ships, ours in plain float32, and the textbook recipe; and the share of the GPU's
matrix peak that they reach.

Goal: ten times the pictures per second of eager float32. VQ-VAE at 64x64 and 128x128, DistilBERT with 256 and 1,024
tokens. "as shipped" is bf16, compiled, with fused attention; "eager float32" the same model without these. The textbook
recipe is that of training_step.py. A step is forward, backward, clipping and optimizer; pictures and grids are noise
that lies ready. Ways take turns; each is warmed up, compilation included.

The peak is that of a product of two large square matrices in the same arithmetic, measured here. Operations of a step
are those of convolutions, linear layers and attention, two for a multiplication with its addition, counted by torch in
forward and backward. Convolutions may be computed with fewer.

    python benchmarks/gpu.py --save docs/tables/gpu.csv
    python benchmarks/gpu.py --run.device cpu --tiny       # tries every way in a moment
"""

import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

if __name__ == "__main__":  # started as a file: the project is one folder up
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch import Tensor, nn

from benchmarks.measured import (
    benchmark_parser,
    counted_operations,
    matrix_peak,
    save_table,
    seconds_of,
    show_columns,
)  # fmt: skip
from masked_memory.models.distilbert import DistilShape, build_distilbert, masked_cross_entropy, prepare_for
from masked_memory.pipeline.files import InputError
from masked_memory.pipeline.machine import Machine, generator, prepare_machine, versions
from masked_memory.pipeline.optimizer import FitOptimizer
from masked_memory.settings.common import RunSection
from masked_memory.stages.masking import training_mask
from masked_memory.stages.vqvae import VQVAE, VQVAEConfig

GPU_HEADER = (
    "model", "size", "recipe", "pictures_per_second", "lowest", "highest", "times_eager_float32", "share_of_peak",
)  # fmt: skip
RECIPES = ("eager float32", "as shipped", "textbook, eager float32")
WARM_STEPS = 5


@dataclass(frozen=True)
class Task:
    """What is trained, and how large: `size` is the side of pictures, or the number of tokens."""

    model: str
    size: int
    batch: int
    hidden: int
    codes: int


TASKS = (
    Task("VQ-VAE", 64, 256, 128, 512), Task("VQ-VAE", 128, 128, 128, 8192),
    Task("DistilBERT", 256, 256, 384, 512), Task("DistilBERT", 1024, 64, 384, 8192),
)  # fmt: skip
TINY = (Task("VQ-VAE", 16, 4, 16, 16), Task("DistilBERT", 16, 4, 16, 16))


@dataclass(frozen=True)
class TimedStep:
    task: Task
    recipe: str
    step: Callable[[], None]
    operations: int  # of a step


def make_step(task: Task, recipe: str, machine: Machine, compiled: bool) -> TimedStep:
    """A fresh model with its optimizer, not yet warmed up."""
    torch.manual_seed(0)
    shipped = recipe == "as shipped"
    made = _vqvae(task, recipe, machine) if task.model == "VQ-VAE" else _distilbert(task, shipped, machine)
    model, parts, loss_of = made
    if shipped and compiled:
        for part in parts:
            part.compile()
    textbook = recipe.startswith("textbook")
    undecayed = ("quantizer.codebook",) if textbook else ()
    optimizer = FitOptimizer(model, "adamw" if textbook else "muon", 1e-3, 1e-4, undecayed)

    def step() -> None:
        with torch.autocast(machine.device.type, torch.bfloat16, enabled=shipped and machine.bf16):
            loss = loss_of()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step(1e-4)

    return TimedStep(task, recipe, step, counted_operations(lambda: loss_of().backward()))


#: The model, its parts that are compiled, and the loss of a step.
GPUTask = tuple[nn.Module, list[nn.Module], Callable[[], Tensor]]


def _vqvae(task: Task, recipe: str, machine: Machine) -> GPUTask:
    config = VQVAEConfig(image_size=task.size, hidden=task.hidden, codebook_size=task.codes, data_init=False)
    if recipe.startswith("textbook"):
        config = replace(config, stem="strided", codebook_update="gradient", restart_share=0)
    layout = torch.channels_last if recipe == "as shipped" else torch.contiguous_format
    model = VQVAE(config).to(machine.device).to(memory_format=layout).train()
    noise = torch.rand(task.batch, 3, task.size, task.size, generator=generator(0)) * 2 - 1
    pictures, draws = noise.to(machine.device, memory_format=layout), generator(1)
    return model, [model.encoder, model.decoder], lambda: model(pictures, draws).losses["loss"]


def _distilbert(task: Task, shipped: bool, machine: Machine) -> GPUTask:
    model = build_distilbert(task.codes, task.size, DistilShape(task.hidden, 6, max(1, task.hidden // 64))).train()
    prepare_for(model, machine.device)
    if not shipped:
        model.set_attn_implementation("eager")
    grids = torch.randint(0, task.codes, (task.batch, task.size), generator=generator(2)).to(machine.device)
    draws = generator(3)

    def loss() -> Tensor:
        mask = training_mask(task.batch, task.size, "uniform", draws)
        return masked_cross_entropy(model, grids, mask)[0].mean()

    return model, [model.distilbert], loss


def measure_task(task: Task, machine: Machine, rounds: int, steps: int, compiled: bool, side: int) -> list[list[str]]:
    """A row for each recipe; recipes take turns."""
    recipes = RECIPES if task.model == "VQ-VAE" else RECIPES[:2]
    ways = [make_step(task, recipe, machine, compiled) for recipe in recipes]
    peaks = {bf16: matrix_peak(bf16, machine.device, side) for bf16 in {False, machine.bf16}}
    for way in ways:
        seconds_of(way.step, WARM_STEPS, machine.device)
    turns: list[list[float]] = [[] for _ in ways]
    for _ in range(rounds):
        for way, seconds in zip(ways, turns, strict=True):
            seconds.append(seconds_of(way.step, steps, machine.device))
    eager, rows = statistics.median(turns[0]), []
    for way, seconds in zip(ways, turns, strict=True):
        median = statistics.median(seconds)
        rates = (task.batch / median, task.batch / max(seconds), task.batch / min(seconds))
        share = way.operations / median / peaks[machine.bf16 and way.recipe == "as shipped"]
        shown = [f"{rate:.1f}" for rate in rates]
        rows.append([task.model, str(task.size), way.recipe, *shown, f"{eager / median:.2f}", f"{share:.3g}"])
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    parser = benchmark_parser("gpu", __doc__)
    parser.add_argument("--run.device", dest="device", default="cuda", help="where to compute [cuda]")
    parser.add_argument("--tiny", action="store_true", help="small models and no compilation")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="turns of each way [5]")
    parser.add_argument("--steps", type=int, default=20, metavar="N", help="steps of a turn [20]")
    parser.add_argument("--save", type=Path, metavar="FILE", help="also write the table there, as CSV")
    given = parser.parse_args(argv)
    try:
        machine = prepare_machine(RunSection(device=given.device), lambda text: None)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    rows = []
    for task in TINY if given.tiny else TASKS:
        rows += measure_task(task, machine, given.rounds, given.steps, not given.tiny, 256 if given.tiny else 8192)
    print(
        f"{machine.describe().split(',')[0]}, torch {versions()['torch']}; {given.rounds} turns of {given.steps} steps"
    )
    show_columns(GPU_HEADER, rows)
    if given.save:
        save_table(given.save, GPU_HEADER, rows, machine, "python benchmarks/gpu.py")
    return 0


if __name__ == "__main__":
    sys.exit(main())
