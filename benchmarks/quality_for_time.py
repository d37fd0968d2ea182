"""What a VQ-VAE has learnt after so many seconds: ours, and the textbook recipe in the same time.

Claim: two minutes on two cores, reading and restarts included, are enough for 25 dB, SSIM .80 and 85 % of the codes in
use on Imagenette at 64x64 with 512 codes.

Ours is what `train_vqvae.py` would fit, with the settings given. The textbook recipe is written anew from van den Oord
et al. 2017: strided 4x4 convolutions, residual blocks without normalisation, a codebook that starts uniform and moves
by its gradient, Adam; it has the same width, codes, batches, precision and schedule, and of several learning rates the
one of least validation error with the first seed, so that it is fitted a few times more. The learning rate falls to
zero over the time that is given. Test pictures are looked at once, after that.

Reads the split of the run folder, writes nothing unless --save is given. SSIM is that of
`masked_memory/pipeline/metrics.py`.

    python data_split.py --config presets/imagenette.yaml --data.source PATH
    python benchmarks/quality_for_time.py --config presets/imagenette.yaml --data.source PATH \\
        --train_vqvae.hidden 128 --train_vqvae.learning_rate 8e-3 --train_vqvae.commitment_weight 1.0

All options of train_vqvae.py work, too: --config, --run.dir, --train_vqvae.hidden, ...
"""

import itertools
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

if __name__ == "__main__":  # started as a file: the project is one folder up
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from masked_memory.stages.train_vqvae import VQVAELearner, evaluate
from torch import Tensor, nn

from benchmarks.measured import benchmark_parser, save_table, show_columns
from masked_memory.handoff.split import open_split
from masked_memory.pipeline.engine import FitPlan, build_optimizer, learning_rate_at
from masked_memory.pipeline.machine import Machine, generator, prepare_machine, seed_everything, versions
from masked_memory.pipeline.stage import say
from masked_memory.settings.command import stage_main
from masked_memory.settings.config import Config
from masked_memory.settings.train_vqvae import TrainVQVAESection

QUALITY_HEADER = (
    "recipe", "learning_rate", "seed", "seconds", "steps", "psnr", "ssim", "perplexity", "codes", "share_of_codes_used",
)  # fmt: skip
TEXTBOOK = {
    "stem": "strided", "codebook_update": "gradient", "codebook_start": "uniform", "data_init": False,
    "restart_share": 0, "code_dim": 64, "commitment_weight": 0.25, "normalize_codes": False, "rotation_trick": False,
    "optimizer": "adamw", "weight_decay": 0,
}  # fmt: skip
TEXTBOOK_RATES = (3e-4, 1e-3, 3e-3, 1e-2)
MOMENTS = 10_000  # into which the schedule divides the time


class Timed(NamedTuple):
    """A fit that is over."""

    section: TrainVQVAESection
    seed: int
    learner: VQVAELearner
    steps: int


