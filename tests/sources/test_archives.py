"""Tars of pictures: layouts, shards, WebDataset, and tars that cannot be used. Nothing is unpacked."""

import gzip
import io
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest

from masked_memory.handoff.split import open_split
from masked_memory.pipeline.files import InputError, read_csv, write_csv
from masked_memory.sources import pictures
from masked_memory.sources.archives import find_in_tars, is_archive
from masked_memory.sources.folders import Found, find_pictures
from masked_memory.sources.places import Member
from masked_memory.sources.splitting import SPLITS
from masked_memory.stages import data_split
from toys import ROOT, draw_slices, fill_folder, make_split, pack, pack_folder, png, split_settings

SHARED = ROOT.parent / "shared" / "data"


def silent(line: str) -> None:
    raise AssertionError(f"nothing to say of such a tar, but: {line}")


def found_in(source: object) -> list[Found]:
    return find_in_tars(str(source), silent)


def seen(found: list[Found]) -> list[tuple[str, str, str]]:
    """All but the place."""
    return [one[:3] for one in found]


def samples(numbers: range, classes: str = "ab", **also: bytes) -> dict[str, bytes]:
    """A WebDataset: 0007.png and 0007.cls, in classes by turns; also: further endings and what is in them."""
    members = {}
    for number in numbers:
        members[f"{number:04d}.png"] = png(number)
        members[f"{number:04d}.cls"] = f"{classes[number % len(classes)]}\n".encode()
        members |= {f"{number:04d}.{ending}": content for ending, content in also.items()}
    return members


@pytest.mark.parametrize(
    ("source", "expected"),
    [("a.tar", True), ("b/a.TAR.gz", True), ("a.tgz", True), ("shards/train-*.tar", True), ("shards/train-*", True),
     ("folder", False), ("a.zip", False), ("folder.tar", False)],
)  # fmt: skip
def test_tars_are_told_from_folders(tmp_path, monkeypatch, source, expected):
    (tmp_path / "folder.tar").mkdir()
    monkeypatch.chdir(tmp_path)
    assert is_archive(source) == expected


# --- layouts ----------------------------------------------------------------------------------------------------------


def class_folders(root: Path) -> None:
    for name in ("cat", "dog"):
        fill_folder(root / name / "images", 8, first=100 * ord(name[0]))
    (root / "readme.txt").write_text("notes beside the class folders")


def split_tree(root: Path) -> None:
    for number, part in enumerate(("train", "val", "test")):
        for name in "ab":
            fill_folder(root / part / name, 4, first=1000 * number + ord(name) * 10)


def train_and_test(root: Path) -> None:
    split_tree(root)
    shutil.rmtree(root / "val")


