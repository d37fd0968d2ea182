"""Stage 6: how much must be kept? Recall of the test pictures against the percentage of tokens forgotten.

Reads:  the best VQ-VAE, its indices, the DistilBERT and the classifier (all made on the same split and codebook)
Writes: runs/reconstruct_masked/<run>/ with curves.csv and figures/ (mse, classification_error, grid)

    python reconstruct_masked.py
    python reconstruct_masked.py --reconstruct_masked.pictures 200 --reconstruct_masked.percentages "[25, 50, 75]"

Forgotten tokens are chosen at random, nested over the percentages. They are filled by the DistilBERT with the likeliest
code ("likeliest") or with the code vector to expect ("expected", the mean of all weighted by their probability), or not
at all ("blank", the average code everywhere). Masks: True = masked, to be predicted.
"""

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from classifier import Classifier
from cli import stage_main
from completion import blank_out, complete
from config import Config, ReconstructMaskedSection
from data_split import Split, note_data, open_split
from handoff import HandedIndices, HandedVQVAE, take_classifier, take_distil, take_indices, take_vqvae
from masking import mask_first, masked_count, random_order
from pipeline.figures import BLUE, GREEN, ORANGE, curves_figure, picture_grid
from pipeline.files import write_csv
from pipeline.machine import generator, prepare_machine
from pipeline.metrics import bootstrap_interval, picture_errors, to_unit
from pipeline.progress import progress_bar
from pipeline.stage import Stage, open_stage, say

if TYPE_CHECKING:
    from transformers import DistilBertForMaskedLM

FILLINGS = {  # name in curves.csv: label, colour and line style in figures
    "likeliest": ("completed, likeliest code", BLUE, "-"),
    "expected": ("completed, expected code vector", GREEN, "-."),
    "blank": ("not completed (average code)", ORANGE, "--"),
}
#: (percentage, filling) -> measure -> one number per picture
Measured = dict[tuple[int, str], dict[str, Tensor]]


