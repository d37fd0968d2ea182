"""All sections together, and what must fit between them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import PrivateAttr, model_validator

from masked_memory.settings.common import DataSection, RunSection
from masked_memory.settings.compare_bits import CompareBitsSection
from masked_memory.settings.compare_priors import ComparePriorsSection
from masked_memory.settings.compare_seeds import CompareSeedsSection
from masked_memory.settings.kinds import Section, flatten
from masked_memory.settings.layers import Provenance
from masked_memory.settings.reconstruct_masked import ReconstructMaskedSection
from masked_memory.settings.sample import SampleSection
from masked_memory.settings.train_classifier import TrainClassifierSection
from masked_memory.settings.train_distil import TrainDistilSection
from masked_memory.settings.train_mae import TrainMAESection
from masked_memory.settings.train_painter import TrainPainterSection
from masked_memory.settings.train_prior import TrainPriorSection
from masked_memory.settings.train_vqvae import TrainVQVAESection
from masked_memory.settings.vqvae_reconstruction import VQVAEReconstructionSection


@dataclass(frozen=True)
class Typed:
    """What a user has laid over config.yaml: files, and values by their dotted keys; and who set what. Settings that
    come to the same are equal however they were typed. known: they were read from a command line, of `stage`."""

    overlays: tuple[str, ...] = field(default=(), compare=False)
    values: Mapping[str, Any] = field(default_factory=dict, compare=False)
    by: Provenance = field(default_factory=Provenance, compare=False)
    known: bool = field(default=False, compare=False)
    stage: str = field(default="", compare=False)


class Config(Section):
    """The whole of config.yaml."""

    _typed: Typed = PrivateAttr(Typed())

    run: RunSection = RunSection()
    data: DataSection = DataSection()
    train_vqvae: TrainVQVAESection = TrainVQVAESection()
    vqvae_reconstruction: VQVAEReconstructionSection = VQVAEReconstructionSection()
    train_classifier: TrainClassifierSection = TrainClassifierSection()
    train_distil: TrainDistilSection = TrainDistilSection()
    reconstruct_masked: ReconstructMaskedSection = ReconstructMaskedSection()
    train_prior: TrainPriorSection = TrainPriorSection()
    train_painter: TrainPainterSection = TrainPainterSection()
    train_mae: TrainMAESection = TrainMAESection()
    sample: SampleSection = SampleSection()
    compare_priors: ComparePriorsSection = ComparePriorsSection()
    compare_seeds: CompareSeedsSection = CompareSeedsSection()
    compare_bits: CompareBitsSection = CompareBitsSection()

    @model_validator(mode="after")
    def _stride_divides(self) -> "Config":
        size, stride = self.data.image_size, self.train_vqvae.stride
        searched = self.train_vqvae.tune.space.get("stride", [])
        for each in [stride, *(searched if isinstance(searched, list) else [])]:
            if size % int(each):
                raise ValueError(f"data.image_size {size} is not divisible by train_vqvae.stride {each}")
        return self

    @model_validator(mode="after")
    def _ssim_fits(self) -> "Config":
        size = self.data.image_size
        asked = {
            "train_vqvae.ssim_weight": self.train_vqvae.ssim_weight > 0 or "ssim_weight" in self.train_vqvae.tune.space,
            "vqvae_reconstruction.brain": self.vqvae_reconstruction.brain,
        }
        for key, wanted in asked.items():
            if wanted and size < 11:
                raise ValueError(f"{key} needs data.image_size of at least 11, the window of SSIM; found {size}")
        return self

    @model_validator(mode="after")
    def _stem_fits(self) -> "Config":
        section = self.train_vqvae
        told = {"condition_numbers": section.condition_numbers, "condition_classes": section.condition_classes}
        found = " and ".join(f"train_vqvae.{key} is {names}" for key, names in told.items() if names)
        if found and "strided" in (section.stem, *section.tune.space.get("stem", [])):
            raise ValueError(
                f"{found}; expected none with train_vqvae.stem strided, whose decoder can be told no metadata"
            )
        return self

    def noting(self, typed: Typed) -> "Config":
        """Itself, from now on with what was typed for it."""
        self._typed = typed
        return self

    @property
    def typed(self) -> Typed:
        return self._typed

    def flat(self, *sections: str) -> dict[str, Any]:
        """The settings of some sections, dotted key -> value; sections that do not exist are passed over."""
        return flatten({name: values for name, values in self.model_dump().items() if name in sections})


OF_THE_SPLIT = ("data.workers", "data.skip_broken", "data.download_dir")  # read while pictures are decoded only
GRID = ("train_vqvae", "train_classifier", "train_distil")
#: stage -> sections that say which runs it takes, beside its own
READS = {
    "vqvae_reconstruction": GRID[:1],
    "train_classifier": GRID[:1],
    "train_distil": GRID[:1],
    "train_prior": GRID[:1],
    "train_mae": GRID[:1],
    "train_painter": ("train_vqvae", "train_distil"),
    "reconstruct_masked": (*GRID, "train_mae", "train_painter"),
    "sample": ("train_vqvae", "train_distil", "train_prior"),
    "compare_bits": (*GRID, "reconstruct_masked"),
    "compare_priors": (*GRID, "reconstruct_masked"),
}
#: stage -> the section in which it looks for the runs to take, where that is not its own
LOOKS_IN = {"compare_bits": "reconstruct_masked", "compare_priors": "reconstruct_masked", "app": "reconstruct_masked"}


def names_run(cfg: Config, setting: str) -> str:
    """The option of the stage that is run with which a run is named, such as --train_distil.vqvae; empty where there is
    none of that name."""
    section = LOOKS_IN.get(cfg.typed.stage, cfg.typed.stage)
    return f"--{section}.{setting}" if setting and hasattr(getattr(cfg, section, None), setting) else ""
