"""Imagenette without a network."""

import pytest

from masked_memory.pipeline.files import InputError
from masked_memory.settings import loading
from masked_memory.stages import data_split


def test_offline_imagenette_says_what_to_do(tmp_path, monkeypatch):
    import torchvision.datasets

    def offline(*arguments, **options):
        raise OSError("no route to host")

    monkeypatch.setattr(torchvision.datasets, "Imagenette", offline)
    with pytest.raises(InputError, match=r"cannot be downloaded .*no route to host.*unpack imagenette2-160 there"):
        cfg = loading.check(
            {
                "run": {"dir": str(tmp_path), "mlflow": False},
                "data": {"source": "imagenette", "download_dir": str(tmp_path)},
            }
        )
        data_split.run(cfg)
