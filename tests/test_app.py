"""The page for a picture of one's own: what it sends, what it shows, and that nothing leaves this machine."""

import shutil
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

import app
from handoff.split import open_split
from own_picture.completing import Request, complete_picture
from page import answering
from page.building import build_page
from page.guard import Gate
from page.opening import Opening, example_pictures
from pipeline.files import InputError
from recall.memory import Memory
from settings.config import Config
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


def test_importing_does_nothing_and_leaves_gradio_out(tmp_path: Path) -> None:
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import app; sys.exit('gradio' in sys.modules)"
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


# --- who can reach the page, and whom it reaches ----------------------------------------------------------------------


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
    assert served.names <= {"127.0.0.1", "localhost"}


def test_taken_port_is_named(served: Served, memory: Memory) -> None:
    port = int(served.url.rsplit(":", 1)[1].strip("/"))
    with pytest.raises(InputError, match=f"--port {port} is taken; give another"):
        app.serve(build_page(opening_of(memory), []), port, GATE)


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


def test_upload_paint_and_complete(served: Served, opened: Opened, tmp_path: Path) -> None:
    picture, (page, asked) = some_picture(), opened
    Image.fromarray(picture).save(tmp_path / "picture.png")
    page.set_input_files("#editor input[type=file]", str(tmp_path / "picture.png"))
    page.locator("#editor button[aria-label='Brush Size']").wait_for()
    canvas = page.locator("#editor canvas").first.bounding_box()
    zoom = int(page.locator("#editor .zoom-number").inner_text().strip(" %\n")) / 100
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
        ([], "python data_split.py"),
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
