"""Imagenette (ten easy ImageNet classes), downloaded by torchvision."""

from pathlib import Path
from urllib.error import URLError

from masked_memory.pipeline.files import InputError
from masked_memory.pipeline.stage import say
from masked_memory.pipeline.world import OnlyAsked
from masked_memory.settings.common import DataSection


def place_of(download_dir: Path) -> Path:
    """Where it lies, or would lie."""
    return download_dir / "imagenette2-160"


def check_download(data: DataSection, dry_run: bool) -> None:
    """Raises OnlyAsked in a dry run that would have to download it."""
    place = place_of(Path(data.download_dir))
    if dry_run and data.source == "imagenette" and not place.is_dir():
        say(f"would download Imagenette to {place}, about 100 MB")
        raise OnlyAsked


def imagenette_folder(download_dir: Path) -> Path:
    """The folder with its train/ and val/ trees; downloads 160-pixel pictures (about 100 MB) on first use.

    Raises InputError when it is neither on disk nor to be had.
    """
    from torchvision.datasets import Imagenette

    folder = place_of(download_dir)
    if not folder.is_dir():
        try:
            Imagenette(str(download_dir), split="train", size="160px", download=True)
        except (URLError, OSError, RuntimeError) as error:
            raise InputError(
                f"imagenette is not in {download_dir} and cannot be downloaded ({error}); "
                "unpack imagenette2-160 there, or set data.source to a folder of pictures"
            ) from error
    return folder