def batches_for(count: int, batch: int, draws: torch.Generator) -> Iterator[Tensor]:
    """Rows of one batch after another, without an end."""
    for _ in itertools.count():
        yield from torch.randperm(count, generator=draws).split(batch)[: max(1, count // batch)]


def timed_plan(section: TrainVQVAESection, seed: int) -> FitPlan:
    return FitPlan(
        epochs=1, horizon=1, batch_size=section.batch_size, learning_rate=section.learning_rate,
        weight_decay=section.weight_decay, warmup=section.warmup, clip_norm=section.clip_norm, patience=None,
        monitor="loss", lower_is_better=True, seed=seed, optimizer=section.optimizer,
    )  # fmt: skip


def train_for(seconds: float, learner: Any, plan: FitPlan, machine: Machine) -> int:
    """The steps that were done, at least one. learner: a VQVAELearner."""
    optimizer, draws = build_optimizer(learner, plan), generator(plan.seed)
    batches = batches_for(learner.count, plan.batch_size, draws)
    learner.model.train()
    ahead = next(batches)
    learner.read_ahead(ahead)
    began, steps = time.perf_counter(), 0
    while not steps or time.perf_counter() - began < seconds:
        rows, ahead = ahead, next(batches)
        learner.read_ahead(ahead)
        passed = (time.perf_counter() - began) / seconds if seconds else 1.0
        moment = min(MOMENTS - 1, int(MOMENTS * passed))
        with torch.autocast(machine.device.type, torch.bfloat16, enabled=machine.bf16):
            loss = learner.step(rows, draws)["loss"]
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(learner.model.parameters(), plan.clip_norm)
        optimizer.step(learning_rate_at(moment, MOMENTS, plan))
        steps += 1
    return steps


def run(cfg: Config, resume: bool, seconds: float, seeds: int, save: Path | None, typed: str) -> float:
    """PSNR of ours on the test pictures, in the mean over seeds. typed: the other options, for the table."""
    machine, split = prepare_machine(cfg.run, say), open_split(cfg)
    test = split.positions("test")

    def fitted(section: TrainVQVAESection, seed: int) -> Timed:
        seed_everything(seed)
        learner = VQVAELearner(section, split, machine, with_val=False)
        return Timed(section, seed, learner, train_for(seconds, learner, timed_plan(section, seed), machine))

    def row(recipe: str, timed: Timed) -> list[object]:
        found, section = evaluate(timed.learner, test), timed.section
        made = [
            recipe, section.learning_rate, timed.seed, f"{seconds:g}", timed.steps, f"{found['psnr']:.3f}",
            f"{found['ssim']:.4f}", f"{found['perplexity']:.1f}", section.codebook_size, f"{found['codes_used']:.4f}",
        ]  # fmt: skip
        print(*made, flush=True)
        return made

    say(f"{machine.describe()}, torch {versions()['torch']}; {seconds:g} s for each fit")
    print(*QUALITY_HEADER, flush=True)
    rows = [row("ours", fitted(cfg.train_vqvae, seed)) for seed in range(seeds)]
    ways = [cfg.train_vqvae.replace(TEXTBOOK | {"learning_rate": rate}) for rate in TEXTBOOK_RATES]
    best = min((fitted(way, 0) for way in ways), key=lambda one: evaluate(one.learner, split.positions("val"))["mse"])
    rows.append(row("textbook", best))
    rows += [row("textbook", fitted(best.section, seed)) for seed in range(1, seeds)]
    print()
    show_columns(QUALITY_HEADER, rows)
    if save:
        call = f"python benchmarks/quality_for_time.py --seconds {seconds:g} {typed}"
        save_table(save, QUALITY_HEADER, rows, machine, call.strip())
    return sum(float(str(each[5])) for each in rows[:seeds]) / seeds


def without_places(words: Sequence[str]) -> str:
    """What was typed, for others to type."""
    shown = list(words)
    for option, place in (("--data.source", "PATH"), ("--run.dir", "runs")):
        for at in [number for number, word in enumerate(shown[:-1]) if word == option]:
            shown[at + 1] = place
    return " ".join(shown)


def main(argv: Sequence[str] | None = None) -> int:
    parser = benchmark_parser("quality_for_time", __doc__)
    parser.add_argument("--seconds", type=float, default=120.0, metavar="S", help="of training [120]")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="fits of each recipe [3]")
    parser.add_argument("--save", type=Path, metavar="FILE", help="also write the table there, as CSV")
    known, others = parser.parse_known_args(argv)
    if known.seconds <= 0 or known.seeds < 1:
        parser.error("--seconds and --seeds have to be above 0")
    measure = partial(run, seconds=known.seconds, seeds=known.seeds, save=known.save, typed=without_places(others))
    return stage_main("train_vqvae", measure, __doc__ or "", argv=others, resumable=False)


if __name__ == "__main__":
    sys.exit(main())
