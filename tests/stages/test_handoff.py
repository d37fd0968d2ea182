"""What a stage needs of an earlier one: missing, of another split, of another codebook, by its registered name."""

import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mlflow import MlflowClient

from masked_memory.handoff.memory import take_memory, train_shares
from masked_memory.handoff.split import mend, open_split
from masked_memory.handoff.vqvae import mend_for, vqvae_key
from masked_memory.pipeline.files import InputError, read_csv, read_json, write_json
from masked_memory.pipeline.runs import read_best
from masked_memory.pipeline.tracking import database_uri
from masked_memory.recall.hole import dig
from masked_memory.recall.simple_fillers import NotCompleted
from masked_memory.settings.loading import load
from masked_memory.stages import reconstruct_masked, sample, train_distil, train_vqvae, vqvae_reconstruction
from masked_memory.stages.vqvae import VQVAE
from toys import ROOT, STAGES, copied, newest, refused_in_one_line, run_folders, tiny

# --- hand-off ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", list(STAGES)[1:])
def test_missing_stage_output_names_the_command(ran, tmp_path, stage):
    with pytest.raises(InputError, match=r"no finished run of data_split .*type: python data_split\.py"):
        STAGES[stage].run(tiny(tmp_path, ran.source, run__mlflow=False))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("split_hash", "0123456789ab", r"split_hash is 0123456789ab, but [0-9a-f]{12} is needed here"),
        ("image_size", 64, "image_size is 64, but 16 is needed here"),
        ("channels", 1, "channels is 1, but 3 is needed here"),
    ],
)
def test_vqvae_of_another_split_or_size_is_refused(ran, tmp_path, name, value, message):
    other = tmp_path / "other"
    shutil.copytree(ran.folders["train_vqvae"], other)
    meta = read_json(other / "model" / "meta.json")
    write_json(other / "model" / "meta.json", meta | {name: value})
    with pytest.raises(InputError, match=rf"{message}; type: python train_vqvae\.py"):
        vqvae_reconstruction.run(tiny(ran.runs, ran.source, run__mlflow=False, vqvae_reconstruction__vqvae=str(other)))


@pytest.mark.usefixtures("without_drawing")
def test_indices_and_models_of_another_codebook_are_refused(ran, tmp_path):
    """A second VQ-VAE: what was made for the first does not fit it, and each message says what to type."""
    runs, source = copied(ran.runs, tmp_path / "runs", *STAGES), ran.source
    first = {stage: str(runs / stage / folder.name) for stage, folder in ran.folders.items()}
    train_vqvae.run(tiny(runs, source, run__mlflow=False, run__seed=5, train_vqvae__tune={"trials": 0}))
    second = str(newest(runs, "train_vqvae"))
    plain = {"run__mlflow": False, "train_distil__vqvae": second, "reconstruct_masked__vqvae": second}
    with pytest.raises(InputError, match=r"no finished run of vqvae_reconstruction .*python vqvae_reconstruction\.py"):
        train_distil.run(tiny(runs, source, **plain))
    with pytest.raises(InputError, match=r"codebook is [0-9a-f]{12}, but [0-9a-f]{12} is needed"):
        train_distil.run(tiny(runs, source, **plain, train_distil__indices=first["vqvae_reconstruction"]))
    vqvae_reconstruction.run(tiny(runs, source, run__mlflow=False, vqvae_reconstruction__vqvae=second))
    with pytest.raises(InputError, match=r"codebook is [0-9a-f]{12}, .*type: python train_distil\.py"):
        reconstruct_masked.run(tiny(runs, source, **plain, reconstruct_masked__distil=first["train_distil"]))


