"""What many tests need: tiny models and settings, drawn pictures, splits out of nothing, and eyes on what is called."""

import inspect
import io
import pkgutil
import shutil
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from transformers import DistilBertForMaskedLM

from masked_memory.handoff.memory import HandedDistil, HandedMemory
from masked_memory.handoff.split import Split, open_split
from masked_memory.handoff.vqvae import HandedIndices, HandedVQVAE
from masked_memory.measuring.study import Batch, Findings, Study, StudyPlan, batches_of, measure_recall
from masked_memory.models.classifier import Classifier, ClassifierConfig
from masked_memory.models.codes import Filling
from masked_memory.models.distilbert import DistilShape, build_distilbert
from masked_memory.pipeline import figures
from masked_memory.pipeline.engine import FitPlan
from masked_memory.pipeline.files import read_csv, read_json, write_json, write_text
from masked_memory.pipeline.machine import Machine
from masked_memory.pipeline.rows import Rows
from masked_memory.pipeline.runs import RunFolder, read_best
from masked_memory.pipeline.stage import Stage
from masked_memory.pipeline.tracking import NullLedger
from masked_memory.recall import completing
from masked_memory.recall.choosing import Choosing
from masked_memory.recall.completing import Completed
from masked_memory.recall.hole import Filled, dig
from masked_memory.recall.memory import Memory
from masked_memory.rivals.measuring.bits import BitsPlan
from masked_memory.rivals.models.masked_autoencoder import MaskedAutoencoder, MaskedAutoencoderConfig
from masked_memory.rivals.priors.gan import Generator, LatentGANConfig
from masked_memory.rivals.priors.pixelcnn import PixelCNN, PixelCNNConfig
from masked_memory.settings import loading
from masked_memory.settings.config import Config
from masked_memory.settings.kinds import Section
from masked_memory.stages import (
    data_split,
    reconstruct_masked,
    train_classifier,
    train_distil,
    train_vqvae,
    vqvae_reconstruction,
)
from masked_memory.stages.vqvae import VQVAE, VQVAEConfig

ROOT = Path(__file__).resolve().parent.parent
CPU = torch.device("cpu")


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- models -----------------------------------------------------------------------------------------------------------

TINY_VQVAE = VQVAEConfig(image_size=16, hidden=8, residual_blocks=1, codebook_size=8, code_dim=4, data_init=False)


def tiny_vqvae(**changes: Any) -> VQVAE:
    return VQVAE(replace(TINY_VQVAE, **changes)).eval()


def tiny_distil(
    codes: int = 8, tokens: int = 16, layers: int = 2, classes: int = 0, relative: bool = False
) -> DistilBertForMaskedLM:
    """Untrained, with weights so large that its answers depend on what it sees."""
    model = build_distilbert(codes, tokens, DistilShape(16, layers, 2, relative_positions=relative), classes).eval()
    enlarge(model.distilbert, 15)
    return model


def tiny_mae(channels: int = 3, size: int = 16) -> MaskedAutoencoder:
    """Untrained, over cells of 4x4 pixels."""
    torch.manual_seed(5)
    looks = (0.5,) * channels, (0.25,) * channels
    return MaskedAutoencoder(MaskedAutoencoderConfig(size, channels, 4, 16, 2, 2, 8, 1, *looks)).eval()


@torch.no_grad()
def enlarge(model: nn.Module, times: float) -> None:
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.mul_(times)


def certain_memory() -> Memory:
    """2x2 tokens of one grey pixel value each, painted as they are: code 0 black, 1 mid grey, 2 white.

    The model holds white for certain at token 0 and black or white for equally likely elsewhere.
    """
    vqvae = tiny_vqvae(image_size=8, channels=1, codebook_size=3, code_dim=1)
    vqvae.quantizer.codebook.copy_(torch.tensor([[-1.0], [0.0], [1.0]]))
    vqvae.decoder = nn.Upsample(scale_factor=4)
    memory = Memory(vqvae, tiny_distil(3, 4), None, torch.full((4, 3), 1 / 3), CPU)
    believed = torch.tensor([[0.0, 0.0, 1.0], [0.5, 0.0, 0.5], [0.5, 0.0, 0.5], [0.5, 0.0, 0.5]])
    memory.logits = lambda tokens, mask: (believed + 1e-30).log().expand(len(tokens), -1, -1)[mask]
    return memory


