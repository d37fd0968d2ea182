"""Imagenette without a network."""

import pytest

import data_split
from pipeline.files import InputError
from settings import loading


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