LAYOUTS = {
    "class folders": class_folders,
    "split tree": split_tree,
    "train and test": train_and_test,
    "no classes": lambda root: fill_folder(root, 9),
    "slices": lambda root: draw_slices(root, {"train": 6, "validate": 2, "test": 2}, slices=2, size=16),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_tar_is_split_as_its_pictures_are_unpacked(tmp_path, layout):
    LAYOUTS[layout](tmp_path / "set")
    (tmp_path / "set" / ".hidden.png").write_bytes(b"litter")
    tar = pack_folder(tmp_path / "set.tar", tmp_path / "set")
    assert seen(found_in(tar)) == seen(find_pictures(tmp_path / "set"))
    plain, packed = make_split(tmp_path, tmp_path / "set"), make_split(tmp_path, tar)
    assert packed.hash == plain.hash and packed.manifest == plain.manifest
    assert (np.asarray(packed.images) == np.asarray(plain.images)).all()
    assert {name for name in plain.meta if plain.meta[name] != packed.meta[name]} == {"source"}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_one_folder_around_all_is_passed_through(tmp_path, layout):
    LAYOUTS[layout](tmp_path / "set")
    bare, wrapped = (
        pack_folder(tmp_path / f"{n}.tar", tmp_path / "set", name) for n, name in enumerate((".", "in/set"))
    )
    assert seen(found_in(wrapped)) == [(f"in/set/{one.path}", *one[1:3]) for one in found_in(bare)]


def test_nothing_is_written_but_the_run(tmp_path):
    class_folders(tmp_path / "set")
    tar = pack_folder(tmp_path / "set.tar", tmp_path / "set")
    shutil.rmtree(tmp_path / "set")
    split = make_split(tmp_path, tar)
    assert {file.name for file in tmp_path.iterdir()} == {"set.tar", "runs"}
    assert not list(split.folder.rglob("cat*")), "no picture is unpacked into the run"


def test_of_two_members_with_one_name_the_later_counts(tmp_path):
    tar = pack(tmp_path / "x.tar", {"a/1.png": png(1), "b/1.png": png(2)})
    with tarfile.open(tar, "a") as opened:
        info = tarfile.TarInfo("./a/1.png")
        info.size = len(png(3))
        opened.addfile(info, io.BytesIO(png(3)))
    assert [one.place.read_bytes() for one in found_in(tar)] == [png(3), png(2)]


def test_stacks_metadata_and_pictures_per_class_work_as_from_folders(tmp_path):
    rng = np.random.default_rng(0)
    for name in "ab":
        (tmp_path / "set" / name).mkdir(parents=True)
        for number in range(6):
            np.save(tmp_path / "set" / name / f"{number}.npy", rng.random((4, 16, 16), dtype=np.float32))
    tar = pack_folder(tmp_path / "set.tar", tmp_path / "set")
    write_csv(tmp_path / "ages.csv", ("path", "age"), [(f"{name}/{n}.npy", n) for name in "ab" for n in range(6)])
    data = {"channels": 4, "metadata": str(tmp_path / "ages.csv"), "images_per_class": 5, "classes": ["b", "a"]}
    plain, packed = (make_split(tmp_path, source, **data) for source in (tmp_path / "set", tar))
    assert len(packed.manifest) == 10 and packed.manifest == plain.manifest
    assert packed.stacks == plain.stacks and (np.asarray(packed.images) == np.asarray(plain.images)).all()


# --- shards -----------------------------------------------------------------------------------------------------------


def test_shards_are_one_tree_and_say_which_shard_a_picture_is_in(tmp_path):
    for shard in range(3):
        names = (f"a/{shard}.png", "b/0.png")  # b/0.png is in every shard
        pack(tmp_path / f"s{shard}.tar", {name: png(10 * shard + n) for n, name in enumerate(names)})
    found = found_in(tmp_path / "s*.tar")
    expected = [(f"s{n}.tar/{name}", name[0], "") for n in range(3) for name in (f"a/{n}.png", "b/0.png")]
    assert seen(found) == expected
    assert len({one.place.read_bytes() for one in found}) == 6
    assert seen(found_in(tmp_path / "s1*.tar")) == [("a/1.png", "a", ""), ("b/0.png", "b", "")]


@pytest.mark.parametrize("wrapping", ["", "pictures/", "train/"])
def test_names_of_shards_give_the_split(tmp_path, capsys, wrapping):
    """Also against a folder inside that says `train`: test pictures are not trained on."""
    for number, shard in enumerate(("train-000", "train-001", "imagenet_test-000")):
        members = {
            f"{wrapping}{name}/{n}.png": png(100 * number + 10 * n + ord(name)) for name in "ab" for n in range(5)
        }
        pack(tmp_path / "shards" / f"{shard}.tar", members)
    split = make_split(tmp_path, tmp_path / "shards" / "*.tar")
    assert split.meta["counts"] == {"train": 16, "val": 4, "test": 10}
    assert {row["path"].split("/")[0] for row in split.manifest if row["split"] == "test"} == {"imagenet_test-000.tar"}
    assert "keeping the data set's own train and test; 17.6 % of train become" in capsys.readouterr().out


def test_shards_of_one_part_are_no_split(tmp_path):
    for shard in range(2):
        pack(tmp_path / f"test-{shard}.tar", {f"{name}/{shard}.png": png(shard) for name in "ab"})
    assert {one.split for one in found_in(tmp_path / "test-*.tar")} == {""}


def test_shards_of_which_only_some_name_a_part_are_refused(tmp_path):
    for shard in ("test-0", "more"):
        pack(tmp_path / f"{shard}.tar", {"a/0.png": png(0)})
    with pytest.raises(
        InputError, match=r"test-0\.tar names a part, but more\.tar does not; expected train, val or test"
    ):
        found_in(tmp_path / "*.tar")


# --- WebDataset -------------------------------------------------------------------------------------------------------


def test_classes_are_read_beside_the_pictures(tmp_path, capsys):
    members = samples(range(24), ["b a", "10", "9"], txt=b"a caption", json=b"{}") | {"0099.cls": b"no picture"}
    split = make_split(tmp_path, pack(tmp_path / "x.tar", members))
    assert split.classes == ["10", "9", "b a"] and len(split.manifest) == 24
    assert all(row["class"] == ["b a", "10", "9"][int(row["path"][:4]) % 3] for row in split.manifest)
    assert "passing over 49 links and files beside pictures, such as" in capsys.readouterr().out


def test_shards_of_a_web_dataset_with_a_split(tmp_path):
    for number, part in enumerate(SPLITS):
        for shard in range(2):
            members = samples(range(8))  # keys start at 0 in each shard
            members = {name: png(100 * number + 10 * shard + n) if ".png" in name else content
                       for n, (name, content) in enumerate(members.items())}  # fmt: skip
            pack(tmp_path / f"{part}-{shard}.tar", members)
    split = make_split(tmp_path, tmp_path / "*-*.tar")
    assert split.meta["counts"] == dict.fromkeys(SPLITS, 16) and split.classes == ["a", "b"]
    assert all(row["path"].startswith(row["split"]) for row in split.manifest)


def test_without_classes_a_flat_tar_has_none_and_captions_are_passed_over(tmp_path):
    members = {name: content for name, content in samples(range(9), json=b"{}").items() if ".cls" not in name}
    said: list[str] = []
    found = find_in_tars(str(pack(tmp_path / "x.tar", members)), said.append)
    assert seen(found) == [(f"{number:04d}.png", "", "") for number in range(9)]
    assert len(said) == 1 and said[0].startswith("passing over 9 ")


def test_a_sample_with_several_pictures_gives_the_one_named_as_its_class(tmp_path):
    members = {"1.png": png(1), "1.seg.png": png(2), "1.cls": b"a", "2.whole.png": png(3), "2.cls": b"b"}
    members |= {"3.b.png": png(4), "3.b.cls": b"c"}
    found = find_in_tars(str(pack(tmp_path / "x.tar", members)), str)
    assert seen(found) == [("1.png", "a", ""), ("2.whole.png", "b", ""), ("3.b.png", "c", "")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"x\.tar/0003\.png has no \.cls, but other pictures have"),
        (b" \n", r"x\.tar/0003\.cls holds no class; expected a number or a name"),
        (b"\xff\xfe", "holds no class"),
        (b"a\nb", "holds no class"),
        (b"a" * 201, "holds no class"),
    ],
)
def test_pictures_without_a_class_among_others_are_refused(tmp_path, content, message):
    members = samples(range(6))
    if content is None:
        del members["0003.cls"]
    else:
        members["0003.cls"] = content
    with pytest.raises(InputError, match=message):
        found_in(pack(tmp_path / "x.tar", members))