def test_wrong_kind_of_run_folder_is_refused(ran):
    wrong = str(ran.folders["train_classifier"])
    with pytest.raises(InputError, match="stage is train_classifier, but train_vqvae is needed"):
        vqvae_reconstruction.run(tiny(ran.runs, ran.source, run__mlflow=False, vqvae_reconstruction__vqvae=wrong))
    with pytest.raises(InputError, match="is neither a run folder"):
        vqvae_reconstruction.run(tiny(ran.runs, ran.source, run__mlflow=False, vqvae_reconstruction__vqvae="nowhere"))


@pytest.mark.system
@pytest.mark.usefixtures("without_drawing")
def test_registered_model_is_found_by_its_alias(ran):
    client = MlflowClient(database_uri(ran.runs), database_uri(ran.runs))
    name = next(m.name for m in client.search_registered_models() if m.name.startswith("vqvae"))
    vqvae = {"run__mlflow": False, "vqvae_reconstruction__vqvae": f"models:/{name}@champion"}
    vqvae_reconstruction.run(tiny(ran.runs, ran.source, **vqvae))
    used = read_json(newest(ran.runs, "vqvae_reconstruction") / "run.json")["inputs"]["train_vqvae"]
    assert VQVAE.from_pretrained(Path(used) / "model").config.codebook_size == 16
    bad = tiny(ran.runs, ran.source, run__mlflow=False, vqvae_reconstruction__vqvae="models:/nobody@champion")
    with pytest.raises(InputError, match=r"models:/nobody@champion is not registered .*registered are: models:/"):
        vqvae_reconstruction.run(bad)


# --- what must not be taken -------------------------------------------------------------------------------------------

PUBLISHED = {
    "train_distil__mask_schedule": "fixed", "train_distil__redraw_masks": False, "train_distil__mask_embedding": "zero",
}  # fmt: skip


def test_a_model_trained_on_validation_pictures_too_is_not_measured_on_them(ran):
    """The VQ-VAE of `ran` was trained again on train + validation in the end."""
    asked = {"run__mlflow": False, "reconstruct_masked__part": "val+test"}
    before = run_folders(ran.runs)
    with pytest.raises(InputError) as refused:
        reconstruct_masked.run(tiny(ran.runs, ran.source, **asked))
    said = str(refused.value)
    assert said.startswith(str(ran.folders["train_vqvae"])) and "\n" not in said
    assert "would measure its own training pictures; type --reconstruct_masked.part test, or: python train_vqva" in said
    assert run_folders(ran.runs) == before


@pytest.mark.usefixtures("without_drawing")
def test_models_that_never_saw_validation_pictures_are_measured_on_them(ran, tmp_path):
    runs = copied(ran.runs, tmp_path / "runs", *STAGES)
    settings = runs / "train_vqvae" / ran.folders["train_vqvae"].name / "config.yaml"
    settings.write_text(settings.read_text().replace("retrain: true", "retrain: false"))
    cfg = tiny(runs, ran.source, run__mlflow=False, reconstruct_masked__part="val+test")
    reconstruct_masked.run(cfg)
    rows = read_csv(newest(runs, "reconstruct_masked") / "curves.csv")
    split = open_split(cfg)
    assert max(int(row["pictures"]) for row in rows) == len(split.positions("val", "test"))


@pytest.mark.system
@pytest.mark.usefixtures("without_drawing")
def test_a_rival_that_scores_better_is_not_taken_for_ours(ran, tmp_path):
    """The published recipe has a key of its own; by `best` it is found as a rival."""
    runs = copied(ran.runs, tmp_path / "runs", *STAGES)
    ours = read_best(runs, "train_distil")
    train_distil.run(tiny(runs, ran.source, run__mlflow=False, train_distil__tune={"trials": 0}, **PUBLISHED))
    rival, best = newest(runs, "train_distil"), read_best(runs, "train_distil")
    (key,) = set(best) - set(ours)
    assert key == f"{next(iter(ours))}-published recipe" and best[key]["run"] == rival.name
    best[key]["score"] = -1.0
    write_json(runs / "train_distil" / "best.json", best)
    reconstruct_masked.run(tiny(runs, ran.source, run__mlflow=False, reconstruct_masked__rival_distil="best"))
    inputs = read_json(newest(runs, "reconstruct_masked") / "run.json")["inputs"]
    assert inputs["rival_distil"] == str(rival)
    assert Path(inputs["train_distil"]).name == ran.folders["train_distil"].name
    rows = read_csv(newest(runs, "reconstruct_masked") / "rivals.csv")
    assert "published recipe, argmax" in {row["rival"] for row in rows}