def classifier_config(
    architecture: str, classes: int = 3, channels: int = 3, size: int = 16, codes: int = 8
) -> ClassifierConfig:
    return ClassifierConfig(architecture, classes, channels, size, codes, 0.0, (0.5,) * channels, (0.25,) * channels)


def tiny_memory(
    side: int = 4, codes: int = 8, channels: int = 3, classifier: str | None = None, told: int = 0, **options: Any
) -> Memory:
    """Always the same untrained models, for grids of side x side tokens of 4x4 pixels.

    classifier: its architecture, None for none; told: the classes that the DistilBERT knows; options: of Memory."""
    torch.manual_seed(7)
    vqvae = tiny_vqvae(image_size=4 * side, channels=channels, codebook_size=codes)
    distil = tiny_distil(codes, side**2, classes=told)
    shares = torch.rand(side**2, codes, generator=seeded(1)).softmax(1)
    memory = Memory(vqvae, distil, None, shares, CPU, **options)
    if classifier is not None:
        memory.classifier = Classifier(classifier_config(classifier, 3, channels, 4 * side, codes)).eval()
        balance(memory)
    return memory


def vivid_memory(channels: int = 3, classifier: str = "compact", told: int = 0) -> Memory:
    """A tiny memory of 12 codes that are painted very differently and drawn nearly alike."""
    memory = tiny_memory(4, 12, channels, classifier, told)
    with torch.no_grad():
        memory.vqvae.quantizer.codebook.normal_(generator=seeded(3))
    enlarge(memory.vqvae.decoder, 3)
    enlarge(memory.distil.distilbert, 1 / 3)
    return replace(memory)  # reads the codebook anew


@torch.no_grad()
def balance(memory: Memory) -> None:
    """Let the classifier name every class now and then, which an untrained one does not."""
    assert memory.classifier is not None
    codes = memory.vqvae.config.codebook_size
    tokens = torch.randint(0, codes, (50, memory.tokens), generator=seeded(0))
    seen = memory.grid(tokens) if memory.classifier.sees_codes else memory.paint_tokens(tokens)
    memory.classifier.net.head[1].bias.sub_(memory.classifier(seen).mean(0))


TINY_PIXELCNN = PixelCNNConfig(codebook_size=11, grid=5, code_dim=4, width=8, layers=4, kernel=3, dropout=0.0)


@torch.no_grad()
def tiny_pixelcnn(**changes: Any) -> PixelCNN:
    """Random weights large enough that everything that can matter does."""
    torch.manual_seed(3)
    model = PixelCNN(replace(TINY_PIXELCNN, **changes)).eval()
    for parameter in model.parameters():
        parameter.copy_(torch.randn_like(parameter) * 0.3)
    model.embed.weight.mul_(3)
    model.head[-1].bias.zero_()
    return model


def tiny_generator(grid: int = 5, facts: int = 0) -> Generator:
    """Of 11 codes, from noise in 6 dimensions."""
    torch.manual_seed(1)
    model = Generator(LatentGANConfig(11, grid, code_dim=4, width=8, noise_dim=6, facts=facts))
    model.start_from(torch.randn(11, 4) * 5 + 2, torch.randint(11, (20, grid * grid)))
    return model.eval()


def complete(
    model: DistilBertForMaskedLM,
    grids: Tensor,
    mask: Tensor,
    codebook: Tensor,
    filling: Filling = Filling(),
    draws: torch.Generator | None = None,
    labels: Tensor | None = None,
) -> Completed:
    """Grids (B, N) with a hole under the mask, completed."""
    return completing.complete(model, dig(grids, mask, labels), codebook, filling, draws)


def painted_vectors(memory: Memory, vectors: Tensor) -> Tensor:
    """(B, N, D) -> (B, C, H, W)."""
    return memory.paint(Filled(torch.zeros(vectors.shape[:2], dtype=torch.long), vectors))


# --- plans and what is handed on --------------------------------------------------------------------------------------


