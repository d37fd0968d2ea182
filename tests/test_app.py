"""The page for a picture of one's own: what it sends, what it shows, and that nothing leaves this machine."""

import io
import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np
import pytest
import torch
from PIL import Image

from masked_memory.handoff.split import open_split
from masked_memory.own_picture.completing import Request, complete_picture
from masked_memory.page import answering, building
from masked_memory.page.building import build_page
from masked_memory.page.guard import BUSY, Gate
from masked_memory.page.opening import Opening, example_pictures
from masked_memory.pipeline.files import InputError
from masked_memory.recall.memory import Memory
from masked_memory.settings.config import Config
from masked_memory.stages import app
from toys import ROOT, Ran, tiny, vivid_memory

SIZE = 16
CLASSES = ["ant", "bee", "cat"]
START = Request(strategy="random", percent=50)
GATE = Gate("127.0.0.1")
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
#: The editor has fitted its canvas to the picture: before that it loses uploads.
READY = r"""() => {
    const canvas = document.querySelector('#editor canvas');
    const zoom = document.querySelector('#editor .zoom-number')?.innerText.trim();
    return canvas && /^\d+%$/.test(zoom) && zoom != '100%';
}"""


def some_picture(side: int = SIZE) -> np.ndarray:
    """(side, side, 3) uint8 noise without the grey that stands for missing pixels."""
    return np.random.default_rng(0).integers(0, 120, (side, side, 3)).astype(np.uint8)


def layer(side: int = SIZE, rows: slice = slice(4, 8)) -> np.ndarray:
    """(side, side, 4) uint8: a red stroke over some rows, transparent elsewhere."""
    stroke = np.zeros((side, side, 4), dtype=np.uint8)
    stroke[rows] = (255, 0, 0, 255)
    return stroke


def rgba(pixels: np.ndarray, alpha: int = 255) -> np.ndarray:
    return np.dstack([pixels, np.full(pixels.shape[:2], alpha, dtype=np.uint8)])


def opening_of(memory: Memory) -> Opening:
    return Opening(memory, CLASSES, np.stack([some_picture(), some_picture()[::-1]]), START)


@pytest.fixture(scope="module")
def memory() -> Memory:
    return vivid_memory()


class Served(NamedTuple):
    page: Any
    url: str
    names: set[str]  # all hosts that the process looked up meanwhile