# --- tars that cannot be used -----------------------------------------------------------------------------------------


def cut(file: Path, size: int) -> None:
    file.write_bytes(file.read_bytes()[:size])


def compress(file: Path) -> None:
    file.write_bytes(gzip.compress(file.read_bytes()))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (Path.unlink, r"data\.source .*x\.tar does not exist"),
        (lambda file: file.write_text("no tar at all" * 100), r"x\.tar is not a tar file"),
        (lambda file: file.write_bytes(b""), r"x\.tar is not a tar file"),
        (lambda file: pack(file, {"a/1.txt": b"text", "readme": b"text"}), r"x\.tar has no pictures"),
        (lambda file: pack(file, {}), r"x\.tar has no pictures"),
        (compress, r"x\.tar is compressed, .*; type: gunzip .*x\.tar"),
        (lambda file: cut(file, 512 * 2 + 100), r"x\.tar is cut off or damaged after 1 files"),  # in a header
        (lambda file: cut(file, 512 * 3 + 100), r"x\.tar is cut off or damaged after 2 files"),  # in a file
        (lambda file: cut(file, 512 * 4), r"x\.tar is cut off or damaged after 2 files"),  # between two files
        (lambda file: file.write_bytes(file.read_bytes().replace(b"b/2.png", b"b/3.png")), "damaged after 1 files"),
    ],
    ids=["missing", "text", "empty", "no pictures", "no members", "gzip", "header", "content", "between", "checksum"],
)  # fmt: skip
def test_a_tar_that_cannot_be_used_is_refused_in_one_line(tmp_path, spoil, message):
    tar = pack(tmp_path / "x.tar", {f"{name}.png": b"small" for name in ("a/1", "b/2", "b/4")})
    spoil(tar)
    with pytest.raises(InputError, match=message) as error:
        make_split(tmp_path, tar)
    assert "\n" not in str(error.value) and not (tmp_path / "runs").exists()


