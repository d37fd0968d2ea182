"""The models that come with the project: lent for a look where nothing is trained, and to nothing that measures."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from masked_memory.handoff import shipped
from masked_memory.handoff.split import open_split
from masked_memory.own_picture.completing import request_of
from masked_memory.page.guard import Gate
from masked_memory.page.opening import Opening, Studied, example_pictures
from masked_memory.pipeline.files import InputError, read_json, write_json
from masked_memory.pipeline.runs import RunFolder, read_best, run_settings
from masked_memory.settings import loading
from masked_memory.settings.config import Config
from masked_memory.stages import app, sample, train_prior
from toys import STAGES, copied, newest, tiny

pytestmark = pytest.mark.system

MEASURING = [stage for stage in STAGES if stage != "data_split"]


@pytest.fixture(scope="module")
def packed(ran, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny models, packed as those of the demo are."""
    folder = tmp_path_factory.mktemp("packed")
    cfg = tiny(copied(ran.runs, folder / "runs", *STAGES), ran.source, run__mlflow=False)
    train_prior.run(cfg)
    shipped.pack_models(cfg, shipped=folder / "shipped")
    return folder / "shipped"


@pytest.fixture
def lent(packed: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """As if they came with the project."""
    monkeypatch.setattr(shipped, "SHIPPED", packed)
    monkeypatch.setitem(STAGES, "sample", sample)  # which can be typed, too
    return packed


def of(cfg: Config, **changes: object) -> Config:
    return cfg.replace({"run": cfg.run.replace(changes)})


# --- packing ----------------------------------------------------------------------------------------------------------


def test_weights_are_halved_and_nearly_the_same(ran, packed: Path) -> None:
    for stage in ("train_vqvae", "train_classifier", "train_distil"):
        before = load_file(ran.folders[stage] / "model" / "model.safetensors")
        after = load_file(next(packed.glob(f"{stage}/*/model/model.safetensors")))
        assert before.keys() == after.keys()
        for name, weight in before.items():
            if weight.is_floating_point():
                assert after[name].dtype == torch.bfloat16
                assert torch.allclose(after[name].float(), weight, rtol=2**-8, atol=1e-30)
            else:
                assert torch.equal(after[name], weight)


def test_nothing_of_the_machine_is_packed(packed: Path) -> None:
    for file in packed.rglob("run.json"):
        record = read_json(file)
        assert not {"process", "mlflow_run"} & record.keys() and record["status"] == "finished"
        assert all(len(Path(folder).parts) == 2 for folder in record["inputs"].values())
        assert run_settings(file.parent)["run"]["dir"] == "runs"


# --- lending ----------------------------------------------------------------------------------------------------------


def test_samples_need_no_training(ran, typed, tmp_path: Path, lent: Path) -> None:
    runs = tmp_path / "runs"
    status, out, err = typed("sample", runs, ran.source, "--num-samples", "3")
    assert status == 0, err
    assert f"nothing is trained in {runs}: the demo's models that come with the project are used" in out
    assert [folder.name for folder in runs.iterdir()] == ["shipped"]
    assert len(list((newest(runs / "shipped", "sample") / "pictures").glob("*.png"))) == 3


def test_an_own_picture_needs_no_training(ran, typed, tmp_path: Path, lent: Path) -> None:
    picture = ran.source / "class0" / "00.png"
    for stage, *options in (
        ("reconstruct_masked", "--image", picture, "--percent", "50"),
        ("vqvae_reconstruction", "--input", picture),
    ):
        status, _, err = typed(stage, tmp_path / "runs", ran.source, *options)
        assert status == 0, err
        assert list((newest(tmp_path / "runs" / "shipped", stage) / "own").iterdir())


def test_the_page_needs_no_training(ran, tmp_path: Path, lent: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[tuple[Opening, Studied | None]] = []

    def build(opening: Opening, examples: list[Path], studied: Studied | None) -> SimpleNamespace:
        shown.append((opening, studied))
        return SimpleNamespace(close=lambda verbose: None)

    monkeypatch.setattr(app, "build_page", build)
    monkeypatch.setattr(app, "serve", lambda page, port, gate: "http://127.0.0.1:7860")
    app.run_page(of(ran.cfg, dir=str(tmp_path / "runs")), None, Gate("127.0.0.1", None), False, lambda: None)
    ((opening, studied),) = shown
    assert len(opening.pictures) and studied is not None and studied.curves


@pytest.mark.parametrize("stage", MEASURING)
def test_no_stage_that_measures_takes_them(ran, typed, tmp_path: Path, lent: Path, stage: str) -> None:
    runs = copied(ran.runs, tmp_path / "runs", "data_split")
    status, out, err = typed(stage, runs, ran.source)
    assert "come with the project" not in out and not (runs / "shipped").exists()
    assert status == 0 if stage == "train_vqvae" else "no finished run of train_vqvae" in err


def test_once_something_is_trained_they_are_not_taken(ran, tmp_path: Path, lent: Path) -> None:
    cfg = of(ran.cfg, dir=str(copied(ran.runs, tmp_path / "runs", "train_vqvae")))
    assert shipped.lend(cfg) is cfg


def test_other_pictures_are_not_asked_of_them(ran, tmp_path: Path, lent: Path) -> None:
    cfg = of(ran.cfg, dir=str(tmp_path / "runs"))
    other = cfg.replace({"data": cfg.data.replace({"seed": 5})})
    assert shipped.lend(other) is other
    assert not (tmp_path / "runs").exists()


def test_they_are_laid_out_once_and_what_lies_beside_them_stays(ran, tmp_path: Path, lent: Path) -> None:
    cfg = of(ran.cfg, dir=str(tmp_path / "runs"))
    place = tmp_path / "runs" / "shipped"
    assert shipped.lend(cfg).run.dir == str(place)
    weights = next(place.glob("train_vqvae/*/model/model.safetensors"))
    changed, made = weights.stat().st_mtime_ns, newest(place, "data_split")
    RunFolder.create(place, "train_vqvae", "", "").finish("mine", None, "", True)
    shipped.lend(cfg)
    assert newest(place, "data_split") == made and weights.stat().st_mtime_ns == changed
    assert "mine" in read_best(place, "train_vqvae")


def test_pictures_of_other_versions_are_refused(ran, tmp_path: Path, packed: Path) -> None:
    other = copied(packed.parent, tmp_path / "packed", packed.name) / packed.name
    write_json(other / shipped.NOTE, read_json(other / shipped.NOTE) | {"split": "another"})
    cfg = of(ran.cfg, dir=str(tmp_path / "runs"))
    with pytest.raises(InputError, match=r"are others than those of the shipped models \(split another\).*make demo"):
        shipped.lend(cfg, other)


def test_a_dry_run_lays_nothing_out(ran, typed, tmp_path: Path, lent: Path) -> None:
    status, out, err = typed("sample", tmp_path / "runs", ran.source, "--dry-run")
    assert status == 0, err
    assert "come with the project" in out and not (tmp_path / "runs").exists()


# --- those that really come with it -----------------------------------------------------------------------------------


def test_they_are_small() -> None:
    sizes = [file.stat().st_size for file in shipped.SHIPPED.rglob("model.safetensors")]
    assert len(sizes) == 4 and sum(sizes) <= 5e6


def test_they_complete_a_digit_of_the_demo(tmp_path: Path) -> None:
    """Better than the average of the training pictures would: they are trained, and of these pictures."""
    cfg = of(loading.load([], {}), dir=str(tmp_path / "runs"), mlflow=False, threads=1)
    borrowed = shipped.lend(cfg)
    handed, split = app.load_memory(borrowed), open_split(borrowed)
    start = request_of(borrowed.reconstruct_masked, handed.memory.distil, split.classes, borrowed.run.seed)
    pictures = example_pictures(split)
    recalls = [Opening(handed.memory, split.classes, pictures, start).recall(n, 50, "random") for n in range(4)]
    average = split.pixels(split.positions("train")[:500]).mean(0) / 255
    spread = [float(np.square(recall.original / 255 - average).mean()) for recall in recalls]
    assert np.mean([recall.error for recall in recalls]) < 0.3 * np.mean(spread)