@pytest.mark.parametrize("changes", [*[{key: value} for key, value in PUBLISHED.items()], {}])
def test_only_all_of_the_published_recipe_makes_a_rival(changes, tmp_path):
    section = tiny(tmp_path, tmp_path, **changes).train_distil
    assert not section.published_recipe
    assert tiny(tmp_path, tmp_path, **PUBLISHED).train_distil.published_recipe


def test_the_plain_vqvae_competes_among_its_own(ran):
    split = open_split(ran.cfg)
    plain = tiny(ran.runs, ran.source, train_vqvae__stem="strided").train_vqvae
    assert vqvae_key(split, plain) == f"{vqvae_key(split, ran.cfg.train_vqvae)}-strided"


@pytest.mark.usefixtures("without_drawing")
@pytest.mark.parametrize("stage", ["train_vqvae", "train_classifier", "train_distil"])
def test_a_model_is_on_disk_before_it_is_measured_and_drawn(ran, tmp_path, monkeypatch, stage):
    """So that what goes wrong then does not cost the training."""
    runs = copied(ran.runs, tmp_path / "runs", *STAGES)

    def fails(*given: object, **named: object) -> None:
        raise RuntimeError("no room for the figure")

    monkeypatch.setattr(STAGES[stage], "report", fails)
    section = {"epochs": 1, "retrain": False, "tune": {"trials": 0}}
    with pytest.raises(RuntimeError, match="no room"):
        STAGES[stage].run(tiny(runs, ran.source, run__mlflow=False, **{stage: section}))
    model = newest(runs, stage) / "model"
    assert {file.name for file in model.iterdir()} == {"model.safetensors", "config.json", "meta.json"}


def test_what_is_left_is_the_same_picture_in_sampling_as_in_the_study(ran, machine):
    """The average code of the training grids, each counted as often as it stands there."""
    split = open_split(ran.cfg)
    handed = take_memory(ran.cfg, split, machine)
    tokens = handed.indices.tokens(split.positions("test"))[:3]
    mask = torch.rand(3, handed.memory.tokens) < 0.6
    train = handed.vqvae.model.codebook_vectors()[handed.indices.tokens(split.positions("train"))]
    torch.testing.assert_close(handed.memory.blank, train.mean((0, 1)))
    shares = train_shares(split, handed.indices, handed.vqvae)
    with torch.no_grad():
        left = sample.what_is_left(dig(tokens, mask), handed.vqvae, shares)
        study = NotCompleted(handed.memory.codebook, handed.memory.blank).fill(dig(tokens, mask), "expected", None)
        assert torch.equal(left, handed.memory.paint(study))


# --- damaged files ----------------------------------------------------------------------------------------------------


def flip(file, at):
    """One bit of the byte at a place in [0, 1] of the file."""
    content = bytearray(file.read_bytes())
    content[int(at * (len(content) - 1))] ^= 16
    file.write_bytes(content)


