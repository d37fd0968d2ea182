"""How time and memory grow: with pictures, tokens of the grid, codes, the batch, and over strategies.

Each point is measured in a process of its own: one call to warm up, the median of several. Models are untrained, of
the sizes of config.yaml; pictures and grids are noise. An exponent is the slope of log time over log size.

    python benchmarks/growth.py grid --save grid.csv --figure grid.png
    python benchmarks/growth.py pictures --sizes 1000 10000

pictures    an epoch of each training over so many pictures in a cache; seconds of an epoch
grid        choosing by each strategy, and the whole study of config.yaml, over so many tokens; seconds of a picture
codes       a training step of each model, and completion, with so many codes; seconds of a picture
batch       a training step of each model with so many pictures; seconds of a picture
strategies  choosing on the grid of config.yaml, strategy by strategy; seconds of a picture
"""

import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # started as a file: the project is one folder up
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
from masked_memory.stages.train_distil import DistilLearner
from masked_memory.stages.train_vqvae import VQVAELearner
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from benchmarks.measured import benchmark_parser, in_own_process, resident_megabytes, save_table, show_columns
from masked_memory.handoff.manifest import Manifest
from masked_memory.handoff.split import Split
from masked_memory.handoff.vqvae import HandedIndices, HandedVQVAE
from masked_memory.measuring.study import Batch, StudyPlan, judge, recall_batch
from masked_memory.models.codes import Filling
from masked_memory.models.distilbert import DistilShape, build_distilbert, masked_cross_entropy, prepare_for
from masked_memory.pipeline.engine import FitPlan, fit
from masked_memory.pipeline.figures import BLUE, GREEN, GREY, ORANGE, PURPLE, new_figure, save_png
from masked_memory.pipeline.machine import Machine, generator, prepare_machine, versions
from masked_memory.pipeline.metrics import to_unit
from masked_memory.pipeline.optimizer import FitOptimizer
from masked_memory.recall.choosing import Choosing, choose_order
from masked_memory.recall.memory import Memory
from masked_memory.settings.common import RunSection
from masked_memory.settings.reconstruct_masked import ReconstructMaskedSection
from masked_memory.settings.strategies import STRATEGIES
from masked_memory.settings.train_distil import TrainDistilSection
from masked_memory.settings.train_vqvae import TrainVQVAESection
from masked_memory.stages.masking import random_mask, training_mask
from masked_memory.stages.vqvae import VQVAE, VQVAEConfig

GROWTH_HEADER = ("against", "what", "size", "seconds", "low", "high", "peak_megabytes")
ASKING = tuple(name for name in ReconstructMaskedSection().strategies if not STRATEGIES[name].free)
TRAININGS = ("VQ-VAE", "DistilBERT")
WHOLE_STUDY, COMPLETION = "whole study", "completion"
TOKENS_OF_A_CALL = 4096  # pictures of a call are as many as have so many tokens
GROWTH_LOOKS = tuple((colour, style) for style in ("-", "--", ":") for colour in (BLUE, ORANGE, GREEN, PURPLE, GREY))

#: What is done once, and how many pictures that is; a point is seconds of a picture.
Work = tuple[Callable[[], object], int]


@dataclass(frozen=True)
class Axis:
    """sizes: the default ones; whats: the lines."""

    label: str
    unit: str
    sizes: tuple[int, ...]
    whats: tuple[str, ...]
    work: Callable[[str, int, Machine], Work]


def shape_of(tokens: int = 64, codes: int = 256) -> VQVAEConfig:
    section = TrainVQVAESection()
    return VQVAEConfig(
        image_size=4 * math.isqrt(tokens), hidden=section.hidden, residual_blocks=section.residual_blocks,
        codebook_size=codes, code_dim=section.code_dim, data_init=False,
    )  # fmt: skip


def fresh_memory(config: VQVAEConfig, machine: Machine) -> Memory:
    torch.manual_seed(0)
    section = TrainDistilSection()
    vqvae = VQVAE(config).to(machine.device).eval()
    distil = build_distilbert(
        config.codebook_size, config.tokens, DistilShape(section.dim, section.layers, section.heads)
    ).eval()
    prepare_for(distil, machine.device, training=False)
    shares = torch.full((config.tokens, config.codebook_size), 1 / config.codebook_size, device=machine.device)
    return Memory(vqvae, distil, None, shares, machine.device, machine.bf16, budget=machine.memory)