def study_plan(**changes: Any) -> StudyPlan:
    plan = StudyPlan(
        strategies=("random", "half"),
        percentages=(0, 50, 100),
        decodings=("argmax", "expected"),
        seeds=1,
        seed=3,
        choosing=Choosing(choosing_passes=4),
        filling=Filling(),
        tell_class=False,
        batch_size=2,
    )
    return replace(plan, **changes)


def fit_plan(**changes: Any) -> FitPlan:
    plan = FitPlan(
        epochs=3,
        horizon=3,
        batch_size=8,
        learning_rate=1e-2,
        weight_decay=0.1,
        warmup=0.0,
        clip_norm=1.0,
        patience=5,
        monitor="loss",
        lower_is_better=True,
        seed=0,
    )
    return replace(plan, **changes)


def fake_split(
    parts: Sequence[str], classes: int = 3, size: int = 16, columns: Sequence[dict[str, str]] = (), **meta: object
) -> Split:
    """Pictures of noise, one for each name of a part, in classes by turns; no class when there are 0."""
    count = len(parts)
    manifest = [{"split": part} | dict(more) for part, more in zip(parts, columns or [{}] * count, strict=True)]
    images = np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    labels = np.arange(count) % classes if classes else np.full(count, -1)
    facts = {"classes": list("abcdefgh"[:classes]), "image_size": size, "channels": 3}
    facts |= {"mean": [0.5] * 3, "std": [0.25] * 3}
    return Split(Path("-"), facts | meta, manifest, images, np.arange(count), labels)


def fake_indices(count: int, side: int = 4, codes: int = 8, lowest: int = 0) -> HandedIndices:
    return HandedIndices(Path("-"), np.random.default_rng(1).integers(lowest, codes, (count, side, side)))


def handed_vqvae(model: VQVAE, **meta: object) -> HandedVQVAE:
    return HandedVQVAE("train_vqvae", Path("-"), model, meta)


def handed_memory(memory: Memory, split: Split, indices: HandedIndices) -> HandedMemory:
    distil = HandedDistil("train_distil", Path("-"), memory.distil, {})
    return HandedMemory(memory, split, handed_vqvae(memory.vqvae), indices, distil, None)


def findings_of(
    memory: Memory,
    split: Split,
    indices: HandedIndices,
    plan: StudyPlan | None = None,
    study: Study | None = None,
    rows: Rows = (),
) -> Findings:
    """Of all test pictures; without a study nothing was measured."""
    study = study or Study({}, {}, {}, split.positions("test"))
    return Findings(handed_memory(memory, split, indices), plan or study_plan(), study, list(rows))


def bits_plan(memory: Memory, split: Split, indices: HandedIndices, **changes: Any) -> BitsPlan:
    """Of all test pictures. changes: of the study's plan."""
    study = study_plan(strategies=("random", "additive", "adaptive"), decodings=("expected",), **changes)
    return BitsPlan(handed_memory(memory, split, indices), study, split.positions("test"), passes=3, resamples=100)


def measured(plan: StudyPlan, split: Split, indices: HandedIndices, memory: Memory | None = None) -> Study:
    """The study of all test pictures."""
    memory = memory or tiny_memory(classifier="compact")
    return measure_recall(memory, split, indices, split.positions("test"), plan)


def one_batch(memory: Memory, split: Split, indices: HandedIndices) -> Batch:
    """All test pictures."""
    positions = split.positions("test")
    return next(batches_of(memory, split, indices, positions, len(positions)))


def bare_stage(runs: Path, name: str, machine: Machine) -> Stage:
    """An open stage in a run folder of its own, without MLflow."""
    folder = RunFolder.create(runs, name, "", "key")
    return Stage(name, folder, NullLedger(), machine, folder.last, resumed=False)


# --- pictures ---------------------------------------------------------------------------------------------------------


def noise(width: int = 20, height: int | None = None, mode: str = "RGB", seed: int = 0) -> Image.Image:
    """A picture, square unless a height is given."""
    shape = (height or width, width) + (() if mode == "L" else (3,))
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