@pytest.fixture(scope="module")
def served(memory: Memory, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The page with two examples, on a free port."""
    folder, names = tmp_path_factory.mktemp("page"), set()
    examples = [folder / "a.png", folder / "b.png"]
    for file in examples:
        Image.fromarray(some_picture()).save(file)
    look_up = socket.getaddrinfo
    with pytest.MonkeyPatch.context() as patch:

        def noting(host: Any, *others: Any, **named: Any) -> Any:
            names.add(host.decode() if isinstance(host, bytes) else str(host))
            return look_up(host, *others, **named)

        patch.setattr(socket, "getaddrinfo", noting)
        patch.setenv("GRADIO_TEMP_DIR", str(folder / "uploads"))
        page = build_page(opening_of(memory), examples)
        yield Served(page, app.serve(page, None, GATE), names)
        page.close(verbose=False)


# --- importing --------------------------------------------------------------------------------------------------------


@pytest.mark.system
def test_importing_does_nothing_and_leaves_gradio_out(tmp_path: Path) -> None:
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from masked_memory.stages import app\n"
    code += "sys.exit('gradio' in sys.modules)"
    call = [sys.executable, "-B", "-c", code]
    done = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []


# --- from the editor and to the outputs -------------------------------------------------------------------------------


def test_editor_gives_picture_and_painted_pixels() -> None:
    pixels = some_picture()
    picture, missing = answering.read_editor(
        {"background": rgba(pixels), "layers": [layer(), layer(rows=slice(10, 11))]}
    )
    assert missing is not None and missing.any(1).nonzero()[0].tolist() == [4, 5, 6, 7, 10]
    assert np.array_equal(np.asarray(picture)[..., :3], pixels)


def test_nothing_painted_leaves_the_choice_to_the_strategy() -> None:
    assert answering.read_editor({"background": rgba(some_picture()), "layers": []})[1] is None
    assert answering.read_editor({"background": rgba(some_picture()), "layers": [layer(rows=slice(0, 0))]})[1] is None


def test_faint_paint_counts_from_half_on() -> None:
    faint = layer(rows=slice(0, 1))
    faint[0, :8, 3], faint[0, 8:, 3] = 127, 128
    missing = answering.read_editor({"background": rgba(some_picture()), "layers": [faint]})[1]
    assert missing is not None and missing.sum() == 8 and missing[0, 8:].all()


@pytest.mark.parametrize("value", [None, {"background": None, "layers": []}])
def test_editor_without_a_picture_says_what_to_do(value: Any) -> None:
    with pytest.raises(InputError, match="there is no picture; drop one"):
        answering.read_editor(value)


def test_mask_of_another_size_names_both() -> None:
    with pytest.raises(InputError, match="the mask is 20x20 pixels; expected 16x16"):
        answering.read_editor({"background": rgba(some_picture()), "layers": [layer(20)]})


def test_transparent_pixels_are_white(memory: Memory) -> None:
    clear = rgba(np.zeros((SIZE, SIZE, 3), dtype=np.uint8), alpha=0)
    shown = answering.answer(
        memory, CLASSES, START, {"background": clear, "layers": [layer()]}, answering.Controls(*controls())
    )
    assert (shown.completed[8:] == 255).all()


def test_diversity_is_brightest_at_its_largest_value() -> None:
    diversity = np.array([[0.0, 0.01], [0.02, 0.04]])
    picture = answering.diversity_picture(diversity)
    brightness = picture.astype(int).sum(2)
    assert picture.dtype == np.uint8 and picture.shape == (2, 2, 3)
    assert brightness[0, 0] < brightness[0, 1] < brightness[1, 0] < brightness[1, 1]
    assert np.array_equal(answering.diversity_picture(10 * diversity), picture)
    assert "0.040" in answering.describe_diversity(diversity)


def test_diversity_of_samples_that_agree_is_black_all_over() -> None:
    assert answering.diversity_picture(np.zeros((3, 3))).max() < 10


def test_result_is_shown_as_it_is(memory: Memory) -> None:
    mask = layer()[..., 3] > 0
    result = complete_picture(memory, Image.fromarray(some_picture()), mask, CLASSES, replace(START, samples=2))
    shown = answering.show(result)
    assert np.array_equal(shown.completed, result.completed) and np.array_equal(shown.masked, result.masked)
    assert len(shown.samples) == 2 and shown.diversity is not None
    assert shown.before is not None and set(shown.before) == set(CLASSES)
    assert shown.note == "4 of 16 tokens were dropped (25%)."
    alone = answering.show(replace(result, samples=result.samples[:1], before=[], after=[], note="cut into 1x1 tiles"))
    assert alone.diversity is None and alone.caption == "Needs two samples or more."
    assert alone.before is None and alone.note.endswith("; cut into 1x1 tiles.")


def test_grey_pictures_lose_their_only_channel() -> None:
    assert answering.plain(np.zeros((4, 5, 1))).shape == (4, 5)
    assert answering.plain(np.zeros((4, 5, 3))).shape == (4, 5, 3)


# --- the page as a program calls it -----------------------------------------------------------------------------------


def controls(
    percent: float = 50,
    strategy: str = "random",
    decoding: str = "expected",
    samples: int = 0,
    fit: str = "resize",
    label: int = answering.NOT_TOLD,
    seed: int = 0,
) -> tuple[Any, ...]:
    """What stands beside the editor, in the order of the page."""
    return percent, strategy, decoding, samples, fit, label, seed


@pytest.fixture(scope="module")
def client(served: Served, tmp_path_factory: pytest.TempPathFactory) -> Any:
    from gradio_client import Client

    downloads = tmp_path_factory.mktemp("downloads")
    return Client(served.url, verbose=False, analytics_enabled=False, download_files=str(downloads))


def ask(client: Any, folder: Path, picture: np.ndarray | None, painted: np.ndarray | None, **wanted: Any) -> Any:
    """Press the button by program: masked, completed, before, after, samples, diversity, caption, note."""
    from gradio_client import handle_file

    editor: dict[str, Any] = {"background": None, "layers": [], "composite": None}
    if picture is not None:
        Image.fromarray(picture).save(folder / "picture.png")
        editor["background"] = handle_file(str(folder / "picture.png"))
    if painted is not None:
        Image.fromarray(painted).save(folder / "mask.png")
        editor["layers"] = [handle_file(str(folder / "mask.png"))]
    return client.predict(editor, *controls(**wanted), api_name="/complete")


def pixels_of(path: str) -> np.ndarray:
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture.convert("RGB"))


@pytest.mark.parametrize("side", [SIZE, 21])
@pytest.mark.parametrize("fit", ["resize", "tile"])
def test_known_pixels_come_back_bit_by_bit(client: Any, tmp_path: Path, side: int, fit: str) -> None:
    picture, painted = some_picture(side), layer(side, slice(5, 11))
    masked, completed, before, *_, note = ask(client, tmp_path, picture, painted, fit=fit)
    missing = painted[..., 3] > 0
    assert np.array_equal(pixels_of(completed)[~missing], picture[~missing])
    assert (pixels_of(completed)[missing] != picture[missing]).mean() > 0.5
    assert (pixels_of(masked)[missing] == 128).all() and np.array_equal(pixels_of(masked)[~missing], picture[~missing])
    assert before["label"] in CLASSES and "tokens were dropped" in note


def test_without_paint_the_slider_counts(client: Any, tmp_path: Path) -> None:
    picture = some_picture()
    assert "4 of 16 tokens" in ask(client, tmp_path, picture, None, percent=25)[-1]
    assert "12 of 16 tokens" in ask(client, tmp_path, picture, None, percent=75)[-1]
    _, completed, *_, note = ask(client, tmp_path, picture, None, percent=0)
    assert "0 of 16 tokens" in note and np.array_equal(pixels_of(completed), picture)


def test_same_seed_same_picture_and_another_seed_another(client: Any, tmp_path: Path) -> None:
    def drawn(seed: int) -> np.ndarray:
        return pixels_of(ask(client, tmp_path, some_picture(), layer(), decoding="sample", seed=seed)[1])

    assert np.array_equal(drawn(3), drawn(3))
    assert not np.array_equal(drawn(3), drawn(4))


def test_samples_and_where_they_differ(client: Any, tmp_path: Path) -> None:
    *_, gallery, diversity, caption, _ = ask(client, tmp_path, some_picture(), layer(), samples=3)
    samples = np.stack([pixels_of(entry["image"]) for entry in gallery]) / 255
    assert len(samples) == 3
    brightness = pixels_of(diversity).astype(int).sum(2)
    assert brightness[:4].max() < 10 < brightness[4:8].max()
    assert f"{samples.std(0).mean(2).max():.3f}" in caption


def test_without_samples_there_is_no_map(client: Any, tmp_path: Path) -> None:
    *_, gallery, diversity, _, _ = ask(client, tmp_path, some_picture(), layer())
    assert (gallery, diversity) == ([], None)


@pytest.mark.parametrize(
    ("picture", "painted", "wanted", "words"),
    [
        (None, None, {}, "there is no picture; drop one into the editor"),
        (some_picture(), layer(20), {}, "the mask is 20x20 pixels; expected 16x16"),
        (some_picture(), layer(), {"label": 1}, "a class was given, but this DistilBERT was trained without classes"),
        (some_picture(), None, {"strategy": "nearby"}, "nearby"),
        (some_picture(), None, {"percent": 101}, "101"),
    ],
)
def test_mistakes_are_answered_in_a_sentence(
    client: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str], picture: Any, painted: Any, wanted: Any, words: str
) -> None:
    from gradio_client.exceptions import AppError

    with pytest.raises(AppError, match=words):
        ask(client, tmp_path, picture, painted, **wanted)
    if not wanted or "label" in wanted:  # gradio itself refuses the other two, and prints where
        assert "Traceback" not in capfd.readouterr().err


# --- the page as anybody may call it ----------------------------------------------------------------------------------


def uploaded(url: str, content: bytes, name: str = "a.png") -> str:
    """Where the page has put a file."""
    answer = httpx.post(f"{url}gradio_api/upload", files={"files": (name, content)}, verify=False)
    assert answer.status_code == 200
    return str(answer.json()[0])


def png(pixels: np.ndarray) -> bytes:
    held = io.BytesIO()
    Image.fromarray(pixels).save(held, format="PNG")
    return held.getvalue()


def editor_of(picture: str, *masks: str) -> dict[str, Any]:
    """What the editor sends for files of the page."""
    background, *layers = ({"path": path, "meta": {"_type": "gradio.FileData"}} for path in (picture, *masks))
    return {"background": background, "layers": layers, "composite": None}


def called(url: str, name: str, *data: Any) -> tuple[bool, Any]:
    """Whether it was done, and the outputs, or the sentence of the refusal."""
    body = json.dumps({"data": data})  # NaN and infinity go through, too
    with httpx.Client(timeout=60, verify=False) as session:  # no certificates are read for http
        headers = {"content-type": "application/json"}
        joined = session.post(f"{url}gradio_api/call/{name}", content=body, headers=headers)
        if joined.status_code != 200:
            return False, joined.json()["detail"]
        lines = session.get(f"{url}gradio_api/call/{name}/{joined.json()['event_id']}").text.splitlines()
    kind, found = (line.partition(": ")[2] for line in [line for line in lines if line][-2:])
    return kind == "complete", json.loads(found) if kind == "complete" else json.loads(found)["error"]


@pytest.fixture(scope="module")
def good(served: Served) -> str:
    return uploaded(served.url, png(some_picture()))


NAN = float("nan")


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ({"percent": NAN}, "Forgotten is nan; expected a number from 0 to 100"),
        ({"percent": float("inf")}, "Forgotten is inf; expected"),
        ({"percent": "many"}, "Forgotten is 'many'; expected a number"),
        ({"percent": None}, "Forgotten is empty; expected a number"),
        ({"samples": 10**9}, "Drawn samples is 1000000000; expected a number from 0 to 8"),
        ({"seed": None}, "Seed is empty; expected a number from 0 to 2147483647"),
        ({"seed": NAN}, "Seed is nan"),
        ({"strategy": "nearby"}, "What to keep is 'nearby'; expected one of: random, block"),
        ({"strategy": ["random"]}, "What to keep is ['random']; expected one of"),
        ({"decoding": None}, "How forgotten tokens are painted is None; expected one of"),
        ({"fit": {"tile": 1}}, "Pictures of another size is {'tile': 1}; expected one of: resize, tile"),
        ({"label": 99}, "Class is 99; expected one of: -1, 0, 1, 2"),
    ],
)
def test_controls_that_do_not_exist_are_named(served: Served, good: str, wanted: Any, words: str) -> None:
    done, said = called(served.url, "complete", editor_of(good), *controls(**wanted))
    assert not done and said.startswith(words)


@pytest.mark.parametrize("editor", [NAN, "a.png", [[0.5, NAN]], {}, {"background": 3, "layers": 4}, {"layers": [None]}])
def test_an_editor_of_another_form_is_refused(served: Served, editor: Any) -> None:
    done, said = called(served.url, "complete", editor, *controls())
    assert not done and ("not as expected" in said or "there is no picture" in said)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"not a picture", "the picture is no picture; expected PNG, JPEG"),
        (b"", "the picture is no picture"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "the picture is no picture"),
        (png(some_picture(64))[:3000], "the picture is broken"),
        (png(np.zeros((2001, 2000), np.uint8)), "the picture has 2000x2001 = 4,002,000 pixels; expected 4,000,000 or"),
    ],
)
def test_uploads_that_are_no_pictures_are_refused(served: Served, content: bytes, words: str) -> None:
    done, said = called(served.url, "complete", editor_of(uploaded(served.url, content)), *controls())
    assert not done and said.startswith(words)


def test_masks_are_checked_as_pictures_are(served: Served, good: str) -> None:
    small, broken = uploaded(served.url, png(layer(20))), uploaded(served.url, b"GIF89a")
    done, said = called(served.url, "complete", editor_of(good, small), *controls())
    assert not done and said == "the mask is 20x20 pixels; expected 16x16 as the picture"
    done, said = called(served.url, "complete", editor_of(good, broken), *controls())
    assert not done and said.startswith("the mask is")
    done, said = called(served.url, "complete", editor_of(good, *[small] * 9), *controls())
    assert not done and said == "there are 9 layers of paint; expected 8 or fewer"


def test_a_file_that_is_too_large_is_not_taken(served: Served) -> None:
    answer = httpx.post(f"{served.url}gradio_api/upload", files={"files": ("a.png", bytes(21 * 2**20))})
    assert answer.status_code == 413 and answer.json()["detail"].startswith("the file is larger than 20 MB")


def test_more_tiles_than_a_click_takes_are_refused(served: Served, memory: Memory) -> None:
    large = uploaded(served.url, png(some_picture(80)))  # 25 tiles
    done, said = called(served.url, "complete", editor_of(large), *controls(fit="tile", strategy="adaptive"))
    assert not done and said.startswith("the picture would be 25 tiles; expected 16 or fewer where adaptive chooses")
    assert called(served.url, "complete", editor_of(large), *controls(fit="tile"))[0]
    with pytest.raises(InputError, match="289 tiles; expected 256 or fewer: resize it instead"):
        answering.check_tiles((272, 272), 16, None, replace(START, fit="tile"))


def test_what_goes_wrong_here_is_said_and_written_down(
    served: Served, good: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_down(*_: Any) -> None:
        raise ZeroDivisionError("a mistake of ours")

    monkeypatch.setattr("masked_memory.page.building.answer", break_down)
    done, said = called(served.url, "complete", editor_of(good), *controls())
    assert not done and said.startswith("this went wrong here, not with your picture")
    assert "a mistake of ours" in capfd.readouterr().err


@pytest.mark.parametrize(
    "path",
    ["/etc/passwd", "../../../etc/passwd", str(ROOT / "app.py"), "/proc/self/environ", "app.py", "C:\\windows\\win.ini",
     "http://127.0.0.1:1/a.png", "file:///etc/passwd", "{uploads}/../../../../../../etc/passwd"],
)  # fmt: skip
def test_files_that_were_not_uploaded_are_not_read(served: Served, good: str, path: str) -> None:
    path = path.replace("{uploads}", str(Path(good).parent))
    done, said = called(served.url, "complete", editor_of(path), *controls())
    assert not done and ("not as expected" in said or "is an address; upload the file itself" in said)
    done, said = called(served.url, "complete", editor_of(good, path), *controls())
    assert not done and "root:" not in said


@pytest.mark.parametrize(
    "address",
    [
        "gradio_api/file=/etc/passwd", "gradio_api/file=../../../../etc/passwd", "gradio_api/file=%2Fetc%2Fpasswd",
        "gradio_api/file=%2e%2e/%2e%2e/etc/passwd", f"gradio_api/file={ROOT}/app.py", "gradio_api/file=app.py",
        "gradio_api/file=/proc/self/environ", "gradio_api/file=/dev/zero", "gradio_api/file=http://127.0.0.1:1/",
        "file=/etc/passwd", "gradio_api/file/etc/passwd", "static/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
        "assets/..%2f..%2f..%2fetc/passwd", "svelte/..%2f..%2fapp.py", "static//etc/passwd",
        "gradio_api/proxy=http://127.0.0.1:1/", "gradio_api/run/complete", "gradio_api/vibe-code",
    ],
)  # fmt: skip
def test_nothing_outside_of_the_page_is_readable(served: Served, address: str) -> None:
    answer = httpx.get(served.url + address, timeout=5)
    assert answer.status_code in (403, 404) and len(answer.json()["detail"].split()) > 4
    assert "root:" not in answer.text and "import" not in answer.text


def test_the_queue_cannot_be_passed_by(served: Served, good: str) -> None:
    named = [one["api_name"] for one in httpx.get(f"{served.url}config").json()["dependencies"]]
    for name, data in (("complete", [editor_of(good), *controls()]), ("recall", ["1", 50, "random"])):
        body = {"data": data, "fn_index": named.index(name)}
        answer = httpx.post(f"{served.url}gradio_api/run/predict", json=body)
        assert answer.status_code == 404 and len(answer.json()["detail"].split()) > 5


def test_requests_without_a_form_get_a_sentence(served: Served, capfd: pytest.CaptureFixture[str]) -> None:
    for name, content in (("complete", b"{"), ("complete", b"{}"), ("nothing", b'{"data": []}')):
        answer = httpx.post(f"{served.url}gradio_api/call/{name}", content=content)
        assert 400 <= answer.status_code < 500 and len(answer.json()["detail"].split()) > 5


def test_thirty_at_once_are_done_or_told_that_it_is_busy(
    served: Served, good: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    done_by = building.answer

    def slowly(*given: Any) -> Any:
        time.sleep(0.1)
        return done_by(*given)

    monkeypatch.setattr("masked_memory.page.building.answer", slowly)
    with ThreadPoolExecutor(30) as at_once:
        asked = [at_once.submit(called, served.url, "complete", editor_of(good), *controls()) for _ in range(30)]
        answers = [each.result() for each in asked]
    refused = [said for done, said in answers if not done]
    assert refused and set(refused) == {BUSY} and len(answers) - len(refused) >= building.MOST_WAITING
    assert called(served.url, "complete", editor_of(good), *controls())[0]  # and after that it goes on


def test_many_in_a_row_take_no_more_memory(served: Served) -> None:
    psutil = pytest.importorskip("psutil", reason="psutil is not installed")
    process, used = psutil.Process(), []
    for number in range(60):
        if number % 10 == 0:
            picture = uploaded(served.url, png(some_picture(16 + number % 7)))
            assert called(served.url, "complete", editor_of(picture), *controls(percent=number % 100))[0]
        else:
            assert called(served.url, "recall", str(1 + number % 2), 10 + number % 90, "random")[0]
        used.append(process.memory_info().rss)
    assert used[-1] < 1.1 * used[20]


# --- who can reach the page, and whom it reaches ----------------------------------------------------------------------


@pytest.mark.parametrize("host", ["evil.example", "evil.example:7860", "127.0.0.1.evil.example", "10.1.2.3"])
def test_other_names_are_not_answered(served: Served, host: str) -> None:
    for address in ("", "config", "gradio_api/info", "gradio_api/file=/etc/passwd"):
        assert httpx.get(served.url + address, headers={"host": host}).status_code == 421
    assert httpx.get(served.url, headers={"host": "localhost:1"}).status_code == 200


def test_browsers_are_told_to_load_from_here_only(served: Served) -> None:
    for address in ("", "config", "theme.css", "gradio_api/nothing"):
        headers = httpx.get(served.url + address).headers
        assert headers["x-content-type-options"] == "nosniff" and headers["x-frame-options"] == "DENY"
        assert "default-src 'none'" in headers["content-security-policy"]


def test_other_machines_need_the_password(memory: Memory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    gate = app.read_gate("0.0.0.0", {app.PASSWORD: "correct horse battery"})
    page = build_page(opening_of(memory), [])
    port = app.serve(page, None, gate).rsplit(":", 1)[1].strip("/")
    try:
        for address in ("", "config", "gradio_api/info", "gradio_api/file=/etc/passwd"):
            url = f"http://127.0.0.2:{port}/{address}"  # not the address of the page alone, as of another machine
            assert httpx.get(url).status_code == httpx.get(url, auth=("me", "correct horse")).status_code == 401
        assert httpx.get(f"http://127.0.0.2:{port}/", auth=("me", "correct horse battery")).status_code == 200
        assert httpx.get(f"http://127.0.0.2:{port}/", headers={"host": "evil.example"}).status_code == 421
    finally:
        page.close(verbose=False)


@pytest.mark.parametrize(
    ("host", "environment", "words"),
    [
        ("0.0.0.0", {}, "--host 0.0.0.0 lets other machines in, which takes a password; set the environment variable"),
        ("0.0.0.0", {app.PASSWORD: "short"}, "RECONSTRUCT_PASSWORD has 5 characters; expected 12 or more"),
        ("everywhere", {app.PASSWORD: "correct horse battery"}, "--host is everywhere; expected an IPv4 address"),
        ("::", {app.PASSWORD: "correct horse battery"}, "--host is ::; expected an IPv4 address"),
    ],
)
def test_hosts_that_let_others_in_are_refused(host: str, environment: dict[str, str], words: str) -> None:
    with pytest.raises(InputError) as caught:
        app.read_gate(host, environment)
    assert str(caught.value).startswith(words) and "short" not in str(caught.value)


def test_without_more_only_this_machine_comes_in() -> None:
    assert app.read_gate(None, {}) == Gate("127.0.0.1") and app.read_gate("localhost", {}) == Gate("localhost")
    assert app.read_gate(None, {app.PASSWORD: "correct horse battery"}).password == "correct horse battery"


def test_only_this_machine_is_served(served: Served) -> None:
    port = int(served.url.rsplit(":", 1)[1].strip("/"))
    assert served.url == f"http://127.0.0.1:{port}/"
    with socket.create_connection(("127.0.0.1", port), timeout=5):
        pass
    with socket.socket() as other, pytest.raises(OSError):  # a page on all addresses would answer here, too
        other.settimeout(2)
        other.connect(("127.0.0.2", port))


def test_no_other_host_is_looked_up(served: Served, client: Any) -> None:
    assert served.names
    assert served.names <= {"127.0.0.1", "127.0.0.2", "localhost"}


def test_taken_port_is_named(served: Served, memory: Memory) -> None:
    port = int(served.url.rsplit(":", 1)[1].strip("/"))
    with pytest.raises(InputError, match=f"--port {port} is taken; give another"):
        app.serve(build_page(opening_of(memory), []), port, GATE)


def test_the_page_is_served_behind_a_proxy_that_is_dead(
    memory: Memory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "")
    page = build_page(opening_of(memory), [])
    try:
        assert httpx.get(app.serve(page, None, GATE)).status_code == 200
    finally:
        page.close(verbose=False)


def test_programs_recall_by_the_number_that_is_shown(served: Served, client: Any) -> None:
    assert "25 % forgotten: 12 of 16 tokens are kept" in client.predict("2", 25, "half", api_name="/recall")
    for number, percent, words in (
        ("3", 25, "Test picture is '3'; expected one of: 1, 2"),
        ("1", 9, "Forgotten is 9;"),
    ):
        done, said = called(served.url, "recall", number, percent, "half")
        assert not done and said.startswith(words)


# --- in a browser -----------------------------------------------------------------------------------------------------


class Opened(NamedTuple):
    page: Any
    asked: set[str]  # all addresses that the page asked for


@pytest.fixture(scope="module")
def opened(served: Served) -> Iterator[Opened]:
    """The page in headless Chromium, ready for an upload."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium on this machine (Debian: apt-get install chromium)")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, headless=True, args=FLAGS)
        page, asked = browser.new_page(viewport={"width": 1300, "height": 1000}), set()
        page.on("request", lambda request: asked.add(request.url))
        page.goto(served.url)
        page.wait_for_function(READY)
        yield Opened(page, asked)
        page.wait_for_load_state("networkidle")
        browser.close()


