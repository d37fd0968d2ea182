"""Stacks of components through the stages: masks, inpainting, and a decoder that is told metadata."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from masked_memory.handoff.split import mask_of, open_split
from masked_memory.handoff.vqvae import take_vqvae
from masked_memory.measuring.components import Painter, component_errors
from masked_memory.pipeline.files import InputError, read_csv, read_json
from masked_memory.pipeline.metrics import mse, to_unit
from masked_memory.stages import data_split, sample, train_vqvae, vqvae_reconstruction
from toys import CPU, draw_classes, newest, tiny


def pictures(batch: int = 4) -> torch.Tensor:
    return torch.rand(batch, 5, 16, 16) * 2 - 1


# --- the stages -------------------------------------------------------------------------------------------------------
SECTION = {
    "epochs": 3, "retrain": False, "tune": {"trials": 0}, "condition_numbers": ["age"], "condition_classes": ["class"],
    "label_drop": 0.3, "component_masking": {"enabled": True, "warmup_epochs": 2},
}  # fmt: skip


def stage_settings(runs: Path, source: Path, **changes: object):
    names = ["a", "b", "c", "d"]
    data = {"channels": 4, "components": names, "metadata": str(source.parent / "notes.csv")}
    return tiny(runs, source, **{"run__mlflow": False, "data": data, "train_vqvae": SECTION, **changes})


@pytest.fixture(scope="module")
def stacked(tmp_path_factory):
    """Stacks with metadata, a VQ-VAE with masks and conditions, and its reconstruction."""
    folder = tmp_path_factory.mktemp("components")
    source, rng = folder / "stacks", np.random.default_rng(0)
    lines = ["path,age"]
    for number in range(36):
        kind = number % 3
        (source / f"class{kind}").mkdir(parents=True, exist_ok=True)
        array = rng.random((4, 16, 16)).astype(np.float32) * 0.3 + kind / 3
        np.save(source / f"class{kind}" / f"{number:02d}.npy", array)
        lines.append(f"class{kind}/{number:02d}.npy,{20 + number}")
    (folder / "notes.csv").write_text("\n".join(lines))
    cfg = stage_settings(folder / "runs", source)
    for stage in (data_split, train_vqvae, vqvae_reconstruction):
        stage.run(cfg)
    return cfg, folder / "runs", source


def first_of(runs: Path, stage: str) -> Path:
    """The run that the fixture made; tests add others."""
    return min((runs / stage).glob("*/config.yaml"), key=lambda path: path.stat().st_mtime_ns).parent


def history(runs: Path) -> list[dict]:
    return [json.loads(line) for line in (first_of(runs, "train_vqvae") / "metrics.jsonl").read_text().splitlines()]


def test_mask_p_is_logged_and_the_model_says_what_it_was_trained_for(stacked):
    cfg, runs, _ = stacked
    lines = history(runs)
    assert [line["train_mask_p"] for line in lines] == pytest.approx([0, 0.35, 0.7])
    mixed = [0.3 * line["val_loss"] + 0.7 * line["val_kept_loss"] for line in lines]
    assert [line["val_masking_loss"] for line in lines] == pytest.approx(mixed)
    (key, best), *others = read_json(runs / "train_vqvae" / "best.json").items()
    assert key.endswith("-masked components-told age, class") and not others
    assert best["score"] in [pytest.approx(line["val_kept_mse"]) for line in lines]
    handed = take_vqvae(cfg, str(first_of(runs, "train_vqvae")), open_split(cfg), CPU)
    assert handed.component_masking and handed.label_drop == 0.3 and handed.meta["components"] == list("abcd")
    assert [column.name for column in handed.columns.numbers + handed.columns.classes] == ["age", "class"]
    assert "test_mse_not_told" in read_json(handed.folder / "metrics.json")


def test_components_csv_has_every_pair_and_the_right_numbers(stacked):
    cfg, runs, _ = stacked
    folder = first_of(runs, "vqvae_reconstruction")
    rows = read_csv(folder / "components.csv")
    split = open_split(cfg)
    handed = take_vqvae(cfg, str(first_of(runs, "train_vqvae")), split, CPU)
    pairs = {(row["shown"], row["component"]) for row in rows if row["model"] == handed.folder.name}
    assert pairs == {(shown, name) for shown in (*"abcd", "all") for name in "abcd"}
    test = split.positions("test")
    x = split.pictures(test)
    with torch.no_grad():
        painted = Painter("m", handed.model).paint(x, mask_of(split.components, ["b"]), test)
    expected = component_errors(to_unit(painted), to_unit(x))
    row = next(r for r in rows if r["model"] != "mean" and (r["shown"], r["component"]) == ("b", "c"))
    assert float(row["mse"]) == pytest.approx(float(expected["mse"][:, 2].mean()), rel=1e-4)
    assert float(row["ssim"]) == pytest.approx(float(expected["ssim"][:, 2].mean()), rel=1e-4)
    assert float(row["seconds_per_picture"]) > 0
    assert {"components.png", "component_errors.png"} <= {file.name for file in (folder / "figures").glob("*.png")}


@pytest.mark.system
def test_a_rival_stands_beside_it_and_metadata_are_told(stacked):
    cfg, runs, source = stacked
    first = first_of(runs, "train_vqvae")
    plain = stage_settings(runs, source, train_vqvae={**SECTION, "component_masking": {"enabled": False}, "epochs": 1})
    train_vqvae.run(plain)
    second = newest(runs, "train_vqvae")
    section = {"vqvae": str(first), "rival": str(second), "tell_metadata": True, "guidance_scale": 1.5}
    vqvae_reconstruction.run(stage_settings(runs, source, vqvae_reconstruction=section))
    folder = newest(runs, "vqvae_reconstruction")
    rows = read_csv(folder / "components.csv")
    assert {row["model"] for row in rows} == {"mean", first.name, second.name}
    metrics = read_json(folder / "metrics.json")
    assert metrics["rival_test_inpainting_mse"] > 0 and metrics["test_inpainting_mse"] > 0
    split = open_split(cfg)
    handed = take_vqvae(cfg, str(first), split, CPU)
    positions = np.arange(3)
    metadata = handed.columns.tell(split.manifest).rows(positions)
    with torch.no_grad():
        x = split.pictures(positions)
        painted = handed.model.decode_indices(handed.model.encode_indices(x), metadata, 1.5)
    stored = [float(row["mse"]) for row in read_csv(folder / "pictures.csv")[:3]]
    assert stored == pytest.approx(mse(to_unit(painted), to_unit(x)).tolist(), rel=1e-4)


def test_own_stacks_are_painted_from_the_named_components(stacked):
    cfg, runs, source = stacked
    file = next((source / "class1").glob("*.npy"))
    for section in ({"components": "a,c"}, {}):
        given = {"vqvae_reconstruction": {"input": str(file), **section}}
        vqvae_reconstruction.run(stage_settings(runs, source, **given))
        folder = newest(runs, "vqvae_reconstruction") / "own"
        painted = np.load(next(folder.glob("*.npz")))
        assert painted.files == list("abcd") and painted["a"].shape == (16, 16)
        low, high = open_split(cfg).stacks.ranges[0]
        assert low - 1e-6 <= painted["a"].min() and painted["a"].max() <= high + 1e-6
        row = read_csv(folder / "pictures.csv")[0]
        assert {"mse", "mse_a", "ssim_d"} <= set(row)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"components": ["a", "z"], "input": "SOURCE"}, "component z is unknown; expected some of: a, b, c, d"),
        ({"components": ["a"]}, "--components needs pictures"),
        ({"guidance_scale": 2.0}, "nothing is told; type --vqvae_reconstruction.tell_metadata true"),
    ],
)
def test_what_cannot_be_shown_or_told_leaves_no_run_folder(stacked, section, message):
    _, runs, source = stacked
    section = {key: str(source / "class0") if value == "SOURCE" else value for key, value in section.items()}
    before = sorted((runs / "vqvae_reconstruction").iterdir())
    with pytest.raises(InputError, match=message):
        vqvae_reconstruction.run(stage_settings(runs, source, vqvae_reconstruction=section))
    assert sorted((runs / "vqvae_reconstruction").iterdir()) == before


def test_without_label_dropping_there_is_no_guidance_and_no_silence(stacked):
    _, runs, source = stacked
    train_vqvae.run(stage_settings(runs, source, run__seed=3, train_vqvae={**SECTION, "epochs": 1, "label_drop": 0}))
    model = str(newest(runs, "train_vqvae"))
    guided = {"vqvae": model, "tell_metadata": True, "guidance_scale": 2.0}
    with pytest.raises(InputError, match="without label dropping, so guidance_scale must be 1"):
        vqvae_reconstruction.run(stage_settings(runs, source, vqvae_reconstruction=guided))
    with pytest.raises(InputError, match="without label dropping, so it cannot paint without being told"):
        vqvae_reconstruction.run(stage_settings(runs, source, vqvae_reconstruction={"vqvae": model}))


def test_a_killed_fit_with_masks_resumes_to_the_same_weights(stacked, tmp_path, monkeypatch):
    """The share of masked pictures depends on the epoch, which a resumed fit must know."""
    import shutil

    from safetensors.torch import load_file

    _, runs, source = stacked
    whole = first_of(runs, "train_vqvae")
    shutil.copytree(runs / "data_split", tmp_path / "runs" / "data_split")
    cfg = stage_settings(tmp_path / "runs", source)
    real = train_vqvae.VQVAELearner.start_epoch

    def dies(learner, epoch):
        if epoch == 2:
            raise KeyboardInterrupt
        real(learner, epoch)

    monkeypatch.setattr(train_vqvae.VQVAELearner, "start_epoch", dies)
    with pytest.raises(KeyboardInterrupt):
        train_vqvae.run(cfg)
    monkeypatch.setattr(train_vqvae.VQVAELearner, "start_epoch", real)
    train_vqvae.run(cfg, resume=True)
    assert [line["train_mask_p"] for line in history(tmp_path / "runs")] == pytest.approx([0, 0.35, 0.7])
    first, second = (
        load_file(folder / "model" / "model.safetensors")
        for folder in (whole, newest(tmp_path / "runs", "train_vqvae"))
    )
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_masking_needs_two_components(stacked, tmp_path):
    from PIL import Image

    (tmp_path / "grey").mkdir()
    for number in range(6):
        Image.new("L", (16, 16), 40 * number).save(tmp_path / "grey" / f"{number}.png")
    cfg = tiny(tmp_path / "runs", tmp_path / "grey", run__mlflow=False, data__channels=1, train_vqvae={
        "component_masking": {"enabled": True}, "tune": {"trials": 0}})  # fmt: skip
    data_split.run(cfg)
    with pytest.raises(InputError, match=r"at least 2 components; these have 1 \(grey\)"):
        train_vqvae.run(cfg)
    assert not (tmp_path / "runs" / "train_vqvae").exists()


def test_sample_paints_components_by_the_vqvae_alone(stacked):
    cfg, runs, _ = stacked
    values = {"mode": "inpainting", "components": ["a", "c"], "num_samples": 3}
    assert sample.run(cfg.replace({"sample": cfg.sample.replace(values)})) > 0
    folder = newest(runs, "sample")
    rows = read_csv(folder / "samples.csv")
    assert len(rows) == 3 and {f"{measure}_{name}" for measure in ("mse", "ssim") for name in "abcd"} <= set(rows[0])
    assert {"00002.png", "00002.npz"} <= {file.name for file in (folder / "pictures").iterdir()}
    with np.load(folder / "pictures" / "00000.npz") as stack:
        assert sorted(stack.files) == list("abcd") and stack["a"].shape == (16, 16)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mode": "inpainting", "components": ["e"]}, "component e is unknown; expected some of: a, b, c, d"),
        ({"mode": "unconditional", "components": ["a"]}, "--components is for mode inpainting; found unconditional"),
    ],
)
def test_sample_refuses_components_in_one_line(stacked, values, message):
    cfg = stacked[0]
    with pytest.raises(InputError, match=message):
        sample.run(cfg.replace({"sample": cfg.sample.replace(values)}))


@pytest.mark.system
def test_a_rival_of_one_component_and_a_rival_that_is_the_model_itself(tmp_path):
    """One component leaves no others to paint."""
    source = draw_classes(tmp_path / "pictures")
    runs = tmp_path / "runs"
    changes = {"run__mlflow": False, "data__channels": 1}
    data_split.run(tiny(runs, source, **changes))
    for seed in (0, 1):
        train_vqvae.run(tiny(runs, source, **changes, run__seed=seed))
    first, second = sorted((runs / "train_vqvae").glob("2*"), key=lambda path: path.stat().st_mtime_ns)
    named = {"vqvae_reconstruction__vqvae": str(first)}
    vqvae_reconstruction.run(tiny(runs, source, **changes, **named, vqvae_reconstruction__rival=str(second)))
    (folder,) = (runs / "vqvae_reconstruction").glob("2*")
    assert {row["model"] for row in read_csv(folder / "components.csv")} == {"mean", first.name, second.name}
    with pytest.raises(InputError, match="the VQ-VAE itself; name another run folder"):
        vqvae_reconstruction.run(tiny(runs, source, **changes, **named, vqvae_reconstruction__rival=str(first)))
