"""Several training seeds of the whole study: their spread, and which differences between strategies hold.

Reads:  the newest finished study in each runs folder of compare_seeds.folders (`make seeds` makes five)
Writes: runs/compare_seeds/<run>/ with seeds.csv, paired.csv, models.csv and figures/seeds.png

    python -m masked_memory compare_seeds
    python -m masked_memory compare_seeds --compare_seeds.folders "elsewhere/seed-*"

All seeds must share the split and measure the same pictures (same data settings, same reconstruct_masked.pictures).
"""

import sys
from typing import Any

from masked_memory.measuring.paired import say_who_is_better
from masked_memory.pipeline.machine import Stream, generator, prepare_machine
from masked_memory.pipeline.metrics import Bootstrap
from masked_memory.pipeline.rows import Rows, write_rows
from masked_memory.pipeline.stage import open_stage, say
from masked_memory.rivals.measuring.seeds import (
    MODELS_HEADER,
    SEED_PAIRS_HEADER,
    SEEDS_HEADER,
    find_seeds,
    model_rows,
    seed_pairs,
    seed_rows,
    seeds_figure,
    stacked_values,
)
from masked_memory.settings.command import stage_main
from masked_memory.settings.config import Config

FILES = ("seeds.csv", "paired.csv", "models.csv")
SHOWN_METRICS = ("test_psnr", "test_top1_originals", "test_top1_reconstructions", "test_loss_at_50")


def run(cfg: Config, trial: Any = None, resume: bool = False) -> float:
    """The whole stage; returns how many seeds there are."""
    machine = prepare_machine(cfg.run, say)
    section, seed = cfg.compare_seeds, cfg.run.seed
    seeds = find_seeds(section.folders)
    values, split_hash = stacked_values(seeds)
    with open_stage(
        "compare_seeds", cfg, {each.runs.name: str(each.study) for each in seeds}, machine, resume
    ) as stage:
        bootstrap = Bootstrap(section.bootstrap, lambda: generator(seed, Stream.BOOTSTRAP))
        rows = seed_rows(values, bootstrap)
        write_rows(stage.folder.path / "seeds.csv", SEEDS_HEADER, rows)
        pairs = seed_pairs(values, bootstrap, generator(seed, Stream.SIGN_FLIPS))
        write_rows(stage.folder.path / "paired.csv", SEED_PAIRS_HEADER, pairs)
        models = model_rows(seeds)
        write_rows(stage.folder.path / "models.csv", MODELS_HEADER, models)
        stage.figure("seeds", seeds_figure(rows))
        report(models, pairs, len(seeds))
        stage.finish(f"seeds of {split_hash}", extra_artifacts=FILES)
        return float(len(seeds))


def report(models: Rows, pairs: Rows, seeds: int) -> None:
    """The models over the seeds, and who is better than the reference."""
    for row in models:
        if row["metric"] in SHOWN_METRICS:
            say(f"{row['stage']:<24}{row['metric']:<28}{row['mean']:.4g} (sd {row['seed_sd']:.2g} over {seeds} seeds)")
    say_who_is_better(pairs)


def main() -> int:
    return stage_main("compare_seeds", run, __doc__ or "")


if __name__ == "__main__":
    sys.exit(main())
