"""Imagenette (ten easy ImageNet classes), downloaded by torchvision."""

from pathlib import Path
from urllib.error import URLError

from pipeline.files import InputError


def imagenette_folder(download_dir: Path) -> Path:
    """The folder with its train/ and val/ trees; downloads 160-pixel pictures (about 100 MB) on first use.

    Raises InputError when it is neither on disk nor to be had.
    """
    from torchvision.datasets import Imagenette

    folder = download_dir / "imagenette2-160"
    if not folder.is_dir():
        try:
            Imagenette(str(download_dir), split="train", size="160px", download=True)
        except (URLError, OSError, RuntimeError) as error:
            raise InputError(
                f"imagenette is not in {download_dir} and cannot be downloaded ({error}); "
                "unpack imagenette2-160 there, or set data.source to a folder of pictures"
            ) from error
    return folder
