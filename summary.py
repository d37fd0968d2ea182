"""What the stages found, as a small table: the best run of each, where its figures are, and how to open MLflow.

python summary.py
python summary.py --config presets/imagenette.yaml
python summary.py --report [FILE]      writes all that the runs found into one HTML file, runs/report.html
python summary.py --compare RUN RUN    two runs of one stage side by side: folders, or names of folders
python summary.py --ui [--port NUMBER] opens the MLflow UI on 127.0.0.1 over the runs; without a number at the first
                                       free port from 5000 on
python summary.py --sync               tells MLflow what it missed while it did not answer
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from masked_memory.pipeline.commands import command, make
from masked_memory.pipeline.files import InputError, one_line
from masked_memory.reporting.stages import SECOND_JUDGE, MainNumber
from masked_memory.settings.command import stage_main
from masked_memory.settings.config import Config

if TYPE_CHECKING:  # imports torch, which --help does without
    from masked_memory.reporting.chain import Chain

PORT = 5000
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
    from masked_memory.handoff.split import mend
    from masked_memory.reporting.chain import find_chain, metrics_of

    chain = find_chain(cfg)
    print("\nfigures")
    for folder in chain.folders.values():
        print(f"  {folder / 'figures'}")
    print("\nmain numbers")
    for number in main_numbers(chain):
        print(f"  {number.label:<46}{number.shown}")
    seconds = sum(metrics_of(folder).get("seconds", 0.0) for folder in chain.folders.values())
    print(f"  {'time of these runs':<46}{seconds / 60:.1f} minutes")
    if chain.remarks:
        print("\nnot as set")
    for remark in chain.remarks:
        print(f"  {one_line(remark)}")
    if chain.troubles:
        print("\nleft out")
    for trouble in chain.troubles:
        print(f"  {one_line(trouble)}")
    if chain.missing:
        print(f"\nnot run yet{chain.with_vqvae}:")
    for stage, *options in map(str.split, chain.missing):
        print(f"  {' '.join([mend(stage, cfg), *options])}")
    print(f"\nMLflow: {make('ui')}   (or: {command('summary')} --ui), then open what it prints")
    return float(len(chain.folders))


def main_numbers(chain: "Chain") -> list[MainNumber]:
    """Those of MAIN_NUMBERS that the runs of the chain have."""
    from masked_memory.reporting.chain import metrics_of

    metrics = {stage: metrics_of(folder) for stage, folder in chain.folders.items()}
    return [
        MainNumber(stage, name, label, form.format(metrics[stage][name]))
        for stage, name, label, form in MAIN_NUMBERS
        if name in metrics.get(stage, {})
    ]


def report(cfg: Config, trial: Any = None, resume: bool = False, words: Sequence[str] = ()) -> float:
    """Write what the runs found into one HTML file. Returns its size in bytes. words: its name, if one was given."""
    from masked_memory.reporting.chain import find_chain
    from masked_memory.reporting.run_report import write_report

    chain = find_chain(cfg)
    file = Path(words[0]) if words else Path(cfg.run.dir) / "report.html"
    size = write_report(file, chain, main_numbers(chain))
    for trouble in chain.troubles:
        print(f"left out: {one_line(trouble)}")
    print(f"{size / 1e6:.1f} MB, {len(chain.folders) + len(chain.others)} runs")
    print(file)
    return float(size)


def set_side_by_side(cfg: Config, trial: Any = None, resume: bool = False, words: Sequence[str] = ()) -> float:
    """Print what differs between two runs of one stage. Returns how many lines that took. words: the two runs."""
    from masked_memory.reporting.comparing import comparable, comparison

    lines = comparison(*comparable(Path(cfg.run.dir), words))
    print("\n".join(one_line(line) for line in lines))
    return float(len(lines))


def open_ui(cfg: Config, trial: Any = None, resume: bool = False, port: str | None = None) -> float:
    """Run the MLflow UI until it is stopped with Ctrl-C. port: as typed. Raises InputError when it is taken."""
    from masked_memory.pipeline.loopback import listening, read_port
    from masked_memory.pipeline.mlflow_ui import mlflow_page, show_page
    from masked_memory.pipeline.mlflow_views import links
    from masked_memory.pipeline.tracking import client_of, database_uri

    runs, asked, number = Path(cfg.run.dir), cfg.run.tracking_uri, read_port(port)
    if asked is not None and asked.startswith("http"):
        raise InputError(f"{asked} has a page of its own; open it in a browser")
    if asked is None and not (runs / "mlflow.db").is_file():
        raise InputError(f"{runs / 'mlflow.db'} is missing; type: {make('demo')}")
    with listening(number, PORT) as at:
        taken = at.getsockname()[1]
        if number is None and taken != PORT:
            print(f"port {PORT} is taken; this is {taken} (--port NUMBER names another)")
        address = f"http://127.0.0.1:{taken}"
        found, page = list(links(client_of(runs, asked), address)), mlflow_page(database_uri(runs, asked))
        if found:
            print("runs of a stage, the best first (the newest first, where nothing decides):")
        for stage, link in found:
            print(f"  {stage:<22}{link}")
        print(f"open {'one of these, or ' if found else ''}{address} (Ctrl-C ends it)", flush=True)
        show_page(page, at)
    return 0.0


def sync(cfg: Config, trial: Any = None, resume: bool = False) -> float:
    """Deliver to MLflow what waits in run folders. Returns how many entries. Raises InputError, after all others, when
    some could not be delivered."""
    from masked_memory.pipeline.runs import RunFolder
    from masked_memory.pipeline.undelivered import deliver, undelivered

    total, failed = 0, 0
    for folder in undelivered(Path(cfg.run.dir)):
        try:
            if RunFolder(folder).record().get("status") == "running":
                print(f"{folder} still runs, or was killed and can go on with --resume: left as it is")
                continue
            count = deliver(folder)
        except InputError as error:
            print(f"{folder} is not delivered: {one_line(str(error))}")
            failed += 1
            continue
        print(f"{folder}: {count} entries delivered")
        total += count
    if failed:
        raise InputError(f"not delivered: {failed}, see above; mend that, then type: {command('summary')} --sync")
    print(f"{total} entries delivered" if total else "nothing to deliver")
    return float(total)


#: option -> what it does, how many words may follow it, and what these are
OPTIONS: dict[str, tuple[Callable[..., float], tuple[int, ...], str]] = {
    "--report": (report, (0, 1), "at most one FILE"),
    "--compare": (set_side_by_side, (2,), "two RUNs"),
    "--ui": (open_ui, (0,), "no value"),
    "--sync": (sync, (0,), "no value"),
}


def main() -> int:
    """The exit status. What follows an option of this script, up to the next option, belongs to it alone."""
    words = sys.argv[1:]
    asked = [at for at, word in enumerate(words) if word.partition("=")[0] in OPTIONS]
    if not asked:
        return stage_main("summary", run, __doc__ or "", resumable=False)
    if len(asked) > 1:
        named = " and ".join(words[at] for at in asked)
        print(f"error: {named} cannot be done at once; type one of them", file=sys.stderr)
        return 2
    option, _, joined = words[asked[0]].partition("=")
    given = [joined] if joined else []
    given += takewhile(lambda word: not word.startswith("--"), words[asked[0] + 1 :])
    what, counts, expected = OPTIONS[option]
    if len(given) not in counts:
        found = " ".join(given) or "nothing"
        print(f"error: {option} is followed by {found}; expected {expected}, see --help", file=sys.stderr)
        return 2
    rest = words[: asked[0]] + words[asked[0] + 1 + len(given) - bool(joined) :]
    chosen = partial(what, words=given) if max(counts) else what
    if option == "--ui":
        parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, usage=argparse.SUPPRESS)
        parser.add_argument("--port")
        mine, rest = parser.parse_known_args(rest)
        chosen = partial(what, port=mine.port)
    return stage_main("summary", chosen, __doc__ or "", argv=rest, resumable=False)


if __name__ == "__main__":
    sys.exit(main())
