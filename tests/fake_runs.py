"""Run folders out of nothing, for those that tell of runs: settings, numbers, figures and tables without a stage."""

from pathlib import Path
from typing import Any

import yaml

from masked_memory.handoff.split import Split, open_split
from masked_memory.handoff.vqvae import vqvae_key
from masked_memory.pipeline.files import write_csv, write_json
from masked_memory.pipeline.runs import RunFolder
from masked_memory.settings.config import Config
from toys import copied, draw_classes, make_split, png, split_settings

HOSTILE = '<img src=x onerror=alert(1)> & "q\'s"'
VERSIONS = {"python": "3.11.7", "torch": "2.14.1"}
CODEBOOK = "c0deb00c"


def fake_run(
    runs: Path, stage: str, metrics: dict[str, float], cfg: Config | None = None, key: str | None = None, **record: Any
) -> RunFolder:
    """A finished run with two figures, in best.json where it has a key. record: of run.json."""
    settings = yaml.safe_dump((cfg or Config()).model_dump(mode="json"), sort_keys=False)
    folder = RunFolder.create(runs, stage, settings, "digest")
    folder.write_metrics({**metrics, "seconds": 75.0})
    for number, name in enumerate(("curves", "samples_test")):
        draw(folder.path, name, number)
    noted = {"status": "finished", "inputs": {}, "commit": "0123456789abcdef", "versions": VERSIONS, "key": key}
    folder.update(**noted | record)
    if key is not None:
        folder.finish(key, None, "", True)
        folder.update(**record)
    return folder


def draw(folder: Path, name: str, seed: int = 0) -> None:
    """A figure."""
    (folder / "figures").mkdir(exist_ok=True)
    (folder / "figures" / f"{name}.png").write_bytes(png(seed))


def split_once(folder: Path) -> Path:
    """A folder with pictures in it, one class of which has a hostile name, and their split in runs/."""
    source = draw_classes(folder / "pictures")
    (source / "class0").rename(source / HOSTILE)
    make_split(folder, source)
    return folder


class FakeChain:
    """A split of real pictures, with a class of a hostile name, and made-up runs of a VQ-VAE and a study on it."""

    def __init__(self, made: Path, folder: Path) -> None:
        """made: as `split_once` leaves it; the runs are in the folder."""
        self.cfg = split_settings(folder, made / "pictures")
        self.runs = copied(made / "runs", Path(self.cfg.run.dir), "data_split")
        self.split: Split = open_split(self.cfg)
        self.changed = self.cfg.replace({"train_vqvae": {"epochs": 3}, "run": {"seed": 7}})
        taken = {"data_split": str(self.split.folder)}
        key = vqvae_key(self.split, self.cfg.train_vqvae)
        self.vqvae = fake_run(
            self.runs, "train_vqvae", {"test_psnr": 26.5, "best_epoch": 3}, self.changed, key, inputs=taken
        )
        write_json(self.vqvae.model / "meta.json", {"codebook": CODEBOOK})
        self.key = f"{self.split.key}-codebook {CODEBOOK}"
        self.taken = taken | {"train_vqvae": str(self.vqvae.path)}
        curves = {f"adaptive_mse_to_reconstruction_at_{percent}": percent / 1e4 for percent in (10, 50)}
        self.study = fake_run(self.runs, "reconstruct_masked", curves, self.cfg, self.key, inputs=self.taken)
        draw(self.study.path, "grid_adaptive", 5)
        write_csv(self.study.path / "curves.csv", ("strategy", "mean"), [(f"row-{n}.", n / 8) for n in range(57)])
        write_csv(self.study.path / "small.csv", ("what", "much"), [("<script>alert(2)</script>", 1)])
