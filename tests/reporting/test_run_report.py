"""The report of runs: one file that loads nothing, runs nothing, and shows every text as it is."""

import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from fake_runs import HOSTILE, FakeChain, draw, fake_run, split_once
from masked_memory.pipeline.files import InputError, write_json, write_text
from masked_memory.pipeline.runs import duration, run_settings
from masked_memory.reporting.chain import find_chain
from masked_memory.reporting.facts import read_facts, read_head
from masked_memory.reporting.markup import said, table_html
from masked_memory.reporting.numbers import crossed, in_front
from masked_memory.reporting.run_report import write_report
from masked_memory.reporting.stages import SECOND_JUDGE, better_way, caption_of, made_at, plain_number
from masked_memory.stages import summary
from toys import refused_in_one_line

VOID = {"meta", "img", "br", "wbr"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return split_once(tmp_path_factory.mktemp("split"))


@pytest.fixture
def chain(made: Path, tmp_path: Path) -> FakeChain:
    return FakeChain(made, tmp_path)


class Page(HTMLParser):
    """Tags with their attributes, and all text; fails on tags that are not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text, self.open = "", list[str]()
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.open += [] if tag in VOID else [tag]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data if "style" not in self.open else ""

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def report_of(chain: FakeChain, name: str = "report.html") -> str:
    file = chain.runs / name
    found = find_chain(chain.cfg)
    assert write_report(file, found, summary.main_numbers(found)) == file.stat().st_size
    return file.read_text(encoding="utf-8")


# --- what it is -------------------------------------------------------------------------------------------------------


def test_it_loads_nothing_and_runs_nothing(chain: FakeChain) -> None:
    page = Page(report_of(chain))
    assert {name for name, _ in page.tags}.isdisjoint({"script", "link", "iframe", "object", "embed", "form", "base"})
    images = page.of("img")
    assert images and all(str(image["src"]).startswith("data:image/png;base64,") for image in images)
    assert all(image["alt"] and image["width"] and image["height"] for image in images)
    for _, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on") or name in ("srcset", "style", "background")]
        assert str(attributes.get("href", "#")).startswith("#")
    style = report_of(chain).split("<style>")[1].split("</style>")[0]
    assert "url(" not in style and "@import" not in style and "http" not in style


def test_links_lead_to_runs_within_it(chain: FakeChain) -> None:
    page = Page(report_of(chain))
    places = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    targets = {str(link["href"]).removeprefix("#") for link in page.of("a")}
    assert targets <= places and len(targets) == 4, "main numbers, split, VQ-VAE, study"


def test_names_are_shown_as_they_are(chain: FakeChain) -> None:
    text = report_of(chain)
    assert HOSTILE not in text and "<script>" not in text
    page = Page(text)
    assert HOSTILE in page.text and "<script>alert(2)</script>" in page.text


def test_signs_that_cannot_be_seen_or_written_are_written_out(chain: FakeChain) -> None:
    assert said("a\n\x1b[31m\u202e\udc80<") == "a\\n\\x1b[31m\\u202e\\udc80&lt;"
    write_text(chain.study.path / "odd.csv", "name\n\u202eodd\n")
    assert "\u202e" not in report_of(chain)


def test_the_same_runs_give_the_same_bytes(chain: FakeChain) -> None:
    assert report_of(chain) == report_of(chain, "again.html")


# --- what is in it ----------------------------------------------------------------------------------------------------


def test_it_says_what_went_in_and_what_came_out(chain: FakeChain) -> None:
    text = Page(report_of(chain)).text
    assert str(chain.cfg.data.source) in text and chain.split.hash in text and "16×16 pixels" in text
    assert chain.vqvae.name in text and "0123456789ab" in text and "torch 2.14.1" in text and "1 min 15 s" in text
    assert "26.50 dB" in text and "test_psnr26.5" in text
    differing = text.split("Settings that differ from config.yaml")[2].split("All ")[0]
    assert "train_vqvae.epochs3" in differing and "run.seed70" in differing and "train_distil" not in differing
    of_this = f" with VQ-VAE {chain.vqvae.name}, the best"
    judges = f"train_classifier.py, {SECOND_JUDGE.replace(' ', '.py ', 1)}"
    assert f"Not run yet{of_this}: vqvae_reconstruction.py, {judges}, train_distil.py." in text


def test_settings_are_those_that_tuning_left_and_its_search_as_it_was_asked_for(chain: FakeChain) -> None:
    asked = run_settings(chain.vqvae.path)
    section = asked["train_vqvae"] | {"learning_rate": 0.0123, "tune": asked["train_vqvae"]["tune"] | {"trials": 0}}
    write_json(chain.vqvae.path / "used.yaml", asked | {"train_vqvae": section})  # JSON is YAML
    facts = read_facts("train_vqvae", chain.vqvae.path, {}, shown=False)
    assert facts.setting("train_vqvae.learning_rate") == 0.0123
    assert facts.setting("train_vqvae.tune.trials") == asked["train_vqvae"]["tune"]["trials"] > 0


def test_a_run_that_is_shown_and_not_as_set_is_said(chain: FakeChain, capsys: pytest.CaptureFixture[str]) -> None:
    summary.run(chain.cfg)
    assert "not as set" not in capsys.readouterr().out
    summary.run(chain.cfg.replace({"train_vqvae": {"hidden": 32}}))
    _, _, after = capsys.readouterr().out.partition("\nnot as set\n")
    expected = f"  train_vqvae: {chain.vqvae.name} is shown, but train_vqvae.hidden is 96 there and 32 here"
    assert after.startswith(f"{expected}\n")


def test_long_tables_are_cut_with_a_word_and_those_of_pictures_left_out(chain: FakeChain) -> None:
    text = Page(report_of(chain)).text
    assert "curves.csv: the first 40 of 57 rows" in text and "row-39." in text and "row-40." not in text
    assert "manifest.csv has a row for each picture, and is left out." in text and "/00.png" not in text


def test_headline_figures_stand_at_the_top_only(chain: FakeChain) -> None:
    page = Page(report_of(chain))
    assert [str(image["alt"]).split(":")[0] for image in page.of("img")].count("The strategy adaptive") == 1
    assert page.text.index("Main numbers") < page.text.index("A green frame") < page.text.rindex("The split")


def test_of_pictures_after_each_epoch_the_last_is_shown(chain: FakeChain) -> None:
    for epoch in range(1, 12):
        draw(chain.vqvae.path, f"samples_epoch_{epoch:03d}", epoch)
    text = Page(report_of(chain)).text
    assert "Samples after epoch 11." in text and "after epoch 10" not in text
    assert "Of 11 figures samples_epoch_..., the last is shown" in text


def test_other_stages_come_with_the_newest_finished_run_of_the_split(chain: FakeChain) -> None:
    one = fake_run(chain.runs, "sample", {"a": 1.0}, inputs=chain.taken)
    elsewhere = fake_run(
        chain.runs, "sample", {"a": 2.0}, inputs={"data_split": "runs/data_split/20200101-000000-aaaa"}
    )
    seeds = fake_run(chain.runs, "compare_seeds", {}, key=f"seeds of {chain.split.hash}", inputs={"0": "x/y"})
    kinds = [
        fake_run(chain.runs, "train_prior", {"test_bits_per_code": 4.0}, key=f"{chain.key}-prior {kind}")
        for kind in ("gan", "pixelcnn by class")
    ]
    failed = fake_run(chain.runs, "compare_bits", {}, inputs=chain.taken, status="failed", error="<b>no room</b>")
    text = report_of(chain)
    assert all(folder.name in text for folder in (one, seeds, *kinds)) and elsewhere.name not in text
    assert "Prior: pixelcnn by class" in text
    assert f"compare_bits: {failed.name} is failed (&lt;b&gt;no room&lt;/b&gt;)." in text


# --- what is missing --------------------------------------------------------------------------------------------------


def test_what_cannot_be_read_is_left_out_with_a_sentence(chain: FakeChain) -> None:
    (chain.vqvae.path / "figures" / "curves.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    shutil.rmtree(chain.study.path / "figures")
    (chain.study.path / "small.csv").write_bytes(b"\xff\xfe")
    write_text(chain.study.path / "empty.csv", "")
    (chain.study.path / "config.yaml").unlink()
    text = Page(report_of(chain)).text
    assert "figures/curves.png is left out: it is no whole PNG." in text
    assert "This run has no figures." in text and "small.csv is left out" in text
    assert "empty.csv is left out: it has no header." in text and "The settings are left out" in text


@pytest.mark.parametrize("how", ["gone", "running", "torn"])
def test_a_run_that_is_gone_or_half_written_is_left_out(
    chain: FakeChain, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if how == "gone":
        shutil.rmtree(chain.study.path)
    elif how == "running":
        chain.study.update(status="running")
    else:
        (chain.study.path / "metrics.json").write_text('{"a": ')
    text = Page(report_of(chain)).text
    assert (f"reconstruct_masked: {chain.study.name}" in text) == (how == "torn") and chain.vqvae.name in text
    assert summary.run(chain.cfg) == 2
    assert (f"reconstruct_masked: {chain.study.name}" in capsys.readouterr().out) == (how == "torn")


def test_without_the_codebook_later_stages_are_left_out(chain: FakeChain) -> None:
    (chain.vqvae.model / "meta.json").unlink()
    found = find_chain(chain.cfg)
    assert list(found.folders) == ["data_split", "train_vqvae"] and "codebook" in found.troubles[0]


def test_no_folder_is_made_for_a_report(chain: FakeChain, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no folder"):
        write_report(tmp_path / "absent" / "report.html", find_chain(chain.cfg), [])
    assert not (tmp_path / "absent").exists()


@pytest.mark.parametrize("name", ["config.yaml", "report", "folder.html"])
def test_only_files_for_html_are_written(chain: FakeChain, tmp_path: Path, name: str) -> None:
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(InputError, match=r"expected the name of a file that ends in \.html"):
        write_report(tmp_path / name, find_chain(chain.cfg), [])


# --- parts ------------------------------------------------------------------------------------------------------------


def test_numbers_over_percentages_become_a_table() -> None:
    alone, cross = crossed({"a": 1.0, "x_at_50_b": 2.0, "x_at_5_b": 3.0, "random 50 percent forgotten bits": 4.0})
    assert alone == {"a": 1.0} and cross.percents == [5, 50]
    assert cross.rows == {"x_b": [3.0, 2.0], "random bits": [None, 4.0]}


def test_numbers_of_the_test_set_come_in_front() -> None:
    assert in_front(["best_a", "test_a", "main", "other"], ["main"]) == ["test_a", "main"]
    many = [
        f"s_{measure}_at_{n}" for n in range(20) for measure in ("classification_error", "mse_to_reconstruction", "x")
    ]
    front = in_front(many, [])
    assert len(front) == 40 and "mse" in front[19] and "classification" in front[20]
    assert in_front(["a", "b"], []) == ["a", "b"]


def test_rows_longer_or_shorter_than_the_header_are_shown(tmp_path: Path) -> None:
    write_text(tmp_path / "odd.csv", "a,b\n1\n1,2,3\n")
    table = read_head(tmp_path / "odd.csv")
    assert table.total == 2 and table_html(table.header, table.rows).count("<td") == 4


@pytest.mark.parametrize(
    ("metric", "way"),
    [
        ("test_mse", -1), ("test_psnr", 1), ("random_clean_classification_error_at_75", -1), ("test_accuracy_at_50", 1),
        ("test_top1_originals", 1), ("test_loss_at_50_most_frequent_code", 0), ("test_perplexity", 0), ("seconds", 0),
        ("block 50 not completed mse", 0), ("block 50 PixelCNN drawn mse", -1), ("test_bits_per_code", -1),
    ],
)  # fmt: skip
def test_which_way_is_better(metric: str, way: int) -> None:
    assert better_way(metric) == way


def test_words_for_numbers_and_names() -> None:
    assert [duration(seconds) for seconds in (4.21, 59.7, 200, 7500)] == ["4.21 s", "59.7 s", "3 min 20 s", "2 h 5 min"]
    assert made_at("20261128-231400-b670") == "2026-11-28 23:14" and made_at("mine") == ""
    shown = [plain_number(value) for value in (3500, 2.0, 0.00012345678, float("nan"), float("inf"))]
    assert shown == ["3,500", "2", "0.000123457", "nan", "inf"]
    assert "selective" in caption_of("grid_selective") and caption_of("some_thing") == "some thing."


# --- as it is typed, and in a browser ---------------------------------------------------------------------------------


def typed_summary(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr("sys.argv", ["summary.py", *map(str, words)])
    return summary.main()


def settings_of(chain: FakeChain) -> list[object]:
    return ["--run.dir", chain.runs, "--data.source", chain.cfg.data.source, "--data.image_size", 16]


def test_report_is_typed_with_or_without_a_file(
    chain: FakeChain, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert typed_summary(monkeypatch, "--report", *settings_of(chain)) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(chain.runs / "report.html")
    assert typed_summary(monkeypatch, *settings_of(chain), "--report", tmp_path / "mine.html") == 0
    assert typed_summary(monkeypatch, f"--report={tmp_path / 'joined.html'}", *settings_of(chain)) == 0
    written = [chain.runs / "report.html", tmp_path / "mine.html", tmp_path / "joined.html"]
    assert len({file.read_bytes() for file in written}) == 1
    capsys.readouterr()
    status = typed_summary(monkeypatch, "--report", tmp_path / "mine.txt", *settings_of(chain))
    refused_in_one_line(status, capsys.readouterr().err, "mine.txt", ".html")


def test_without_a_split_the_report_says_what_to_type(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status = typed_summary(monkeypatch, "--report", "--run.dir", tmp_path)
    refused_in_one_line(status, capsys.readouterr().err, "no finished run of data_split", "python data_split.py")


FLAGS = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]


@pytest.fixture
def opened(chain: FakeChain) -> Any:
    """Opens the report at a width: (page, what it asked for)."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium on this machine (Debian: apt-get install chromium)")
    report_of(chain)
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, headless=True, args=FLAGS)

        def at(width: int) -> tuple[Any, list[str]]:
            page, asked = browser.new_page(viewport={"width": width, "height": 900}), list[str]()
            page.on("request", lambda request: asked.append(request.url))
            page.goto((chain.runs / "report.html").as_uri())
            return page, asked

        yield at
        browser.close()


def test_it_fits_a_phone_and_paper_and_shows_its_figures(opened: Callable[[int], tuple[Any, list[str]]]) -> None:
    for width in (390, 1280):
        page, asked = opened(width)
        assert page.evaluate("document.documentElement.scrollWidth") == width
        assert page.evaluate("[...document.images].every(image => image.naturalWidth > 0)")
        assert [url for url in asked if not url.startswith("data:")] == [page.url]
    page.emulate_media(media="print")
    assert not page.locator("nav").is_visible() and page.locator("#main h2").is_visible()


def test_best_json_is_not_needed(chain: FakeChain) -> None:
    found = find_chain(chain.cfg).folders
    for content in ("{", "{}", '{"x": 3}'):
        write_text(chain.runs / "train_vqvae" / "best.json", content)
        assert find_chain(chain.cfg).folders == found and found["train_vqvae"] == chain.vqvae.path