def noise_pictures(count: int, config: VQVAEConfig, machine: Machine) -> Tensor:
    shape = (count, config.channels, config.image_size, config.image_size)
    return (torch.rand(shape, generator=generator(0)) * 2 - 1).to(machine.device)


def noise_grids(count: int, config: VQVAEConfig, machine: Machine) -> Tensor:
    shape = (count, config.tokens)
    return torch.randint(0, config.codebook_size, shape, generator=generator(1)).to(machine.device)


def pictures_of_a_call(config: VQVAEConfig) -> int:
    return max(1, TOKENS_OF_A_CALL // config.tokens)


# --- what is measured -------------------------------------------------------------------------------------------------


def choosing_work(what: str, tokens: int, machine: Machine) -> Work:
    """A strategy, or the whole study: all strategies, and all percentages and decodings of config.yaml."""
    config, plan = shape_of(tokens), study_plan()
    memory, count = fresh_memory(config, machine), pictures_of_a_call(config)
    grids = noise_grids(count, config, machine)
    if what != WHOLE_STUDY:
        return lambda: choose_order(what, memory, grids, generator(2), plan.choosing), count
    whole = memory.paint_tokens(grids)
    truth, labels = to_unit(noise_pictures(count, config, machine)), torch.zeros(count, dtype=torch.long)
    batch = Batch(slice(0, count), truth, to_unit(whole), grids, labels.to(machine.device), {})

    def study() -> None:
        for name in plan.strategies:
            choose_order(name, memory, grids, generator(2), plan.choosing)
            for seed in range(plan.seeds if STRATEGIES[name].drawn else 1):
                decodings = plan.decodings if seed == 0 else plan.decodings[-1:]
                for percent in plan.percentages:
                    mask = random_mask(count, tokens, percent / 100, generator(3)).to(machine.device)
                    recalled = recall_batch(memory, batch, mask, plan, decodings, generator(4))
                    for painted, codes in recalled.painted.values():
                        judge(memory, batch, mask, painted, codes)

    return study, count


def study_plan() -> StudyPlan:
    section = ReconstructMaskedSection()
    return StudyPlan(
        strategies=tuple(section.strategies), percentages=tuple(section.percentages),
        decodings=tuple(section.decodings), seeds=section.seeds, seed=0, choosing=Choosing(),
        filling=Filling(temperature=1.0), tell_class=False, batch_size=section.batch_size,
    )  # fmt: skip


def step_work(
    what: str,
    config: VQVAEConfig,
    batch: int,
    machine: Machine,
    show: Callable[[torch.nn.Module], object] = lambda model: None,
) -> Work:
    """A training step of the VQ-VAE or of the DistilBERT, or completion by it. show: is handed what is trained."""
    memory, grids = fresh_memory(config, machine), noise_grids(batch, config, machine)
    if what == COMPLETION:
        mask = random_mask(batch, config.tokens, 0.5, generator(3)).to(machine.device)
        return lambda: memory.logits(grids, mask).softmax(1) @ memory.codebook, batch
    model = (memory.vqvae if what == "VQ-VAE" else memory.distil).train()
    show(model)
    optimizer, draws = FitOptimizer(model, "muon", 1e-3, 1e-4), generator(5)
    pictures = noise_pictures(batch, config, machine)
    prepare_for(memory.distil, machine.device)

    def loss() -> Tensor:
        if what == "VQ-VAE":
            return memory.vqvae(pictures, draws).losses["loss"]
        mask = training_mask(batch, config.tokens, "cosine", draws).to(machine.device)
        return masked_cross_entropy(memory.distil, grids, mask)[0].mean()

    def step() -> None:
        with torch.enable_grad():
            with torch.autocast(machine.device.type, torch.bfloat16, enabled=machine.bf16):
                found = loss()
            optimizer.zero_grad()
            found.backward()
        optimizer.step(1e-4)

    return step, batch


def codes_work(what: str, codes: int, machine: Machine) -> Work:
    return step_work(what, shape_of(codes=codes), 32, machine)


def batch_work(what: str, batch: int, machine: Machine) -> Work:
    return step_work(what, shape_of(), batch, machine)


def epoch_work(what: str, count: int, machine: Machine) -> Work:
    """An epoch over pictures that lie in a file, as it is read in training; counted as one picture."""
    config = shape_of()
    folder = tempfile.TemporaryDirectory()
    split = split_in(Path(folder.name), count, config)
    if what == "VQ-VAE":
        learner: Any = VQVAELearner(TrainVQVAESection(), split, machine, False)
    else:
        vqvae = HandedVQVAE("train_vqvae", Path("-"), fresh_memory(config, machine).vqvae, {})
        grids = np.zeros((len(split.rows), config.grid, config.grid), dtype=np.uint8)
        learner = DistilLearner(
            TrainDistilSection(), split, HandedIndices(Path("-"), grids), vqvae, machine, 0, with_val=False
        )
    plan = FitPlan(
        epochs=1, horizon=1, batch_size=32, learning_rate=1e-4, weight_decay=1e-4, warmup=0.05, clip_norm=1.0,
        patience=None, monitor="loss", lower_is_better=True, seed=0,
    )  # fmt: skip

    def epoch() -> None:
        with folder, torch.enable_grad():
            fit(learner, plan, machine, what)

    return epoch, 1


def split_in(folder: Path, count: int, config: VQVAEConfig) -> Split:
    """`count` training pictures and a few others in a cache that takes no room on the disk."""
    parts = ["train"] * count + ["val"] * 8
    shape = (len(parts), config.image_size, config.image_size, config.channels)
    np.lib.format.open_memmap(folder / "images.npy", "w+", "u1", shape)
    images = np.load(folder / "images.npy", mmap_mode="r")
    rows = ((str(i), str(i), f"class/{i:08}.png", "class", "0", part, f"{i:064}") for i, part in enumerate(parts))
    manifest = Manifest(("position", "row", "path", "class", "label", "split", "hash"), rows)
    meta = {"classes": [], "image_size": config.image_size, "channels": config.channels}
    return Split(folder, meta, manifest, images, np.arange(len(parts)), np.full(len(parts), -1))


AXES = {
    "pictures": Axis("training pictures", "s for an epoch", (1_000, 10_000, 130_000), TRAININGS, epoch_work),
    "grid": Axis("tokens of a grid", "s for a picture", (64, 256, 1024), (*ASKING, WHOLE_STUDY), choosing_work),
    "codes": Axis("codes", "s for a picture", (256, 1024, 4096, 16384), (*TRAININGS, COMPLETION), codes_work),
    "batch": Axis("pictures of a batch", "s for a picture", (4, 16, 64, 256), TRAININGS, batch_work),
    "strategies": Axis("tokens of a grid", "s for a picture", (64,), ASKING, choosing_work),
}


# --- measuring and showing --------------------------------------------------------------------------------------------


@torch.no_grad()
def measure_point(against: str, what: str, size: int, rounds: int, machine: Machine) -> list[object]:
    """A row. An epoch is measured once, without warming up."""
    work, pictures = AXES[against].work(what, size, machine)
    rounds, warm = (1, 0) if against == "pictures" else (rounds, 1)
    seconds = []
    for _ in range(warm + rounds):
        began = time.perf_counter()
        work()
        if machine.device.type == "cuda":
            torch.cuda.synchronize(machine.device)
        seconds.append((time.perf_counter() - began) / pictures)
    taken = [statistics.median(seconds[warm:]), min(seconds[warm:]), max(seconds[warm:])]
    return [against, what, size, *(f"{each:.4g}" for each in taken), f"{resident_megabytes():.0f}"]


def exponent(points: Sequence[tuple[float, float]]) -> float:
    """The slope of log y over log x, by least squares; not a number for fewer than two points."""
    if len(points) < 2:
        return math.nan
    x, y = (np.log([point[side] for point in points]) for side in (0, 1))
    return float(np.polyfit(x, y, 1)[0])


def curves_of(rows: Sequence[Sequence[object]], column: int) -> dict[str, list[tuple[float, float]]]:
    """what -> (size, value of the column), in the order of the rows."""
    found: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        found.setdefault(str(row[1]), []).append((float(str(row[2])), float(str(row[column]))))
    return found


def growth_figure(axis: Axis, rows: Sequence[Sequence[object]]) -> Figure:
    """Time and memory, with exponents of time in the legend beside them, the slowest first; bars where there is one
    size."""
    figure, axes = new_figure(10.0, 3.6, 1, 2)
    for panel, column, unit in ((axes[0, 0], 3, axis.unit), (axes[0, 1], 6, "peak memory, MB")):
        curves = curves_of(rows, column)
        if all(len(points) == 1 for points in curves.values()):
            panel.barh(list(curves), [points[0][1] for points in curves.values()], color=BLUE)
            panel.invert_yaxis()
            panel.set_xlabel(unit, fontsize=8)
            continue
        for (what, points), (colour, style) in zip(curves.items(), GROWTH_LOOKS, strict=False):
            panel.plot(*zip(*points, strict=True), style, color=colour, marker="o", markersize=3, label=what)
        panel.set_xscale("log", base=2)
        panel.set_xticks([point[0] for point in points], [f"{point[0]:,.0f}" for point in points])
        if column == 3:
            panel.set_yscale("log")
            _name_lines(figure, panel, curves)
        else:
            panel.set_ylim(bottom=0)
        panel.set_xlabel(axis.label, fontsize=8)
        panel.set_ylabel(unit, fontsize=8)
    return figure


def _name_lines(figure: Figure, panel: Axes, curves: dict[str, list[tuple[float, float]]]) -> None:
    """Right of the panels, in the order in which the lines of this one end."""
    lines = {str(line.get_label()): line for line in panel.get_lines()}
    names = sorted(curves, key=lambda what: -curves[what][-1][1])
    figure.legend(
        [lines[name] for name in names], [f"{name} ({exponent(curves[name]):.2f})" for name in names],
        loc="outside right upper", title="exponent of time", alignment="left", handlelength=3, fontsize=8,
        title_fontsize=8, frameon=False,
    )  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    parser = benchmark_parser("growth", __doc__)
    parser.add_argument("against", choices=AXES)
    parser.add_argument("--sizes", type=int, nargs="+", metavar="N", help="other sizes")
    parser.add_argument("--only", nargs="+", metavar="WHAT", help="only these lines of the table, by name")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="how often each is measured [5]")
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="CPU threads, 0: all cores [0]")
    parser.add_argument("--save", type=Path, metavar="FILE", help="write the table there, as CSV")
    parser.add_argument("--figure", type=Path, metavar="FILE", help="write the figure there, as PNG")
    parser.add_argument("--point", action="store_true", help="measure one of them at one size, in this process")
    given = parser.parse_args(argv)
    axis = AXES[given.against]
    sizes, whats = given.sizes or axis.sizes, given.only or axis.whats
    if unknown := set(whats) - set(axis.whats):
        parser.error(f"--only {', '.join(sorted(unknown))}; expected one of: {', '.join(axis.whats)}")
    machine = prepare_machine(RunSection(threads=given.threads), lambda text: None)
    if given.point:
        print(*measure_point(given.against, whats[0], sizes[0], given.rounds, machine), sep=",")
        return 0
    rows: list[list[str]] = []
    print(*GROWTH_HEADER, flush=True)
    for what in whats:
        for size in sizes:
            options = ["--only", what, "--sizes", str(size), "--rounds", str(given.rounds)]
            call = [given.against, "--point", *options, "--threads", str(given.threads)]
            rows.append(in_own_process(__file__, call))
            print(*rows[-1], flush=True)
    print(f"\n{machine.describe().split(',')[0]}, torch {versions()['torch']}")
    show_columns(GROWTH_HEADER, rows)
    for what, points in curves_of(rows, 3).items():
        if len(points) > 1:
            print(f"{what}: time grows with exponent {exponent(points):.2f}")
    if given.save:
        typed = f"python benchmarks/growth.py {given.against} --rounds {given.rounds}"
        save_table(given.save, GROWTH_HEADER, rows, machine, typed)
    if given.figure:
        save_png(growth_figure(axis, rows), given.figure)
    return 0


if __name__ == "__main__":
    sys.exit(main())
