"""Pictures read once from addresses and from data sets of Hugging Face: the split is that of the same files on disk."""

import gzip
import http.server
import io
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from PIL import Image

from masked_memory.handoff.split import Split, open_split
from masked_memory.pipeline.files import InputError, read_csv
from masked_memory.settings.loading import ConfigError
from masked_memory.sources import caching
from masked_memory.sources import streamed as streams
from masked_memory.sources.caching import GrowingCache, cache_parts
from masked_memory.sources.streamed import Sample, StreamedPart, counted, is_streamed, open_parts
from masked_memory.stages import data_split
from toys import make_split, pack, png, split_settings

Members = dict[str, bytes]


def class_folders(numbers: range) -> Members:
    return {f"class{number % 2}/{number:03}.png": png(number) for number in numbers}


def web_dataset(numbers: range) -> Members:
    pictures = {f"{number:04}.png": png(number) for number in numbers}
    classes = {f"{number:04}.cls": f"{'ab'[number % 2]}\n".encode() for number in numbers}
    masks = {f"{number:04}.seg.png": png(900 + number) for number in numbers}
    return dict(sorted((pictures | classes | masks).items()))


LAYOUTS: dict[str, dict[str, Members]] = {
    "one tar": {"all.tar": class_folders(range(40))},
    "shards": {f"{part}.tar": class_folders(range(part * 20, part * 20 + 20)) for part in range(2)},
    "a split": {
        "train-0.tar": class_folders(range(20)), "train-1.tar": class_folders(range(20, 40)),
        "val-0.tar": class_folders(range(40, 50)), "test-0.tar": class_folders(range(50, 60)),
    },
    "web dataset": {f"train-{part}.tar": web_dataset(range(part * 16, part * 16 + 16)) for part in range(2)}
    | {"val-0.tar": web_dataset(range(40, 48))},
    "wrapped": {"all.tar": {f"set/{path}": content for path, content in class_folders(range(40)).items()}},
}  # fmt: skip


@pytest.fixture
def in_memory() -> Iterator[Any]:
    system = fsspec.filesystem("memory")
    yield system
    system.store.clear()


def rows_of(split: Split) -> list[dict[str, str]]:
    """The manifest without where pictures lie in the cache."""
    return sorted(
        ({key: value for key, value in row.items() if key not in ("index", "row")} for row in split.manifest),
        key=lambda row: row["path"],
    )


def pictures_of(split: Split) -> dict[str, bytes]:
    return {row["path"]: split.images[split.rows[i]].tobytes() for i, row in enumerate(split.manifest)}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_stream_is_split_as_the_same_files_are(layout: str, tmp_path: Path, in_memory: Any) -> None:
    (tmp_path / "shards").mkdir()
    for name, members in LAYOUTS[layout].items():
        file = pack(tmp_path / "shards" / name, members)
        in_memory.pipe(f"/shards/{name}", file.read_bytes())
    files = make_split(tmp_path / "files", tmp_path / "shards" / "*.tar")
    streamed = make_split(tmp_path / "stream", "memory://shards/*.tar")
    assert rows_of(streamed) == rows_of(files) and streamed.hash == files.hash
    assert pictures_of(streamed) == pictures_of(files) and streamed.images.dtype == np.uint8
    assert np.load(streamed.folder / "images.npy").shape == (len(streamed.manifest), 16, 16, 3)


def test_a_compressed_tar_is_read_and_one_on_this_machine_too(tmp_path: Path) -> None:
    file = pack(tmp_path / "all.tar", class_folders(range(20)))
    plain = make_split(tmp_path / "plain", file)
    packed = tmp_path / "all.tar.gz"
    packed.write_bytes(gzip.compress(file.read_bytes()))
    assert rows_of(make_split(tmp_path / "packed", f"file://{packed}")) == rows_of(plain)


def test_over_http(tmp_path: Path) -> None:
    pytest.importorskip("aiohttp")
    for part in range(2):
        pack(tmp_path / f"{part:02}.tar", class_folders(range(part * 12, part * 12 + 12)))

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args, directory=str(tmp_path))

        def log_message(self, *args: Any) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/" + "{00..01}.tar"
        split = make_split(tmp_path / "made", address)
        server.shutdown()
    assert len(split.manifest) == 24 and split.classes == ["class0", "class1"]


