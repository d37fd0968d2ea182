"""What the stages found, as a small table: the best run of each, where its figures are, and how to open MLflow.

python summary.py
python summary.py --config presets/imagenette.yaml
python summary.py --ui          opens the MLflow UI on 127.0.0.1 over the runs
python summary.py --sync        tells MLflow what it missed while it did not answer
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from settings.command import stage_main
from settings.config import Config

STAGES = (
    "data_split",
    "train_vqvae",
    "vqvae_reconstruction",
    "train_classifier",
    "train_distil",
    "reconstruct_masked",
)

SECOND_JUDGE = "train_classifier --train_classifier.degrade false"
BASELINE = "test_loss_at_50_most_frequent_code"
#: stage, metric, what it is called, how it is shown
MAIN_NUMBERS = (
    ("train_vqvae", "test_psnr", "VQ-VAE: PSNR on test", "{:.2f} dB"),
    ("train_vqvae", "test_ssim", "VQ-VAE: SSIM on test (Wang et al. 2004)", "{:.3f}"),
    ("train_vqvae", "test_perplexity", "VQ-VAE: perplexity of the codes on test", "{:.0f}"),
    ("vqvae_reconstruction", "bits_per_pixel", "bits per pixel", "{:.3f}"),
    ("train_classifier", "test_top1_originals", "classifier: top-1 on originals", "{:.1%}"),
    ("train_classifier", "test_top1_reconstructions", "classifier: top-1 on reconstructions", "{:.1%}"),
    (SECOND_JUDGE, "test_top1_originals", "second judge: top-1 on originals", "{:.1%}"),
    (SECOND_JUDGE, "test_top1_reconstructions", "second judge: top-1 on reconstructions", "{:.1%}"),
    ("train_distil", "test_loss_at_50", "DistilBERT: cross-entropy, 50 % masked", "{:.3f} nats per code"),
    ("train_distil", f"{BASELINE}_of_the_position", "  baseline: code of the position", "{:.3f}"),
    ("train_distil", BASELINE, "  baseline: most frequent code", "{:.3f}"),
    ("reconstruct_masked", "random_mse_to_reconstruction_at_50", "50 % forgotten at random: squared error", "{:.4f}"),
    ("reconstruct_masked", "adaptive_mse_to_reconstruction_at_50", "  adaptive", "{:.4f}"),
    (
        "reconstruct_masked",
        "random_classification_error_at_75",
        "75 % forgotten at random: degraded judge errs",
        "{:.1%}",
    ),
    ("reconstruct_masked", "adaptive_classification_error_at_75", "  adaptive", "{:.1%}"),
    (
        "reconstruct_masked",
        "random_clean_classification_error_at_75",
        "75 % forgotten at random: clean judge errs",
        "{:.1%}",
    ),
    ("reconstruct_masked", "adaptive_clean_classification_error_at_75", "  adaptive", "{:.1%}"),
)


def run(cfg: Config, trial: Any = None, resume: bool = False) -> float:
    """Print the table. Returns how many stages have a finished run of this split."""
    from handoff.split import open_split
    from handoff.vqvae import vqvae_key
    from pipeline.files import read_json
    from pipeline.runs import read_best

    runs, split = Path(cfg.run.dir), open_split(cfg)
    folders = {"data_split": split.folder}
    vqvae = read_best(runs, "train_vqvae").get(vqvae_key(split, cfg.train_vqvae))
    if vqvae:
        folders["train_vqvae"] = runs / "train_vqvae" / vqvae["run"]
        codebook = read_json(folders["train_vqvae"] / "model" / "meta.json")["codebook"]
        for stage in STAGES[2:]:
            best = read_best(runs, stage).get(f"{split.key}-codebook {codebook}")
            if best:
                folders[stage] = runs / stage / best["run"]
        clean = read_best(runs, "train_classifier").get(f"{split.key}-codebook {codebook}-clean")
        if clean:
            folders[SECOND_JUDGE] = runs / "train_classifier" / clean["run"]
    metrics = {stage: read_json(folder / "metrics.json") for stage, folder in folders.items()}
    print("\nfigures")
    for folder in folders.values():
        print(f"  {folder / 'figures'}")
    print("\nmain numbers")
    for stage, name, label, form in MAIN_NUMBERS:
        if name in metrics.get(stage, {}):
            print(f"  {label:<46}{form.format(metrics[stage][name])}")
    seconds = sum(values.get("seconds", 0.0) for values in metrics.values())
    print(f"  {'time of these runs':<46}{seconds / 60:.1f} minutes")
    missing = [stage for stage in STAGES if stage not in folders]
    if missing:
        print(f"\nnot run yet: {', '.join(f'python {stage}.py' for stage in missing)}")
    print("\nMLflow: make ui   (or: python summary.py --ui), then open http://127.0.0.1:5000")
    return float(len(folders))


def open_ui(cfg: Config, trial: Any = None, resume: bool = False) -> float:
    """Run the MLflow UI until it is stopped with Ctrl-C. Returns its exit status."""
    from pipeline.files import InputError
    from pipeline.tracking import database_uri

    runs = Path(cfg.run.dir)
    if cfg.run.tracking_uri is not None and cfg.run.tracking_uri.startswith("http"):
        raise InputError(f"{cfg.run.tracking_uri} has a page of its own; open it in a browser")
    if cfg.run.tracking_uri is None and not (runs / "mlflow.db").is_file():
        raise InputError(f"{runs / 'mlflow.db'} is missing; type: make demo")
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", database_uri(runs, cfg.run.tracking_uri)]
    print("open http://127.0.0.1:5000 (Ctrl-C ends it)")
    return float(subprocess.call([*command, "--host", "127.0.0.1", "--port", "5000"], env={**os.environ, **quiet}))


def sync(cfg: Config, trial: Any = None, resume: bool = False) -> float:
    """Deliver to MLflow what waits in run folders. Returns how many entries."""
    from pipeline.runs import RunFolder
    from pipeline.spool import deliver, undelivered

    total = 0
    for folder in undelivered(Path(cfg.run.dir)):
        if RunFolder(folder).record()["status"] == "running":
            print(f"{folder} still runs, or was killed and can go on with --resume: left as it is")
            continue
        count = deliver(folder)
        print(f"{folder}: {count} entries delivered")
        total += count
    print(f"{total} entries delivered" if total else "nothing to deliver")
    return float(total)


def main() -> int:
    for option, what in (("--ui", open_ui), ("--sync", sync)):
        if option in sys.argv[1:]:
            words = [word for word in sys.argv[1:] if word != option]
            return stage_main("summary", what, __doc__ or "", argv=words, resumable=False)
    return stage_main("summary", run, __doc__ or "", resumable=False)


if __name__ == "__main__":
    sys.exit(main())
