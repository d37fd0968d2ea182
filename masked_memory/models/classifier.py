"""Classifiers that say whether a picture, or a grid of codes, is still recognisable.

Pictures are float (B, C, H, W) in [-1, 1]; grids are long (B, h, w). All give logits (B, classes).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from masked_memory.models.pretrained import Pretrained

Architecture = Literal["compact", "resnet18", "resnet50", "codes"]
SMALL_PICTURE = 96  # pixels; below it a ResNet's stem would leave too few positions


@dataclass(frozen=True)
class ClassifierConfig:
    """Everything needed to build the model again. `mean`, `std`: of the training pictures, per channel, in [0, 1]."""

    architecture: Architecture
    classes: int
    channels: int
    image_size: int
    codebook_size: int
    dropout: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    width: int = 1  # of compact and codes: channels in multiples of the usual

    def __post_init__(self) -> None:
        object.__setattr__(self, "mean", tuple(self.mean))  # JSON has lists
        object.__setattr__(self, "std", tuple(self.std))


class Classifier(Pretrained):
    """Normalises, then classifies. `sees_codes`: takes index grids instead of pictures."""

    config_class, kind, made_by = ClassifierConfig, "classifier", "train_classifier"

    mean: Tensor
    std: Tensor

    def __init__(self, config: ClassifierConfig, pretrained: bool = False) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("mean", torch.tensor(config.mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(config.std).view(1, -1, 1, 1))
        self.net = _build(config, pretrained)

    @classmethod
    def from_pretrained(cls, folder: str | Path, device: str | torch.device = "cpu") -> "Classifier":
        """As of every model; convolutions are faster with channels last in memory."""
        return super().from_pretrained(folder, device).to(memory_format=torch.channels_last)

    @property
    def sees_codes(self) -> bool:
        return self.config.architecture == "codes"

    def features(self, x: Tensor) -> Tensor:
        """(B, F): what the last layer gets; x as in `forward`."""
        last = self.net.get_submodule("fc" if self.config.architecture.startswith("resnet") else "head")
        found: list[Tensor] = []
        hook = last.register_forward_pre_hook(lambda module, inputs: found.append(inputs[0]))
        try:
            self(x)
        finally:
            hook.remove()
        return found[0]

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) in [-1, 1], or (B, h, w) indices for architecture codes -> (B, classes) logits."""
        if self.sees_codes:
            return self.net(x.long())
        x = ((x + 1) / 2 - self.mean) / self.std
        return self.net(x.contiguous(memory_format=torch.channels_last))  # convolutions are faster so


def _build(config: ClassifierConfig, pretrained: bool) -> nn.Module:
    if config.architecture == "compact":
        return CompactCNN(config.channels, config.classes, config.dropout, config.width)
    if config.architecture == "codes":
        return CodeCNN(config.codebook_size, config.classes, config.dropout, config.width)
    return _resnet(config, pretrained)


def _resnet(config: ClassifierConfig, pretrained: bool) -> nn.Module:
    """torchvision's ResNet. Small pictures get a 3x3 stem of stride 1 without pooling (as is usual on CIFAR).

    Raises OSError when pretrained weights are neither on disk nor to be fetched.
    """
    from torchvision.models import resnet18, resnet50

    make = resnet18 if config.architecture == "resnet18" else resnet50
    net = make(weights="DEFAULT" if pretrained else None)
    if config.image_size < SMALL_PICTURE:
        net.conv1 = nn.Conv2d(config.channels, 64, 3, padding=1, bias=False)
        net.maxpool = nn.Identity()
    elif config.channels != 3:
        net.conv1 = nn.Conv2d(config.channels, 64, 7, stride=2, padding=3, bias=False)
    net.fc = nn.Sequential(nn.Dropout(config.dropout), nn.Linear(net.fc.in_features, config.classes))
    return net


def _block(channels_in: int, channels_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False), nn.BatchNorm2d(channels_out), nn.SiLU()
    )


class CompactCNN(nn.Module):
    """Three stages of two 3x3 convolutions at half, quarter and eighth of the side, then the mean over positions."""

    def __init__(self, channels: int, classes: int, dropout: float, width: int = 1) -> None:
        super().__init__()
        widths = (32 * width, 64 * width, 128 * width)
        layers: list[nn.Module] = [nn.PixelUnshuffle(2)]
        previous = 4 * channels
        for number, channels_out in enumerate(widths):
            layers += [_block(previous, channels_out), _block(channels_out, channels_out)]
            layers += [nn.MaxPool2d(2)] if number < len(widths) - 1 else []
            previous = channels_out
        self.features = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(2 * previous, classes))

    def forward(self, x: Tensor) -> Tensor:
        features = self.features(x)  # (B, 128 * width, H/8, W/8)
        return self.head(torch.cat([features.mean((2, 3)), features.amax((2, 3))], dim=1))


class CodeCNN(nn.Module):
    """A learnt vector per code, three 3x3 convolutions over the grid, mean and maximum over positions."""

    def __init__(self, codebook_size: int, classes: int, dropout: float, width: int = 1) -> None:
        super().__init__()
        inner, outer = 64 * width, 128 * width
        self.embedding = nn.Embedding(codebook_size, inner)
        self.features = nn.Sequential(_block(inner, outer), _block(outer, outer), _block(outer, outer))
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(2 * outer, classes))

    def forward(self, indices: Tensor) -> Tensor:
        features = self.features(self.embedding(indices).permute(0, 3, 1, 2))  # (B, 128 * width, h, w)
        return self.head(torch.cat([features.mean((2, 3)), features.amax((2, 3))], dim=1))