def test_button_without_a_picture_shows_a_message(opened: Opened) -> None:
    message = opened.page.get_by_text("there is no picture; drop one into the editor")
    assert message.count() == 0
    opened.page.locator("#go").click()
    message.wait_for()
    assert opened.page.locator("#completed img").count() == 0


def settled(page: Any) -> tuple[dict[str, float], float]:
    """Where the editor's canvas lies in the window and how far it is zoomed, once both stay as they are."""
    seen: list[Any] = []
    while len(seen) < 3 or any(one != seen[-1] for one in seen[-3:]):
        page.locator("#editor canvas").first.scroll_into_view_if_needed()
        box = page.locator("#editor canvas").first.bounding_box()
        seen.append((box, int(page.locator("#editor .zoom-number").inner_text().strip(" %\n")) / 100))
        page.wait_for_timeout(250)
    return seen[-1]


@pytest.mark.system
def test_upload_paint_and_complete(served: Served, opened: Opened, tmp_path: Path) -> None:
    picture, (page, asked) = some_picture(), opened
    Image.fromarray(picture).save(tmp_path / "picture.png")
    page.set_input_files("#editor input[type=file]", str(tmp_path / "picture.png"))
    page.locator("#editor button[aria-label='Brush Size']").wait_for()
    canvas, zoom = settled(page)
    assert zoom >= 8  # a picture of 16 pixels is large enough to paint on
    middle = canvas["x"] + canvas["width"] / 2, canvas["y"] + canvas["height"] / 2
    page.mouse.move(middle[0] - 3 * zoom, middle[1])
    page.mouse.down()
    page.mouse.move(middle[0] + 3 * zoom, middle[1], steps=5)
    page.mouse.up()
    page.locator("#samples input[type=range]").fill("2")
    page.locator("#drawn").wait_for()
    page.locator("#go").click()
    page.locator("#completed img").wait_for()
    page.locator("#drawn img").first.wait_for()
    masked, completed = (fetched(page, name, tmp_path) for name in ("masked", "completed"))
    missing = (masked == 128).all(2)
    assert missing[8, 5:11].all() and not missing[:4].any() and not missing[12:].any()
    assert np.array_equal(completed[~missing], picture[~missing])
    assert (completed[missing] != picture[missing]).mean() > 0.5
    shown = page.locator("#completed img")
    assert shown.evaluate("image => getComputedStyle(image).imageRendering") == "pixelated"
    assert shown.bounding_box()["height"] > 200
    page.wait_for_load_state("networkidle")
    outside = {url for url in asked if not url.startswith((served.url, "data:", "blob:"))}
    assert len(asked) > 10 and not outside


