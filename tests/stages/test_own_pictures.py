"""Pictures of one's own through the stages, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from masked_memory.own_picture.reading import box_mask
from masked_memory.pipeline.files import InputError, read_csv, read_json
from masked_memory.pipeline.runs import read_best
from masked_memory.settings.strategies import STRATEGIES
from masked_memory.stages import vqvae_reconstruction
from toys import Mine, newest, refused_in_one_line, run_folders, tiny


def test_own_pictures_and_the_way_back(ran, tmp_path):
    own = tmp_path / "own"
    own.mkdir()
    Image.new("RGB", (300, 200), "red").save(own / "a.jpg")
    Image.new("L", (16, 16), 90).save(own / "b.png")
    best = read_best(ran.runs, "vqvae_reconstruction")
    vqvae_reconstruction.run(tiny(ran.runs, ran.source, run__mlflow=False, vqvae_reconstruction__input=str(own)))
    folder = newest(ran.runs, "vqvae_reconstruction") / "own"
    painted = [np.asarray(Image.open(file)) for file in sorted(folder.glob("*.png"))]
    assert len(painted) == 2 and painted[0].shape == (16, 16, 3)
    vqvae_reconstruction.run(
        tiny(ran.runs, ran.source, run__mlflow=False, vqvae_reconstruction__indices=str(folder / "indices.npy"))
    )
    back = sorted((newest(ran.runs, "vqvae_reconstruction") / "own").glob("*.png"))
    assert (np.asarray(Image.open(back[1])) == painted[1]).all()
    assert read_best(ran.runs, "vqvae_reconstruction") == best  # own pictures are not handed on


@pytest.mark.parametrize("how", ["mask", "box"])
def test_known_pixels_of_my_picture_come_back_byte_by_byte(ran, mine, typed, how):
    best = (ran.runs / "reconstruct_masked" / "best.json").read_bytes()
    shown = np.asarray(Image.open(mine.picture))
    if how == "mask":
        options, missing = ["--mask", mine.mask], np.asarray(Image.open(mine.mask)) == 255
    else:
        options, missing = ["--box", 3, 2, 17, 9], box_mask((3, 2, 17, 9), (20, 12))
    status, out, err = typed(
        "reconstruct_masked", ran.runs, ran.source, "--image", mine.picture, *options, "--samples", 2
    )
    assert status == 0, err
    folder = Path(out.splitlines()[-1])
    assert folder.parent == ran.runs / "reconstruct_masked" and read_json(folder / "run.json")["status"] == "finished"
    names = ("completed", "sample_1", "sample_2")
    painted = {name: np.asarray(Image.open(folder / "own" / f"picture_{name}.png")) for name in names}
    for pixels in painted.values():
        assert pixels.shape == shown.shape and (pixels[~missing] == shown[~missing]).all()
        assert (pixels[missing] != shown[missing]).any()
    masked = np.asarray(Image.open(folder / "own" / "picture_masked.png"))
    assert (masked[missing] == 128).all() and (masked[~missing] == shown[~missing]).all()
    others = {"picture_masked.png", "picture_diversity.png", "picture_dropped.csv", "pictures.csv"}
    assert {file.name for file in (folder / "own").iterdir()} == {f"picture_{name}.png" for name in names} | others
    (row,) = read_csv(folder / "own" / "pictures.csv")
    assert int(row["pixels_missing"]) == missing.sum() and row["class_after"] in ("class0", "class1", "class2")
    assert len(read_csv(folder / "own" / "picture_dropped.csv")) == int(row["tokens_dropped"]) > 0
    assert (folder / "figures" / "own_picture.png").is_file() and not (folder / "curves.csv").exists()
    assert (ran.runs / "reconstruct_masked" / "best.json").read_bytes() == best, "own pictures are not handed on"


def test_my_picture_without_a_mask_forgets_what_the_strategy_chooses(ran, mine, typed):
    options = ["--image", mine.picture, "--percent", 25, "--strategy", "half", "--decoding", "argmax", "--run.seed", 0]
    status, out, err = typed("reconstruct_masked", ran.runs, ran.source, *options)
    assert status == 0, err
    own = Path(out.splitlines()[-1]) / "own"
    dropped = {(row["tile"], row["row"], row["column"]) for row in read_csv(own / "picture_dropped.csv")}
    assert dropped == {("0", "3", str(column)) for column in range(4)}  # the lowest of four rows
    shown, back = (np.asarray(Image.open(file)) for file in (mine.picture, own / "picture_completed.png"))
    assert (shown[:9] == back[:9]).all() and (shown[9:] != back[9:]).any()


REFUSED = {
    "a mask of another size": (["--mask", "small"], ["small.png is 5x4; expected 20x12"]),
    "an empty mask": (["--mask", "black"], ["black.png has no white pixel", "paint what is missing white"]),
    "a full mask": (["--mask", "white"], ["white.png is white all over", "--percent 100"]),
    "a mask that is no picture": (["--mask", "text"], ["--mask", "text.png is not a picture; expected PNG"]),
    "a box outside": (["--box", 3, 2, 21, 9], ["--box 3 2 21 9 reaches outside", "at most 0 0 20 12"]),
    "an empty box": (["--box", 9, 2, 9, 9], ["--box 9 2 9 9 is empty", "x0 < x1"]),
    "a box of everything": (["--box", 0, 0, 20, 12], ["takes the whole picture of 20x12", "--percent 100"]),
    "mask and box": (["--mask", "mask", "--box", 3, 2, 5, 9], ["--mask and --box exclude each other"]),
    "not a picture": (["--image", "text"], ["--image", "text.png is not a picture; expected PNG"]),
    "no such picture": (["--image", "nowhere"], ["--image nowhere does not exist; expected a picture or a folder"]),
    "more than 100 percent": (["--percent", 101], ["own.percent is 101; expected number >= 0, <= 100"]),
    "less than nothing": (["--percent", -1], ["own.percent is -1; expected number >= 0, <= 100"]),
    "percent in words": (["--percent", "half"], ["own.percent is 'half'; expected number"]),
    "an unknown strategy": (["--strategy", "best"], ["own.strategy is 'best'; expected ", *STRATEGIES]),
    "an unknown decoding": (["--decoding", "mean"], ["own.decoding is 'mean'; expected argmax | sample | expected"]),
    "another fit": (["--fit", "crop"], ["own.fit is 'crop'; expected resize | tile"]),
    "a class nobody was told": (
        ["--class", "class0"],
        ["no finished run of train_distil for", "told the class", "--train_distil.condition_on_class true"],
    ),
    "guidance without a class": (
        ["--reconstruct_masked.guidance_scale", 2],
        ["guidance_scale is 2, but no class is told", "--class NAME"],
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_completed_is_one_line_and_leaves_no_run_folder(ran, mine, typed, case):
    words, said = REFUSED[case]
    options = [getattr(mine, word) if word in Mine._fields else word for word in words]
    if "--image" not in words:
        options = ["--image", mine.picture, *options]
    before = run_folders(ran.runs)
    status, _, err = typed("reconstruct_masked", ran.runs, ran.source, *options)
    refused_in_one_line(status, err, *said)
    assert run_folders(ran.runs) == before


@pytest.mark.parametrize("option", [["--mask", "mask"], ["--box", 3, 2, 5, 9], ["--class", "class0"]])
def test_options_of_an_own_picture_without_one_are_refused(ran, mine, typed, option):
    before = run_folders(ran.runs)
    options = [getattr(mine, word) if word in Mine._fields else word for word in option]
    status, _, err = typed("reconstruct_masked", ran.runs, ran.source, *options)
    refused_in_one_line(status, err, f"{option[0]} is for a picture of yours", "--image PICTURE_OR_FOLDER")
    assert run_folders(ran.runs) == before


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("input", "is neither a picture nor a folder"),
        ("indices", r"is not a \.npy file of whole numbers"),
    ],
)
def test_own_data_that_cannot_be_used_leave_no_run_folder(ran, option, message):
    before = sorted((ran.runs / "vqvae_reconstruction").iterdir())
    changes = {f"vqvae_reconstruction__{option}": "nowhere"}
    with pytest.raises(InputError, match=message):
        vqvae_reconstruction.run(tiny(ran.runs, ran.source, run__mlflow=False, **changes))
    assert sorted((ran.runs / "vqvae_reconstruction").iterdir()) == before
