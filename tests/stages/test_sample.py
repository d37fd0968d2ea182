"""sample.py: pictures, codes and lines, and what cannot be asked."""

import numpy as np
import pytest
import torch
from PIL import Image

from masked_memory.handoff.split import open_split
from masked_memory.handoff.vqvae import take_indices, take_vqvae
from masked_memory.pipeline.files import InputError, read_csv, read_json, write_csv, write_json
from masked_memory.pipeline.machine import Stream, generator
from masked_memory.sources import pixels
from masked_memory.stages import data_split, sample, train_prior, train_vqvae, vqvae_reconstruction
from masked_memory.stages.masking import masks_of
from toys import CPU, Counted, newest, pictures_in, prior_settings


@pytest.mark.parametrize(
    "asked",
    [
        {"prior": "pixelcnn"},
        {"prior": "gan"},
        {"prior": "distil"},
        {"prior": "pixelcnn", "mode": "conditional", "guidance_scale": 2.0, "temperature": 0.8, "top_k": 5},
        {"prior": "pixelcnn", "mode": "conditional", "values": [23]},
        {"prior": "distil", "mode": "conditional", "label": "class1", "guidance_scale": 3.0},
        {"prior": "pixelcnn", "mode": "inpainting", "label": "class2"},
        {"prior": "pixelcnn", "mode": "inpainting", "mask": "random"},
        {"prior": "gan", "mode": "inpainting", "mask": "half"},
    ],
)
def test_samples_are_pictures_codes_and_lines(made, asked):
    cfg = prior_settings(*made[:2], sample=asked)
    assert sample.run(cfg) > 0
    folder = newest(made[0], "sample")
    indices, rows = np.load(folder / "indices.npy"), read_csv(folder / "samples.csv")
    assert indices.shape == (4, 4, 4) and len(rows) == 4 and indices.min() >= 0 and indices.max() < 16
    split = open_split(cfg)
    vqvae = take_vqvae(cfg, "best", split, CPU)
    painted = pixels.from_model(vqvae.paint(torch.from_numpy(indices).flatten(1)))
    assert (np.asarray(Image.open(folder / rows[2]["file"])) == painted[2]).all()
    assert (folder / "figures" / "grid.png").is_file() and not (made[0] / "sample" / "best.json").exists()
    if asked.get("mode") == "conditional" and "values" not in asked:
        classes = ["class1"] * 4 if "label" in asked else ["class0", "class1", "class2", "class0"]
        assert [row["class"] for row in rows] == classes
    if asked.get("mode") == "inpainting":
        tokens = take_indices(cfg, "best", split, vqvae)
        at = {row["path"]: n for n, row in enumerate(split.manifest)}
        mask = masks_of(cfg.sample.mask, 50, 4, 4, generator(0, Stream.SAMPLE_MASKS)).view(4, 4, 4).numpy()
        assert mask.sum() == 4 * 8
        for number, row in enumerate(rows):
            known = tokens.indices[at[row["path"]]]
            assert (indices[number] == known)[~mask[number]].all() and row["missing_tokens"] == "8"
            assert float(row["right_codes"]) == pytest.approx((indices[number] == known)[mask[number]].mean())


def test_the_seed_decides_what_is_drawn(made):
    drawn = []
    for seed in (0, 0, 1):
        sample.run(prior_settings(*made[:2], run__seed=seed))
        drawn.append(np.load(newest(made[0], "sample") / "indices.npy"))
    assert (drawn[0] == drawn[1]).all() and (drawn[0] != drawn[2]).any()


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (
            {"mode": "conditional", "label": "cat"},
            "--class cat is not a class of the data; it has class0, class1, class2",
        ),
        ({"label": "class0"}, "mode unconditional is told nothing, but --class or --values is given"),
        ({"guidance_scale": 2.0}, "--guidance-scale is 2, but mode unconditional is told nothing"),
        ({"prior": "gan", "top_k": 3}, "a GAN makes all codes at once"),
        (
            {"prior": "gan", "mode": "conditional"},
            r"no finished run of train_prior for gan told the class .*type: python ",
        ),
        ({"prior": "distil", "mode": "conditional", "values": [3]}, "the DistilBERT can be told classes only"),
        ({"mode": "conditional", "values": [3], "guidance_scale": 2.0}, "trained without label dropping, so --guid"),
        ({"mode": "conditional", "values": [3, 4]}, "no finished run of train_prior for pixelcnn told 2 values"),
        ({"mode": "conditional", "values": [3], "label": "class0"}, "told the class and 1 value "),
    ],
)
def test_what_cannot_be_asked_is_one_line_and_leaves_no_folder(made, asked, message):
    before = sorted((made[0] / "sample").iterdir())
    with pytest.raises(InputError, match=message) as caught:
        sample.run(prior_settings(*made[:2], sample=asked))
    assert "\n" not in str(caught.value) and sorted((made[0] / "sample").iterdir()) == before