def fetched(page: Any, name: str, folder: Path) -> np.ndarray:
    """The pixels of a result on the page, (H, W, 3) uint8."""
    file = folder / f"{name}.png"
    file.write_bytes(page.request.get(page.locator(f"#{name} img").get_attribute("src")).body())
    return pixels_of(str(file))


def test_an_example_that_is_clicked_can_be_completed(served: Served, opened: Opened) -> None:
    page = opened.page
    page.goto(served.url)
    page.wait_for_function(READY)
    page.locator("#examples button").first.click()
    page.locator("#editor button[aria-label='Brush Size']").wait_for()
    page.locator("#go").click()
    page.locator("#completed img").wait_for()
    assert "8 of 16 tokens were dropped" in page.locator("#note").inner_text()


def test_it_opens_with_a_picture_that_is_completed(served: Served, opened: Opened) -> None:
    page = opened.page
    page.goto(served.url)
    page.locator("#recalled [role=status]").wait_for()
    assert "50 % forgotten: 8 of 16 tokens are kept" in page.locator("#recalled [role=status]").inner_text()
    assert page.locator("#recalled img").count() == 3
    assert all(page.locator("#recalled img").evaluate_all("all => all.map(one => one.naturalWidth > 0)"))
    assert "No study has been run with these models" in page.locator("#recalled").inner_text()