@pytest.mark.parametrize(
    ("source", "addresses"),
    [("a.tar", ["a.tar"]), ("a-{08..10}.tar", ["a-08.tar", "a-09.tar", "a-10.tar"]),
     ("{0..1}/{5..6}", ["0/5", "0/6", "1/5", "1/6"])],
)  # fmt: skip
def test_braces_count(source: str, addresses: list[str]) -> None:
    assert counted(source) == addresses


def test_what_is_read_as_a_stream(tmp_path: Path) -> None:
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "dataset_info.json").write_text("{}")
    for source, streamed in (("s3://b/a.tar", True), ("a.tar", False), ("digits_in_context", False),
                             (str(tmp_path), False), (str(tmp_path / "saved"), True)):  # fmt: skip
        assert is_streamed(source) is streamed, source


# --- interruption -----------------------------------------------------------------------------------------------------


def parts_in_memory(read: list[str], fails: dict[str, BaseException]) -> list[StreamedPart]:
    def samples(name: str, numbers: range) -> Iterator[Sample]:
        read.append(name)
        for number in numbers:
            if number == numbers[-1] and name in fails:
                raise fails.pop(name)
            yield Sample(f"class{number % 2}/{number}.png", "", png(number))

    return [
        StreamedPart(name, "", lambda name=name, numbers=numbers: samples(name, numbers))
        for name, numbers in (("a", range(6)), ("b", range(6, 14)), ("c", range(14, 20)))
    ]