def test_a_named_prior_is_asked_for_what_it_knows_only(made):
    with pytest.raises(InputError, match="was trained to be told nothing, but is asked for class"):
        sample.run(prior_settings(*made[:2], sample={"mode": "conditional", "prior_run": made.named("pixelcnn")}))
    with pytest.raises(InputError, match="without label dropping, so it must be told something"):
        sample.run(prior_settings(*made[:2], sample={"prior_run": made.named("pixelcnn by age")}))
    with pytest.raises(InputError, match=r"kind is gan, but pixelcnn is needed here; type: python train_prior\.py"):
        sample.run(prior_settings(*made[:2], sample={"prior_run": made.named("gan")}))
    sample.run(prior_settings(*made[:2], sample={"prior_run": made.named("pixelcnn by class")}))  # it can do without


def test_prior_of_another_codebook_is_refused(made, tmp_path):
    other = tmp_path / "other"
    import shutil

    shutil.copytree(made.named("pixelcnn"), other)
    meta = read_json(other / "model" / "meta.json")
    write_json(other / "model" / "meta.json", meta | {"codebook": "0123456789ab"})
    with pytest.raises(InputError, match=r"codebook is 0123456789ab, but [0-9a-f]{12} is needed here; type: python "):
        sample.run(prior_settings(*made[:2], sample={"prior_run": str(other)}))


# --- what priors can be told ------------------------------------------------------------------------------------------


@pytest.mark.system
def test_columns_of_numbers_and_classes_are_told_and_asked_for_in_that_order(made):
    _, source, folder, _ = made
    sites = [(path, 20 + n % 7, "north" if n % 2 else "south") for n, path in enumerate(pictures_in(source))]
    write_csv(folder / "sites.csv", ("path", "age", "site"), sites)
    other = folder / "told"
    facts = {"data__metadata": str(folder / "sites.csv"), "train_prior__condition_numbers": ["age"]}
    facts["train_prior__condition_classes"] = ["site"]
    for stage in (data_split, train_vqvae, vqvae_reconstruction, train_prior):
        stage.run(prior_settings(other, source, **facts))
    ask = {"mode": "conditional", "prior": "pixelcnn"}
    sample.run(prior_settings(other, source, **facts, sample=ask | {"values": ["23", "north"]}))
    assert len(read_csv(newest(other, "sample") / "samples.csv")) == 4
    for values, message in (
        (["north", "23"], "metadata age of --values is 'north'; expected a number"),
        (
            ["23", "east"],
            "metadata site of --values is 'east', which training did not have; expected one of: north, so",
        ),
    ):
        with pytest.raises(InputError, match=message):
            sample.run(prior_settings(other, source, **facts, sample=ask | {"values": values}))
    train_prior.run(prior_settings(other, source, **facts | {"train_prior__condition_numbers": []}))
    only_age = {"train_prior__condition_classes": []}
    train_prior.run(prior_settings(other, source, **facts | only_age))
    with pytest.raises(InputError, match="may be one that is told site or age; name its run folder"):
        sample.run(prior_settings(other, source, **facts, sample=ask | {"values": ["23"]}))


def test_more_samples_than_test_pictures_are_as_many_as_there_are(made):
    asked = {"mode": "inpainting", "label": "class1", "num_samples": 500}
    sample.run(prior_settings(*made[:2], sample=asked))
    split = open_split(prior_settings(*made[:2]))
    assert len(read_csv(newest(made[0], "sample") / "samples.csv")) == len(split.positions("test"))


def test_batches_that_were_drawn_before_it_ended_are_not_drawn_again(made, monkeypatch):
    cfg = prior_settings(*made[:2], sample={"prior": "distil", "num_samples": 7, "batch_size": 2})
    drawn = Counted(monkeypatch, "masked_memory.stages.sample.check_kept")
    sample.run(cfg)
    whole = newest(made[0], "sample")
    assert drawn.start_again(ends_at=3) == 4
    with pytest.raises(KeyboardInterrupt):
        sample.run(cfg)
    drawn.start_again()
    assert sample.run(cfg, resume=True) > 0 and drawn.calls == 2
    folder = newest(made[0], "sample")
    assert folder != whole and not (folder / "last" / "batches").exists()
    for file in ("indices.npy", "samples.csv", "pictures/00006.png"):
        assert (folder / file).read_bytes() == (whole / file).read_bytes(), file