def test_the_slider_recalls_at_once_by_keyboard(served: Served, opened: Opened) -> None:
    page = opened.page
    page.goto(served.url)
    page.locator("#recalled [role=status]").wait_for()
    slider = page.locator("#forgotten input[type=range]")
    slider.focus()
    page.keyboard.press("End")
    page.get_by_text("100 % forgotten: 0 of 16 tokens are kept").wait_for()
    page.keyboard.press("Home")
    page.get_by_text("10 % forgotten: 14 of 16 tokens are kept").wait_for()
    assert page.locator("#recalled rect.gone").count() == 2


def test_everything_can_be_reached_by_keyboard(served: Served, opened: Opened) -> None:
    page = opened.page
    page.goto(served.url)
    page.wait_for_function(READY)
    reached = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        reached |= set(page.evaluate(
            "() => { const all = []; for (let at = document.activeElement; at; at = at.parentElement) "
            "if (at.id) all.push(at.id); return all; }"
        ))  # fmt: skip
    assert {"forgotten", "kept", "number", "editor", "examples", "go", "percent", "strategy", "samples"} <= reached


def test_on_a_phone_pictures_fit_the_width(served: Served, opened: Opened) -> None:
    page = opened.page.context.browser.new_page(viewport={"width": 390, "height": 844})
    try:
        page.goto(served.url)
        page.locator("#recalled img").first.wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        for box in (page.locator("#recalled img").nth(each).bounding_box() for each in range(3)):
            assert box["x"] >= 0 and box["x"] + box["width"] <= 390 and box["width"] > 120
        forgotten = page.locator("#forgotten input[type=range]").bounding_box()
        assert forgotten["width"] > 200
    finally:
        page.close()


