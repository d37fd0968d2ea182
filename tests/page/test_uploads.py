"""What comes in is checked before it is decoded."""

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from masked_memory.page import uploads
from masked_memory.page.uploads import (
    MOST_HELD,
    MOST_LAYERS,
    FewHeld,
    check_control,
    check_no_addresses,
    check_picture,
    check_uploads,
    number_in,
)
from masked_memory.pipeline.files import InputError


def encoded(width: int, height: int, kind: str = "PNG") -> bytes:
    held = io.BytesIO()
    Image.new("L", (width, height)).save(held, format=kind)
    return held.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"])
def test_pictures_pass(kind: str, tmp_path: Path) -> None:
    check_picture(encoded(5, 4, kind), "picture")
    (tmp_path / "a.x").write_bytes(encoded(5, 4, kind))
    check_picture(tmp_path / "a.x", "picture")


def test_kinds_that_pillow_would_hand_to_other_programs_do_not() -> None:
    with pytest.raises(InputError, match="the picture is no picture"):
        check_picture(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "picture")


def test_large_pictures_are_refused_without_decoding_them(monkeypatch: pytest.MonkeyPatch) -> None:
    content = encoded(9450, 9450)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("decoded"))
    with pytest.raises(InputError, match=r"^the mask has 9450x9450 = 89,302,500 pixels; expected 4,000,000 or fewer"):
        check_picture(content, "mask")


def test_bombs_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(InputError, match="far more than 4,000,000 pixels"):
        check_picture(encoded(100, 100), "picture")


def test_the_largest_picture_that_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "MOST_PIXELS", 20)
    check_picture(encoded(5, 4), "picture")
    with pytest.raises(InputError, match="7x3 = 21 pixels; expected 20 or fewer"):
        check_picture(encoded(7, 3), "picture")


@pytest.mark.parametrize("length", [20, 60, 200, 1000])
def test_pictures_cut_short_are_broken_or_none(length: int) -> None:
    held = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (40, 40, 3)).astype(np.uint8)
    Image.fromarray(noise).save(held, format="PNG")
    with pytest.raises(InputError, match=r"the picture is (broken|no picture)"):
        check_picture(held.getvalue()[:length], "picture")


# --- controls and names of files --------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None, "5", True, [5], 4.9, 10.1])
def test_only_numbers_of_the_range_pass(value: Any) -> None:
    with pytest.raises(InputError, match=r"^Seed is .*; expected a number from 5 to 10$"):
        number_in(value, "Seed", 5, 10)
    assert number_in(5, "Seed", 5, 10) == 5 and number_in(10.0, "Seed", 5, 10) == 10


def test_controls_are_named_without_their_remarks() -> None:
    slider = SimpleNamespace(label="Forgotten, % of the tokens – used when nothing is painted", minimum=0, maximum=1)
    with pytest.raises(InputError, match=r"^Forgotten is 2; expected a number from 0 to 1$"):
        check_control(slider, 2)
    choice = SimpleNamespace(label="Pictures", choices=[("cut", "tile"), ("none", -1)])
    for value in ("tile", -1):
        check_control(choice, value)
    for value in ("cut", True, -1.0, ["tile"], None):
        with pytest.raises(InputError, match=r"^Pictures is .*; expected one of: tile, -1$"):
            check_control(choice, value)
    check_control(SimpleNamespace(label="Picture"), "anything")


def test_addresses_are_found_at_any_depth() -> None:
    file = {"path": "uploads/a.png", "url": "http://127.0.0.1:7860/gradio_api/file=uploads/a.png"}
    check_no_addresses([{"background": file, "layers": [file]}, 50, "http://is.no/file", None])
    with pytest.raises(InputError, match=r"https://evil.example/a.png is an address; upload the file itself"):
        check_no_addresses([{"layers": [file, {"path": "https://evil.example/a.png"}]}])


# --- the editor -------------------------------------------------------------------------------------------------------


class Editor:
    """What the page uses of gradio's editor."""

    def __init__(self) -> None:
        self.blob_storage: Any = {}
        self.read: list[Any] = []

    def preprocess(self, payload: Any) -> Any:
        self.read.append(payload)
        return payload

    def accept_blobs(self, data: Any) -> None:
        self.blob_storage[data.data["id"]] = data


def sent(index: Any, name: str = "a") -> Any:
    return SimpleNamespace(data={"index": index, "id": name})


def test_few_uploads_of_the_editor_are_held() -> None:
    held = FewHeld()
    for number in range(2 * MOST_HELD):
        held[str(number)] = number
    assert list(held.values()) == list(range(MOST_HELD, 2 * MOST_HELD))
    editor = check_uploads(Editor())
    for number in range(2 * MOST_HELD):
        editor.accept_blobs(sent(None, str(number)))
    assert len(editor.blob_storage) == MOST_HELD and editor.accept_blobs._is_server_fn


@pytest.mark.parametrize("index", [MOST_LAYERS, "999999999", "-1", "many", [1]])
def test_layers_beyond_are_not_made_room_for(index: Any) -> None:
    editor = check_uploads(Editor())
    with pytest.raises(InputError, match="expected fewer than 8"):
        editor.accept_blobs(sent(index))
    editor.accept_blobs(sent("0"))
    editor.accept_blobs(sent("null"))


def test_blobs_are_checked_as_files_are() -> None:
    editor = check_uploads(Editor())
    blobs = SimpleNamespace(background=encoded(4, 4), layers=[None, encoded(4, 4)], composite=b"is not looked at")
    editor.blob_storage["a"] = blobs
    payload = SimpleNamespace(id="a", background=None, layers=[], composite=None)
    assert editor.preprocess(payload) is payload and blobs.composite is None
    blobs.layers = [b"no picture"]
    with pytest.raises(InputError, match="the mask is no picture"):
        editor.preprocess(payload)
    assert editor.preprocess(None) is None and editor.preprocess(SimpleNamespace(id="gone")).id == "gone"