@pytest.mark.parametrize("at", [0.0, 0.3, 1.0])
@pytest.mark.parametrize(
    ("made_by", "file", "read_by"),
    [
        ("data_split", "images.npy", "train_vqvae"),
        ("data_split", "manifest.csv", "train_vqvae"),
        ("train_vqvae", "model/model.safetensors", "vqvae_reconstruction"),
        ("train_vqvae", "model/config.json", "vqvae_reconstruction"),
        ("vqvae_reconstruction", "indices/indices.npy", "train_distil"),
        ("train_distil", "model/model.safetensors", "reconstruct_masked"),
    ],
)
def test_a_flipped_bit_is_noticed_before_anything_is_made_of_it(ran, typed, tmp_path, made_by, file, read_by, at):
    runs = copied(ran.runs, tmp_path / "runs", *list(STAGES)[: list(STAGES).index(read_by)])
    for broken in (runs / made_by).glob(f"*/{file}"):
        flip(broken, at)
    status, _, err = typed(read_by, runs, ran.source)
    refused_in_one_line(status, err, file, "was changed or damaged", f"type: python {made_by}.py")
    assert not list((runs / read_by).glob("*/run.json"))


@pytest.mark.system
def test_the_command_that_is_named_mends_a_damaged_model(ran, typed, tmp_path):
    """With all settings of the run, so that its numbers are the same."""
    runs = copied(ran.runs, tmp_path / "runs", "data_split", "train_vqvae")
    (broken,) = (runs / "train_vqvae").glob("*/model/model.safetensors")
    flip(broken, 0.5)
    _, _, err = typed("vqvae_reconstruction", runs, ran.source)
    words = shlex.split(err.partition("; type: python ")[2])
    assert words[0] == "train_vqvae.py"
    done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "as good as the best so far, which it replaces" in done.stdout
    status, _, err = typed("vqvae_reconstruction", runs, ran.source)
    assert status == 0, err


def test_a_command_names_the_vqvae_where_another_is_the_best(ran, tmp_path):
    cfg, split = tiny(ran.runs, ran.source), open_split(tiny(ran.runs, ran.source))
    best, other = SimpleNamespace(folder=ran.folders["train_vqvae"]), SimpleNamespace(folder=tmp_path / "an other")
    plain = mend("train_distil", cfg)
    assert mend_for("train_distil", cfg, split, best) == plain
    assert mend_for("train_distil", cfg, split, other) == f"{plain} --train_distil.vqvae '{other.folder}'"


def test_a_command_has_what_was_typed_and_matters_to_its_stage(tmp_path):
    mine = tmp_path / "my own.yaml"
    mine.write_text("train_vqvae: {epochs: 3}", encoding="utf-8")
    typed = {"run.dir": "r", "data.source": "p q", "train_vqvae.hidden": 32, "train_distil.dim": 64}
    cfg = load([mine], typed)
    assert mend("train_vqvae", cfg) == (
        f"python train_vqvae.py --config '{mine}' --run.dir r --data.source 'p q' --train_vqvae.hidden 32"
    )
    assert mend("train_mae", cfg, ["presets/x.yaml"]) == (
        "python -m masked_memory train_mae "
        f"--config '{mine}' presets/x.yaml --run.dir r --data.source 'p q' --train_vqvae.hidden 32"
    ), "what says which VQ-VAE it takes"
    assert mend("train_mae", load([], {})) == "python -m masked_memory train_mae"


def test_a_cut_off_cache_of_pictures_is_noticed(ran, typed, tmp_path):
    runs = copied(ran.runs, tmp_path / "runs", "data_split")
    images = runs / "data_split" / ran.folders["data_split"].name / "images.npy"
    images.write_bytes(images.read_bytes()[:-100])
    status, _, err = typed("train_vqvae", runs, ran.source)
    refused_in_one_line(status, err, "images.npy was changed or damaged", "type: python data_split.py")


def test_models_of_before_files_were_noted_are_still_taken(ran, typed, tmp_path):
    runs = copied(ran.runs, tmp_path / "runs", "data_split", "train_vqvae")
    for stage, name in (("data_split", "split.json"), ("train_vqvae", "model/meta.json")):
        file = runs / stage / ran.folders[stage].name / name
        meta = read_json(file)
        assert set(meta.pop("files")) <= {"images.npy", "manifest.csv", "model.safetensors", "config.json"}
        write_json(file, meta)
    assert typed("vqvae_reconstruction", runs, ran.source)[0] == 0