def test_a_pattern_that_nothing_fits_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"train-\*\.tar does not exist; expected a \.tar, or a pattern"):
        found_in(tmp_path / "train-*.tar")


def test_links_and_devices_are_never_followed(tmp_path):
    (tmp_path / "outside.png").write_bytes(png(9))
    tar = pack(tmp_path / "x.tar", {"a/1.png": png(1), "b/1.png": png(2)})
    with tarfile.open(tar, "a") as opened:
        for kind, target in (
            (tarfile.SYMTYPE, "../../outside.png"),
            (tarfile.LNKTYPE, "a/1.png"),
            (tarfile.CHRTYPE, ""),
        ):
            info = tarfile.TarInfo(f"a/link{kind.decode()}.png")
            info.type, info.linkname = kind, target
            opened.addfile(info)
    said: list[str] = []
    assert [one.path for one in find_in_tars(str(tar), said.append)] == ["a/1.png", "b/1.png"]
    assert len(said) == 1 and said[0].startswith("passing over 3 links and files beside pictures, such as ")


def test_names_that_point_outside_are_passed_over_or_stay_names(tmp_path):
    tar = pack(tmp_path / "x.tar", {"../up.png": png(0), "/a/1.png": png(1), "./b//1.png": png(2)})
    assert [one.path for one in found_in(tar)] == ["a/1.png", "b/1.png"]


def test_broken_pictures_are_listed_with_their_path_inside(tmp_path, capsys):
    members = {f"{name}/{n}.png": png(10 * n + ord(name)) for name in "ab" for n in range(6)}
    tar = pack(tmp_path / "x.tar", members | {"a/zero.png": b"", "b/cut.png": png(99)[:60], "b/notes.txt": b"text"})
    with pytest.raises(InputError, match=r"3 of the files cannot be used"):
        make_split(tmp_path, tar)
    printed = capsys.readouterr().out
    assert f"{tar}/a/zero.png is empty (0 bytes)" in printed and f"{tar}/b/notes.txt is not a picture" in printed
    split = make_split(tmp_path, tar, skip_broken=True)
    assert len(split.manifest) == 12
    assert [row["path"] for row in read_csv(split.folder / "broken.csv")][1] == f"{tar}/b/cut.png"


def test_a_tar_that_shrinks_while_it_is_read_is_a_problem_and_no_traceback(tmp_path):
    (tmp_path / "x.tar").write_bytes(bytes(100))
    decoded = pictures.decode(Member(str(tmp_path / "x.tar"), "a/1.png", 90, 20), 16, 3)
    assert decoded.pixels is None and decoded.problem == f"cannot be read: {tmp_path / 'x.tar'} ends within it"


# --- killed, and real pictures ----------------------------------------------------------------------------------------


def test_interrupted_decoding_of_a_tar_resumes(tmp_path, monkeypatch):
    class_folders(tmp_path / "set")
    tar = pack_folder(tmp_path / "set.tar", tmp_path / "set")
    cfg = split_settings(tmp_path, tar)
    monkeypatch.setattr(data_split, "CHECKPOINT_EVERY", 6)
    real, calls = pictures.decode_all, []

    def dies_in_the_second_chunk(places, *rest):
        calls.append(len(places))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(places, *rest)

    monkeypatch.setattr(data_split, "decode_all", dies_in_the_second_chunk)
    with pytest.raises(KeyboardInterrupt):
        data_split.run(cfg)
    data_split.run(cfg, resume=True)
    assert calls == [6, 6, 6, 4]  # the first six are not decoded again
    fresh, resumed = make_split(tmp_path / "fresh", tmp_path / "set"), open_split(cfg)
    assert resumed.hash == fresh.hash and (np.asarray(resumed.images) == np.asarray(fresh.images)).all()


@pytest.mark.system
@pytest.mark.skipif(not (SHARED / "imagenette_64.tar").is_file(), reason="needs shared/data/imagenette_64.tar")
def test_pictures_of_imagenette_are_read_from_their_tar(tmp_path):
    split = make_split(tmp_path, SHARED / "imagenette_64.tar", images_per_class=6)
    assert len(split.classes) == 10 and len(split.manifest) == 60
    assert 0.3 < np.mean(split.meta["mean"]) < 0.6, "as of photographs"