def fill_folder(folder: Path, count: int, first: int = 0) -> None:
    """Different pictures, named by their number."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(first, first + count):
        noise(seed=number).save(folder / f"{number:04d}.png")


def draw_classes(folder: Path, classes: int = 3, each: int = 14, size: int = 20) -> Path:
    """Pictures of one colour a class with noise: learnable in a moment."""
    rng = np.random.default_rng(0)
    for number in range(classes):
        (folder / f"class{number}").mkdir(parents=True)
        for picture in range(each):
            pixels = rng.integers(0, 90, (size, size, 3))
            pixels[..., number % 3] += 160
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"class{number}" / f"{picture:02d}.png")
    return folder


def png(seed: int) -> bytes:
    """The file of a picture of noise."""
    file = io.BytesIO()
    noise(seed=seed).save(file, "PNG")
    return file.getvalue()


def pack(file: Path, members: dict[str, bytes]) -> Path:
    """A tar of these files, path inside -> content."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return file


def pack_folder(file: Path, folder: Path, inside: str = ".") -> Path:
    """A tar of a folder, as `tar cf` makes it; `inside` is what the folder is called there."""
    with tarfile.open(file, "w") as tar:
        tar.add(folder, inside)
    return file


def pictures_in(source: Path) -> list[str]:
    return sorted(file.relative_to(source).as_posix() for file in source.rglob("*.png"))