@pytest.mark.parametrize("failure", [KeyboardInterrupt(), InputError("b is cut off")])
def test_what_was_read_is_kept_and_the_part_begun_is_read_anew(
    failure: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(caching, "FILES_AT_ONCE", 3)
    read: list[str] = []
    fails = {"b": failure}

    def opened() -> GrowingCache:
        return GrowingCache(tmp_path / "images.npy", tmp_path / "notes.jsonl", 8, 3)

    with pytest.raises(type(failure)):
        cache_parts(opened(), parts_in_memory(read, fails), 1, lambda count: None)
    resumed = opened()
    assert resumed.rows == 6
    found = cache_parts(resumed, parts_in_memory(read, fails), 1, lambda count: None)
    resumed.finish()
    assert read == ["a", "b", "b", "c"]
    whole = GrowingCache(tmp_path / "whole.npy", tmp_path / "whole.jsonl", 8, 3)
    assert cache_parts(whole, parts_in_memory([], {}), 1, lambda count: None) == found
    whole.finish()
    assert (tmp_path / "images.npy").read_bytes() == (tmp_path / "whole.npy").read_bytes()
    assert np.load(tmp_path / "images.npy").shape == (20, 8, 8, 3)


def test_a_line_that_was_torn_counts_for_nothing_and_no_part_is_lost(tmp_path: Path) -> None:
    def opened() -> GrowingCache:
        return GrowingCache(tmp_path / "images.npy", tmp_path / "notes.jsonl", 8, 3)

    read: list[str] = []
    known = cache_parts(opened(), parts_in_memory(read, {}), 1, lambda count: None)
    notes = (tmp_path / "notes.jsonl").read_bytes()
    (tmp_path / "notes.jsonl").write_bytes(notes[:-30])
    resumed = opened()
    assert cache_parts(resumed, parts_in_memory(read, {}), 1, lambda count: None) == known
    assert read == ["a", "b", "c", "c"] and (tmp_path / "notes.jsonl").read_bytes() == notes
    resumed.finish()
    assert np.load(tmp_path / "images.npy").shape == (20, 8, 8, 3)


@pytest.mark.system
def test_a_stage_that_was_interrupted_goes_on_with_resume(
    tmp_path: Path, in_memory: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = pack(tmp_path / "b.tar", class_folders(range(20, 40))).read_bytes()
    in_memory.pipe("/shards/a.tar", pack(tmp_path / "a.tar", class_folders(range(20))).read_bytes())
    in_memory.pipe("/shards/b.tar", whole[: len(whole) // 2 + 100])
    cfg = split_settings(tmp_path, "memory://shards/*.tar")
    with pytest.raises(InputError, match=r"b\.tar is cut off or damaged"):
        data_split.run(cfg)
    in_memory.pipe("/shards/b.tar", whole)
    data_split.run(cfg, resume=True)
    assert "resuming" in capsys.readouterr().out
    assert len(open_split(cfg).manifest) == 40


# --- what is in them --------------------------------------------------------------------------------------------------


def test_chosen_classes_and_broken_pictures_are_those_of_files(
    tmp_path: Path, in_memory: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    members = {f"{name}/{number}.png": png(hash((name, number)) % 1000) for name in "abc" for number in range(12)}
    in_memory.pipe("/all.tar", pack(tmp_path / "all.tar", members | {"a/broken.png": b"no picture"}).read_bytes())
    with pytest.raises(InputError, match="1 of the files cannot be used"):
        make_split(tmp_path / "strict", "memory://all.tar")
    split = make_split(tmp_path / "lax", "memory://all.tar", skip_broken=True, classes=["a", "c"], images_per_class=9)
    assert split.classes == ["a", "c"] and len(split.manifest) == 18
    assert [row["path"] for row in read_csv(split.folder / "broken.csv")] == ["a/broken.png"]
    decoded = {path: np.asarray(Image.open(io.BytesIO(members[path])).convert("RGB")) for path in pictures_of(split)}
    assert all(len(content) == 16 * 16 * 3 for content in pictures_of(split).values()) and len(decoded) == 18


@pytest.mark.parametrize(
    ("source", "message"),
    [("memory://nothing/*.tar", "has nothing in it"), ("memory://all.zip", r"is no tar"),
     ("nowhere://a.tar", "cannot be opened"), ("file:///not/there.tar", r"cannot read .*--resume")],
)  # fmt: skip
def test_what_cannot_be_read_is_refused_in_one_line(source: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message) as refused:
        make_split(tmp_path, source)
    assert len(str(refused.value).splitlines()) == 1


def test_stacks_are_not_read_as_a_stream(tmp_path: Path, in_memory: Any) -> None:
    in_memory.pipe("/all.tar", b"")
    with pytest.raises(InputError, match="1 or 3 channels"):
        make_split(tmp_path, "memory://all.tar", channels=5)


def test_a_password_in_the_address_is_refused_before_it_is_written_anywhere(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data: source holds a password") as refused:
        split_settings(tmp_path, "https://me:secret@host/{00..11}.tar")
    assert "secret" not in str(refused.value)


def test_passwords_and_signatures_are_not_shown() -> None:
    assert streams._shown("https://me:secret@host/a.tar?signature=1") == "https://host/a.tar"
    with pytest.raises(InputError) as refused:
        open_parts("https://me:secret@host/a.zip?signature=1")
    assert "secret" not in str(refused.value) and "signature" not in str(refused.value)


# --- Hugging Face -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data_set() -> Any:
    """Two splits, with classes and a column that is no picture."""
    datasets = pytest.importorskip("datasets")

    def rows(first: int, count: int) -> Any:
        numbers = range(first, first + count)
        features = datasets.Features(
            {"caption": datasets.Value("string"), "image": datasets.Image(),
             "label": datasets.ClassLabel(names=["cat", "dog/wolf"])}
        )  # fmt: skip
        columns = {
            "caption": [f"number {number}" for number in numbers],
            "image": [{"bytes": png(number), "path": None} for number in numbers],
            "label": [number % 2 for number in numbers],
        }
        return datasets.Dataset.from_dict(columns, features=features)

    return datasets.DatasetDict({"train": rows(0, 20), "validation": rows(20, 6), "test": rows(26, 6)})


@pytest.mark.parametrize("form", ["saved", "parquet"])
def test_a_data_set_keeps_its_pictures_classes_and_splits(
    form: str, data_set: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "EXAMPLES_OF_A_PART", 8)
    folder = tmp_path / "data"
    if form == "saved":
        data_set.save_to_disk(folder)
    else:
        folder.mkdir()
        for name, rows in data_set.items():
            rows.to_parquet(folder / f"{name}-00000-of-00001.parquet")
    split = make_split(tmp_path, folder)
    assert split.classes == ["cat", "dog_wolf"]
    assert [len(split.positions(part)) for part in ("train", "val", "test")] == [20, 6, 6]
    first = split.manifest.index(min(split.manifest, key=lambda row: row["path"]))
    shown = np.asarray(Image.open(io.BytesIO(png(26 if "test" in split.manifest[first]["path"] else 0))).convert("RGB"))
    assert abs(split.images[split.rows[first]].mean() - shown.mean()) < 12
    assert all((row["class"] == "cat") == (int(row["path"][-1]) % 2 == 0) for row in split.manifest)


def test_a_data_set_without_pictures_or_without_the_package_is_refused(
    data_set: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data_set.remove_columns("image").save_to_disk(tmp_path / "texts")
    with pytest.raises(InputError, match="no column of pictures; it has caption, label"):
        make_split(tmp_path, tmp_path / "texts")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match="pip install datasets"):
        open_parts("hf://owner/name")