@dataclass
class Memory:
    """All that recall needs, on one device. `blank`: the average code vector; `common`: the most frequent code."""

    vqvae: HandedVQVAE
    distil: "DistilBertForMaskedLM"
    classifier: Classifier | None
    blank: Tensor  # (D,)
    common: int
    device: torch.device

    def grid(self, tokens: Tensor) -> Tensor:
        """(B, N) -> (B, h, w)."""
        side = self.vqvae.model.config.grid
        return tokens.view(len(tokens), side, side)

    def recall(self, tokens: Tensor, mask: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """filling -> painted pictures (B, C, H, W) in [-1, 1] and the grids (B, h, w) that stand for them."""
        model = self.vqvae.model
        filled = complete(self.distil, tokens, mask, model.codebook_vectors())
        likeliest = self.grid(filled.indices)
        expected = filled.expected.transpose(1, 2).unflatten(2, likeliest.shape[1:])  # (B, D, h, w)
        blank = blank_out(model.embed_indices(self.grid(tokens)), mask, self.blank)
        return {
            "likeliest": (model.decode_indices(likeliest), likeliest),
            "expected": (model.decode_codes(expected), likeliest),
            "blank": (model.decode_codes(blank), self.grid(tokens.masked_fill(mask, self.common))),
        }

    def predict(self, pictures: Tensor, grid: Tensor) -> Tensor | None:
        """(B,) the class the classifier sees, None without a classifier."""
        if self.classifier is None:
            return None
        return self.classifier(grid if self.classifier.sees_codes else pictures).argmax(1)


def run(cfg: Config, trial: Any = None, resume: bool = False) -> float:
    """The whole stage; returns the MSE of the expected filling to the VQ-VAE's reconstruction, over all percentages."""
    machine = prepare_machine(cfg.run.device, cfg.run.precision, cfg.run.threads, say)
    section, split = cfg.reconstruct_masked, open_split(cfg)
    vqvae = take_vqvae(cfg, section.vqvae, split, machine.device)
    indices = take_indices(cfg, section.indices, split, vqvae)
    distil_folder, distil = take_distil(cfg, section.distil, split, vqvae, machine.device)
    inputs = {"data_split": split.folder, "train_vqvae": vqvae.folder, "vqvae_reconstruction": indices.folder}
    inputs["train_distil"], classifier = distil_folder, None
    if split.classes:
        inputs["train_classifier"], classifier = take_classifier(cfg, section.classifier, split, vqvae, machine.device)
    else:
        say("no classes in the data: recall is measured without a classifier")
    named = {name: str(folder) for name, folder in inputs.items()}
    with open_stage(
        "reconstruct_masked", cfg, named, f"{cfg.run.seed} {section.model_dump_json()}", machine, resume
    ) as stage:
        note_data(stage, cfg, split)
        blank, common = average_code(split, indices, vqvae, machine.device)
        memory = Memory(vqvae, distil, classifier, blank, common, machine.device)
        positions = choose_pictures(split, section.pictures, cfg.run.seed)
        order = random_order(len(positions), vqvae.model.config.tokens, generator(cfg.run.seed, 201))
        measured = measure(memory, split, indices, positions, order, section)
        rows = summarise(measured, section.bootstrap, cfg.run.seed)
        write_csv(stage.folder.path / "curves.csv", CURVES_HEADER, rows)
        draw(stage, memory, split, indices, positions, order, rows, section)
        report(stage, rows)
        stage.finish(vqvae.key(split), extra_artifacts=("curves.csv",))
        return float(
            np.mean([measured[percent, "expected"]["mse_to_reconstruction"].mean() for percent in section.percentages])
        )


def choose_pictures(split: Split, count: int | None, seed: int) -> np.ndarray:
    """Positions of the test pictures to measure: all, or `count` chosen by the seed."""
    test = split.positions("test")
    if count is None or count >= len(test):
        return test
    return np.sort(test[torch.randperm(len(test), generator=generator(seed, 202))[:count].numpy()])


@torch.no_grad()
def average_code(split: Split, indices: HandedIndices, vqvae: HandedVQVAE, device: torch.device) -> tuple[Tensor, int]:
    """Of the training grids: the mean code vector (D,) and the most frequent code."""
    size = vqvae.model.config.codebook_size
    counts = np.bincount(indices.indices[split.positions("train")].ravel(), minlength=size)
    shares = torch.from_numpy(counts / counts.sum()).float().to(device)
    return shares @ vqvae.model.codebook_vectors(), int(counts.argmax())


@torch.no_grad()
def measure(
    memory: Memory,
    split: Split,
    indices: HandedIndices,
    positions: np.ndarray,
    order: Tensor,
    section: ReconstructMaskedSection,
) -> Measured:
    """Every percentage and filling over the pictures, in batches."""
    parts: dict[tuple[int, str], dict[str, list[Tensor]]] = {}
    starts = range(0, len(positions), section.batch_size)
    with progress_bar(total=len(starts) * len(section.percentages), desc="recalling", unit="batch") as bar:
        for start in starts:
            chosen = positions[start : start + section.batch_size]
            truth = split.pictures(chosen).to(memory.device)
            labels = torch.from_numpy(split.labels[chosen]).to(memory.device)
            tokens = indices.tokens(chosen).to(memory.device)
            whole = memory.vqvae.model.decode_indices(memory.grid(tokens))
            seen = memory.predict(whole, memory.grid(tokens))
            for percent in section.percentages:
                count = masked_count(percent / 100, tokens.shape[1])
                mask = mask_first(order[start : start + section.batch_size], count).to(memory.device)
                for filling, (painted, grid) in memory.recall(tokens, mask).items():
                    values = _compare(painted, truth, whole)
                    values |= _classify(memory.predict(painted, grid), labels, seen)
                    values |= _tokens_right(grid.flatten(1), tokens, mask)
                    for name, value in values.items():
                        parts.setdefault((percent, filling), {}).setdefault(name, []).append(value.float().cpu())
                bar.update()
    return {key: {name: torch.cat(values) for name, values in measures.items()} for key, measures in parts.items()}


def _compare(painted: Tensor, truth: Tensor, whole: Tensor) -> dict[str, Tensor]:
    """MSE, PSNR, SSIM against the picture and against the VQ-VAE's reconstruction of it."""
    against = {"picture": truth, "reconstruction": whole}
    return {
        f"{name}_to_{other}": values
        for other, pictures in against.items()
        for name, values in picture_errors(to_unit(painted), to_unit(pictures)).items()
    }


def _classify(predicted: Tensor | None, labels: Tensor, seen: Tensor | None) -> dict[str, Tensor]:
    if predicted is None or seen is None:
        return {}
    return {"classification_error": predicted != labels, "disagreement": predicted != seen}


def _tokens_right(filled: Tensor, tokens: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """Share of the masked tokens of each picture that came back exactly; left out where none is masked."""
    if not mask.any():
        return {}
    return {"masked_accuracy": ((filled == tokens) & mask).sum(1) / mask.sum(1)}


CURVES_HEADER = ("percent", "filling", "measure", "mean", "low", "high", "pictures")


def summarise(measured: Measured, resamples: int, seed: int) -> list[list[Any]]:
    """Rows of curves.csv: the mean over pictures with its 95 % bootstrap interval (the same resamples everywhere)."""
    rows = []
    for (percent, filling), measures in measured.items():
        for name, values in measures.items():
            low, high = bootstrap_interval(values, resamples, generator(seed, 203))
            rows.append([percent, filling, name, *(f"{v:.6g}" for v in (float(values.mean()), low, high)), len(values)])
    return rows


def curve(rows: list[list[Any]], filling: str, name: str) -> tuple[list[int], list[float], list[tuple[float, float]]]:
    """Percentages, means and intervals of one curve."""
    chosen = sorted((row for row in rows if row[1] == filling and row[2] == name), key=lambda row: row[0])
    return (
        [row[0] for row in chosen],
        [float(row[3]) for row in chosen],
        [(float(row[4]), float(row[5])) for row in chosen],
    )


def draw(
    stage: Stage,
    memory: Memory,
    split: Split,
    indices: HandedIndices,
    positions: np.ndarray,
    order: Tensor,
    rows: list[list[Any]],
    section: ReconstructMaskedSection,
) -> None:
    """The two headline figures and the grid."""
    count = len(positions)
    wanted = [("mse_to_reconstruction", "MSE to the VQ-VAE's reconstruction", "mse")]
    wanted += [("mse_to_picture", "MSE to the picture", "mse_to_picture")]
    if memory.classifier is not None:
        wanted += [("classification_error", "classification error", "classification_error")]
    for name, label, file in wanted:
        curves = []
        for filling, (text, colour, style) in FILLINGS.items():
            percentages, means, intervals = curve(rows, filling, name)
            curves.append((text, colour, style, means, intervals))
        figure = curves_figure(
            percentages,
            curves,
            "tokens forgotten (%), chosen at random",
            label,
            f"Recall of {count} test pictures, 95 % intervals",
        )
        stage.figure(file, figure)
    stage.figure("grid", grid_figure(memory, split, indices, positions, order, section))


@torch.no_grad()
def grid_figure(
    memory: Memory,
    split: Split,
    indices: HandedIndices,
    positions: np.ndarray,
    order: Tensor,
    section: ReconstructMaskedSection,
) -> Any:
    """One row per percentage: masked (grey), completed (expected code vectors), original, for a few pictures."""
    picks = np.linspace(0, len(positions) - 1, min(section.grid_pictures, len(positions))).astype(int)
    truth = split.pictures(positions[picks])
    tokens = indices.tokens(positions[picks]).to(memory.device)
    whole = memory.vqvae.model.decode_indices(memory.grid(tokens)).cpu()
    rows = []
    for percent in section.percentages:
        mask = mask_first(order[picks], masked_count(percent / 100, tokens.shape[1]))
        completed = memory.recall(tokens, mask.to(memory.device))["expected"][0].cpu()
        masked = grey_out(whole, mask, memory.vqvae.model.config.stride)
        triples = torch.stack([masked, completed, truth], dim=1).flatten(0, 1)
        rows.append((f"{percent} %", to_unit(triples)))
    return picture_grid(rows, ["masked", "completed", "original"] * len(picks), scale=0.75)


def grey_out(pictures: Tensor, mask: Tensor, stride: int) -> Tensor:
    """(B, C, H, W) in [-1, 1] with the pixels of masked tokens (B, N) in mid grey."""
    side = pictures.shape[-1] // stride
    cells = mask.view(len(mask), 1, side, side)
    pixels = cells.repeat_interleave(stride, 2).repeat_interleave(stride, 3).to(pictures.device)
    return pictures.masked_fill(pixels, 0.0)


def report(stage: Stage, rows: list[list[Any]]) -> None:
    """The main numbers as a small table, all of them in metrics.json."""
    for percent, filling, name, mean, *_ in rows:
        stage.metrics[f"{filling}_{name}_at_{percent}"] = float(mean)
    shown = [name for name in ("mse_to_reconstruction", "classification_error") if curve(rows, "blank", name)[0]]
    say("forgotten  " + "".join(f"{name} ({' / '.join(FILLINGS)})".ljust(58) for name in shown))
    for percent in dict.fromkeys(row[0] for row in rows):
        cells = [" / ".join(f"{stage.metrics[f'{f}_{name}_at_{percent}']:.4f}" for f in FILLINGS) for name in shown]
        say(f"{percent:>6} %   " + "".join(cell.ljust(58) for cell in cells))


def main() -> int:
    return stage_main("reconstruct_masked", run, __doc__ or "")


if __name__ == "__main__":
    sys.exit(main())