def head(size: int = 64, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A made-up slice (size, size) in [0, 1]: a textured disc with a dark ventricle inside, a bright speck outside, on
    a faintly noisy background; and the disc with the ventricle as the true mask."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:size, :size] - (size - 1) / 2
    disc = np.hypot(rows, columns) < 0.36 * size
    ventricle = np.hypot(rows, columns * 2) < 0.1 * size
    picture = rng.uniform(0, 0.05, (size, size))
    picture[disc] = rng.uniform(0.5, 0.9, int(disc.sum()))
    picture[ventricle] = 0.05
    picture[2:5, 2:5] = 1.0
    return picture, disc


def heads(count: int = 3, size: int = 64) -> Tensor:
    """(B, 1, H, W) in [0, 1]."""
    return torch.from_numpy(np.stack([head(size, seed)[0] for seed in range(count)])).float()[:, None]


def draw_slices(root: Path, counts: dict[str, int], slices: int = 1, size: int = 48, black: str = "") -> Path:
    """Made-up heads in the layout and under the names of the OASIS slices: so many cases in each part, so many slices
    of each. black: a part of which the first slice is black."""
    for first, (part, count) in enumerate(counts.items()):
        folder = root / f"keras_png_slices_{part}"
        folder.mkdir(parents=True)
        for number in range(count):
            for one in range(slices):
                picture = head(size, 100 * first + slices * number + one)[0]
                shown = picture * ((part, number, one) != (black, 0, 0))
                file = folder / f"case_{100 * first + number:03d}_slice_{one}.nii.png"
                Image.fromarray((shown * 255).astype(np.uint8)).save(file)
    return root


# --- settings and stages ----------------------------------------------------------------------------------------------

STAGES = {
    "data_split": data_split,
    "train_vqvae": train_vqvae,
    "vqvae_reconstruction": vqvae_reconstruction,
    "train_classifier": train_classifier,
    "train_distil": train_distil,
    "reconstruct_masked": reconstruct_masked,
}
STUDIED = ["random", "additive", "adaptive"]
DECODINGS = ("argmax", "sample", "expected")
#: The settings of all trained fixtures: what a few dozen pictures of 16x16 need.
TINY: dict[str, Any] = {
    "run": {"threads": 1, "precision": "fp32"},
    "data": {"image_size": 16},
    "train_vqvae": {
        "epochs": 2, "batch_size": 8, "hidden": 16, "residual_blocks": 1, "codebook_size": 16, "code_dim": 8,
        "retrain": True,
        "tune": {"trials": 2, "epochs": 1, "space": {"code_dim": [4, 8], "learning_rate": {"low": 1e-3, "high": 4e-3}}},
    },
    "train_classifier": {
        "epochs": 2, "least_steps": 60, "batch_size": 8,
        "tune": {"trials": 2, "epochs": 1, "space": {"architecture": ["compact", "codes"]}},
    },
    "train_distil": {
        "epochs": 2, "batch_size": 8, "dim": 16, "layers": 1, "heads": 2, "percentages": [25, 100],
        "tune": {"trials": 2, "epochs": 1, "space": {"learning_rate": {"low": 1e-3, "high": 4e-3, "log": True}}},
    },
    "train_painter": {"epochs": 2, "batch_size": 8, "percentages": [25, 75], "tune": {"trials": 0, "epochs": 1}},
    "train_mae": {
        "epochs": 2, "batch_size": 8, "dim": 16, "layers": 1, "heads": 2, "decoder_dim": 8, "decoder_layers": 1,
        "percentages": [25, 100], "tune": {"trials": 0, "epochs": 1},
    },
    "reconstruct_masked": {
        "strategies": STUDIED, "percentages": [0, 50, 100], "seeds": 2, "choosing_passes": 4, "candidates": 2,
        "slow_pictures": 2, "bootstrap": 100, "grid_pictures": 2, "clean_classifier": None,
    },
}  # fmt: skip
UNTUNED: dict[str, object] = {
    f"{stage}__tune": {"trials": 0} for stage in ("train_vqvae", "train_classifier", "train_distil")
}
QUICK_TUNE = {"trials": 0, "epochs": 1, "space": {}}
TINY_PRIORS: dict[str, Any] = {
    "train_vqvae": {"epochs": 1, "retrain": False, "tune": QUICK_TUNE},
    "train_distil": {"epochs": 1, "tune": QUICK_TUNE},
    "train_prior": {
        "epochs": 2, "batch_size": 8, "width": 8, "layers": 3, "kernel": 3, "noise_dim": 8, "samples": 3,
        "sample_every": 2, "judged_samples": 6, "tune": QUICK_TUNE,
    },
    "sample": {"num_samples": 4, "passes": 2, "pool": 5, "batch_size": 3},
}  # fmt: skip


def merged(values: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """Both, key by key; a search space is replaced whole."""
    deeper = {
        key: merged(values[key], value)
        for key, value in more.items()
        if isinstance(value, dict) and isinstance(values.get(key), dict) and key != "space"
    }
    return values | more | deeper


def changed(values: dict[str, Any], changes: dict[str, object]) -> dict[str, Any]:
    """changes: dotted keys with __ for the dot."""
    for dotted, value in changes.items():
        for part in reversed(dotted.split("__")):
            value = {part: value}
        values = merged(values, value)
    return values


def tiny(runs: Path, source: Path | str, **changes: object) -> Config:
    """The tiny settings; changes are dotted keys with __ for the dot."""
    places = {"run": {"dir": str(runs)}, "data": {"source": str(source)}}
    return loading.check(changed(merged(TINY, places), changes))


def prior_settings(runs: Path, source: Path, **changes: object) -> Config:
    """The tiny settings with those of the priors; metadata are those of ages.csv beside the pictures, where there is
    one."""
    ages = source.parent / "ages.csv"
    places = {"run": {"dir": str(runs), "mlflow": False}, "data": {"source": str(source)}}
    places["data"]["metadata"] = str(ages) if ages.exists() else None
    return loading.check(changed(merged(merged(TINY, TINY_PRIORS), places), changes))


def split_settings(tmp_path: Path, source: object, **data: object) -> Config:
    values = {"source": str(source), "image_size": 16, **data}
    return loading.check({"run": {"dir": str(tmp_path / "runs"), "mlflow": False}, "data": values})


def make_split(tmp_path: Path, source: object, **data: object) -> Split:
    cfg = split_settings(tmp_path, source, **data)
    data_split.run(cfg)
    return open_split(cfg)


def newest(runs: Path, stage: str) -> Path:
    """The run that was last written to; names tell seconds only."""
    return max((runs / stage).glob("*/run.json"), key=lambda file: file.stat().st_mtime_ns).parent


def run_folders(runs: Path, stage: str = "reconstruct_masked") -> list[Path]:
    return sorted((runs / stage).glob("*"))


def copied(runs: Path, to: Path, *stages: str) -> Path:
    """The runs of some stages in a folder of their own, where further runs change nothing for other tests."""
    for stage in stages:
        shutil.copytree(runs / stage, to / stage)
    return to


def words_of(stage: str, runs: Path, source: Path | str, *options: object) -> list[str]:
    """What is typed behind `python`, with the tiny settings as an overlay."""
    overlay = runs.parent / f"{runs.name}.yaml"
    write_json(overlay, TINY)  # JSON is YAML
    words = [ROOT / f"{stage}.py", "--config", overlay, "--run.dir", runs, "--data.source", source]
    return [str(word) for word in (*words, "--run.mlflow", "false", *options)]


def refused_in_one_line(status: int, err: str, *said: str) -> None:
    assert status == 2
    assert err.startswith("error: ") and err.endswith("\n") and len(err.splitlines()) == 1, err
    assert all(words in err for words in said), err


def numbers(folder: Path) -> dict[str, float]:
    """metrics.json of a run without what takes another time each time."""
    times = ("seconds", "fit_seconds")
    return {name: value for name, value in read_json(folder / "metrics.json").items() if name not in times}


def curves_of(rows: list[dict[str, str]]) -> dict[tuple[str, int, str, str], dict[str, str]]:
    """Rows of curves.csv by strategy, percent, decoding and measure."""
    found = {(row["strategy"], int(row["percent"]), row["decoding"], row["measure"]): row for row in rows}
    assert len(found) == len(rows), "no cell is there twice"
    return found


class Ran(NamedTuple):
    """Every stage once, in order, with MLflow."""

    cfg: Config
    runs: Path
    source: Path
    scores: dict[str, float]
    folders: dict[str, Path]  # stage -> its run folder
    seen: set[tuple[str, str]]  # the settings that the stages read
    seen_with_image: set[tuple[str, str]]  # those that reconstruct_masked read for a picture of one's own

    def table(self, name: str) -> list[dict[str, str]]:
        return read_csv(self.folders["reconstruct_masked"] / name)


class Made(NamedTuple):
    """Pictures, VQ-VAE, indices, DistilBERT, and four priors: plain, by class, by metadata (always told), GAN."""

    runs: Path
    source: Path
    folder: Path
    seen: set[tuple[str, str]]  # the settings that training and sampling read

    def named(self, told: str) -> str:
        """The run folder of the best prior that is told this, such as `gan` or `pixelcnn by class`."""
        best = read_best(self.runs, "train_prior")
        run = next(entry["run"] for key, entry in best.items() if key.endswith(f"-prior {told}"))
        return str(self.runs / "train_prior" / run)


class Mine(NamedTuple):
    """A picture of 20x12 with masks for it, right and wrong."""

    picture: Path
    mask: Path
    small: Path
    black: Path
    white: Path
    text: Path


# --- eyes -------------------------------------------------------------------------------------------------------------


@contextmanager
def undrawn() -> Iterator[None]:
    """Figures are made but not drawn, which is most of the time of a tiny run."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(figures, "save_png", lambda figure, path: write_text(path, ""))
        yield


class Reads:
    """Notes every setting that anything reads while it is open."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seen: set[tuple[str, str]] = set()
        plain = Section.__getattribute__

        def noting(section: Section, name: str) -> object:
            if name in type.__getattribute__(type(section), "model_fields"):
                self.seen.add((type(section).__name__, name))
            return plain(section, name)

        monkeypatch.setattr(Section, "__getattribute__", noting)


def notes_of(model: nn.Module) -> list[dict[str, Any]]:
    """Grows by the arguments of each call of the model, by name; the call goes through."""
    calls: list[dict[str, Any]] = []
    signature = inspect.signature(model.forward)

    def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = signature.bind(*args, **kwargs).arguments
        calls.append({name: value.clone() if isinstance(value, Tensor) else value for name, value in given.items()})

    model.register_forward_pre_hook(note, with_kwargs=True)
    return calls


class Counted:
    """A function, in place of itself, that counts its calls and raises KeyboardInterrupt in call `ends_at`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
        owner, _, name = place.rpartition(".")
        self.whole = getattr(pkgutil.resolve_name(owner), name)
        self.calls = self.ends_at = 0
        monkeypatch.setattr(place, lambda *given, **named: self(*given, **named))

    def __call__(self, *given: Any, **named: Any) -> Any:
        self.calls += 1
        if self.calls == self.ends_at:
            raise KeyboardInterrupt
        return self.whole(*given, **named)

    def start_again(self, ends_at: int = 0) -> int:
        """Counts from 0 on; returns how many calls there were."""
        before, self.calls, self.ends_at = self.calls, 0, ends_at
        return before