def test_the_browser_blocks_nothing_of_the_page(served: Served, opened: Opened) -> None:
    page, blocked = opened.page, []
    listen = page.on("console", lambda said: blocked.append(said.text) if "Content Security Policy" in said.text else 0)
    page.goto(f"{served.url}?view=api")
    page.wait_for_load_state("networkidle")
    page.goto(served.url)
    page.wait_for_function(READY)
    assert blocked == [] and listen is None


@pytest.fixture(scope="module")
def trained(ran: Ran) -> Config:
    own = {"strategy": "half", "percent": 25, "samples": 2}
    return tiny(ran.runs, ran.source, run__mlflow=False, run__device="cpu", reconstruct_masked__own=own)


def test_command_loads_the_models_and_serves_until_it_is_interrupted(
    trained: Config, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", "is set by the page")
    seen: list[str] = []

    def interrupt() -> None:
        url = next(word for word in capsys.readouterr().out.split() if word.startswith("http://"))
        with urllib.request.urlopen(f"{url}config", timeout=10) as answer:
            seen.extend([url, answer.read().decode()])
        raise KeyboardInterrupt

    assert app.run_page(trained, None, GATE, False, interrupt) == 0.0
    url, page = seen
    assert "example0.png" in page and '"value":25' in page.replace(" ", "")
    with pytest.raises(OSError):
        urllib.request.urlopen(url, timeout=2)


def test_memory_knows_how_often_codes_stand_where(trained: Config) -> None:
    handed = app.load_memory(trained)
    memory, classes = handed.memory, handed.split.classes
    assert classes == ["class0", "class1", "class2"] and memory.classifier is not None
    assert memory.position_shares.shape == (16, 16)
    assert torch.allclose(memory.position_shares.sum(1), torch.ones(16))


def test_examples_are_the_test_pictures(trained: Config, tmp_path: Path) -> None:
    split = open_split(trained)
    files = app.write_examples(example_pictures(split, count=100), tmp_path)
    known = [split.images[split.rows[position]] for position in split.positions("test")]
    assert len(files) == len(known)
    assert all(np.array_equal(pixels_of(str(file)), pixels) for file, pixels in zip(files, known, strict=True))


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--data.seed", "5"], "python data_split.py"),  # with those of config.yaml, shipped models are lent
        (["--port", "0"], "--port is 0; expected a whole number from 1 to 65535"),
        (["--port=many"], "--port is many; expected"),
        (["--prot", "7900"], "--prot is not an option"),
        (["--reconstruct_masked.own.percent", "200"], "reconstruct_masked.own.percent is 200; expected"),
    ],
)
def test_mistakes_are_one_line_and_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], argv: list[str], words: str
) -> None:
    assert app.main(["--no-browser", "--run.dir", str(tmp_path / "runs"), *argv]) == 2
    error = capsys.readouterr().err
    assert words in error and len(error.strip().splitlines()) == 1
