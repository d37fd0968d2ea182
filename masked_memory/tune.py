"""A worker that adds trials to a study of a training stage, beside others on this machine or elsewhere.

Reads:  what the stage reads; all workers need the same settings and run folders (run.dir)
Writes: trials of the study that `tune.study` names, to `tune.storage`; no run folder

    python -m masked_memory tune train_vqvae --train_vqvae.tune.study wide --train_vqvae.tune.trials 60
    python -m masked_memory tune train_vqvae --train_vqvae.tune.study wide --train_vqvae.tune.trials 60 \\
      --train_vqvae.tune.storage postgresql://user@host/optuna

Start as many as there are processors or machines. They end when `tune.trials` trials have ended, those of all workers
together; trials of a worker that was killed are run again. Then `python train_vqvae.py` with the same settings fits
with the best values. A password comes from the environment, such as PGPASSWORD.
"""

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna

from masked_memory.pipeline import tuning
from masked_memory.pipeline.commands import module_of
from masked_memory.pipeline.files import InputError
from masked_memory.pipeline.stage import say
from masked_memory.settings.command import stage_main
from masked_memory.settings.config import Config

TUNED = ("train_vqvae", "train_classifier", "train_distil", "train_prior", "train_mae", "train_painter")
LOWER_IS_BETTER = True  # the score of every stage is a loss or an error


def work(stage: str, cfg: Config) -> float:
    """Adds trials until the study has as many as are asked for; returns the best score."""
    section = getattr(cfg, stage)
    tune = section.tune
    if not tune.study:
        raise InputError(f"workers need a common study; type --{stage}.tune.study NAME")
    module: Any = importlib.import_module(module_of(stage))
    storage = tuning.Storage.of(Path(cfg.run.dir), tune.storage)
    study = tuning.open_study(storage, tune.study, LOWER_IS_BETTER, tune.startup_trials)

    def objective(trial: optuna.Trial, values: dict[str, Any]) -> float:
        score = float(module.run(cfg, trial))
        shown = ", ".join(f"{key} {value}" for key, value in values.items())
        say(f"trial {trial.number}: {score:.4g} with {shown}")
        return score

    tuning.note_settings(study, tuning.settings_beside(section, cfg, stage), say)
    search = tuning.Search.of(section)
    tuning.optimize(study, storage, search, tune.trials, cfg.run.seed, objective, say)
    for line in tuning.trials_table(study, search.start, "score"):
        say(line)
    return float(study.best_value)


def main(argv: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    stage = words.pop(0) if words else ""
    if stage in ("-h", "--help"):
        print(__doc__)
        return 0
    if stage not in TUNED:
        found = f"{stage!r} is not a training stage" if stage else "no stage is named"
        print(f"error: {found}; expected one of: {', '.join(TUNED)}", file=sys.stderr)
        return 2

    def run(cfg: Config, resume: bool = False) -> float:
        return work(stage, cfg)

    return stage_main(stage, run, __doc__ or "", argv=words, resumable=False)


if __name__ == "__main__":
    sys.exit(main())
