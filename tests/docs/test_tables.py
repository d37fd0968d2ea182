"""The pages say what the tables, the settings and the code say: docs/tables.py, README.md and docs/*.md."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from docs import collecting, tables
from docs import shelf as shelves
from masked_memory.pipeline.commands import module_of
from masked_memory.settings import loading
from masked_memory.settings.config import Config
from masked_memory.settings.strategies import DECODINGS, STRATEGIES

ROOT = Path(__file__).resolve().parent.parent.parent
NO_ROOMS = ("tests", "runs", "downloads")
ROOMS = [path for path in ROOT.iterdir() if path.is_dir() and path.name[0] != "." and path.name not in NO_ROOMS]
CODE = [*ROOT.glob("*.py"), *(file for room in ROOMS for file in room.rglob("*.py"))]

FACTS = "# run: r1\n# commit: c1\n# machine: 2 cores, no GPU\n# command: make demo\n"
CSV = "strategy,percent,mean,low,high\nrandom,50,0.5,0.4,0.6\nadaptive,50,0.25,0.2,0.3\nany,100,0.75,,\n"
CROSS = 'rows="{strategy}" columns="{percent} %" value="{mean:.2f}"'


PAGES = tables.pages()
named = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    """A folder of tables that holds small.csv."""
    (tmp_path / "small.csv").write_text(FACTS + CSV, encoding="utf-8")
    return tmp_path


def _page(folder: Path, mark: str, body: str = "") -> Path:
    page = folder / "page.md"
    page.write_text(f"# Title\n\n{mark}\n{body}<!-- end -->\n\nText.\n", encoding="utf-8")
    return page


def _made(folder: Path, mark: str) -> list[str]:
    text, _ = tables.rewritten(_page(folder, mark), folder)
    return [line for line in text.splitlines() if line.startswith("|") or line.startswith("With")]


# --- what marks make --------------------------------------------------------------------------------------------------


def test_a_cross_table_in_the_order_of_the_mark_and_any_in_each_row(shelf: Path) -> None:
    made = _made(shelf, f"<!-- table: small strategy=adaptive|random=chance percent=50|100 head=left {CROSS} -->")

    assert made == [
        "| left | 50 % | 100 % |",
        "|---|---|---|",
        "| adaptive | 0.25 | 0.75 |",
        "| chance | 0.50 | 0.75 |",
    ]


@pytest.mark.parametrize(("p", "shown"), [(0.0004, "p < 0.001"), (0.001, "p = 0.001"), (0.0321, "p = 0.032")])
def test_p_values_below_a_thousandth_are_not_shown_as_zero(p: float, shown: str) -> None:
    assert tables.filled("({p:p})", {"p": p}) == f"({shown})"


def test_a_list_with_half_an_interval_a_factor_and_empty_cells(shelf: Path) -> None:
    show = '"what = {strategy} | mean = {mean:.1f} ±{half:.2f} | ms = {mean*1000:.0f}"'

    assert _made(shelf, f"<!-- table: small show={show} -->")[2:] == [
        "| random | 0.5 ±0.10 | 500 |",
        "| adaptive | 0.2 ±0.05 | 250 |",
        "| any |  | 750 |",
    ]


def test_a_sentence_takes_its_numbers_from_the_rows(shelf: Path) -> None:
    mark = '<!-- sentence: small percent=50 strategy=adaptive|random\n     text="With {0[mean]:.0%} and {1[mean]}." -->'

    assert _made(shelf, mark) == ["With 25 % and 0.5."]


def test_bars_in_cells_are_escaped_and_marks_in_code_blocks_left_alone(tmp_path: Path) -> None:
    assert tables.markdown(["a"], [["x | y"]])[-1] == "| x \\| y |"
    page = tmp_path / "page.md"
    page.write_text("```\n<!-- table: nothing -->\n```\n", encoding="utf-8")

    assert tables.rewritten(page, tmp_path) == (page.read_text(encoding="utf-8"), [])


@pytest.mark.parametrize(
    ("mark", "said"),
    [
        ("<!-- tabel: small -->", "expected one of table"),
        ("<!-- table small -->", "expected one of table"),
        ("<!-- table: smal show={mean} -->", "small"),
        (f"<!-- table: small strateg=random {CROSS} -->", "strateg is not a column"),
        (f"<!-- table: small strategy=randon percent=50 {CROSS} -->", "no row has strategy=randon"),
        (f"<!-- table: small bare {CROSS} -->", "expected KEY=VALUE"),
        ('<!-- table: small rows="{strategy}" -->', "columns= is missing"),
        ('<!-- table: small rows=a columns=b value="{mean}" -->', "two rows for the cell a / b"),
        ('<!-- table: small show="x = {nean}" -->', "{nean} is not a column"),
        ('<!-- table: small show="x = {strategy:.3f}" -->', "does not fit the value 'random'"),
        ('<!-- sentence: small percent=50 text="{2[mean]}" -->', "does not fit the 2 rows"),
        ("<!-- source: small mean=1 -->", "expected no options"),
        ("<!-- settings: train -->", "train is not a section"),
        ("<!-- registry: masks -->", "expected strategies or decodings"),
        ('<!-- table: small show="x -->', "no closing quotation"),
    ],
)
def test_a_wrong_mark_is_one_line_with_file_and_line(shelf: Path, mark: str, said: str) -> None:
    with pytest.raises(shelves.TableError) as caught:
        tables.rewritten(_page(shelf, mark), shelf)

    assert "\n" not in str(caught.value)
    assert re.search(r"page\.md:3: ", str(caught.value)), caught.value
    assert said in str(caught.value)


@pytest.mark.parametrize("text", ["<!-- table: small", "<!-- source: small -->\ntext\n", "x\n\n<!-- end -->\n"])
def test_a_mark_without_its_other_half_is_refused(shelf: Path, text: str) -> None:
    page = shelf / "page.md"
    page.write_text(text, encoding="utf-8")

    with pytest.raises(shelves.TableError, match=r"page\.md:\d"):
        tables.rewritten(page, shelf)


def test_a_csv_without_its_origin_is_refused(tmp_path: Path) -> None:
    (tmp_path / "small.csv").write_text("# run: r1\n" + CSV, encoding="utf-8")

    with pytest.raises(shelves.TableError, match="no comment # commit"):
        shelves.take_table("small", tmp_path)


def test_check_notices_one_changed_cell_and_writing_mends_it(shelf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = _page(shelf, f"<!-- table: small strategy=random percent=50 {CROSS} -->")
    assert tables.update([page], check=False, folder=shelf) == 0
    assert tables.update([page], check=True, folder=shelf) == 0
    page.write_text(page.read_text(encoding="utf-8").replace("0.50", "0.51"), encoding="utf-8")
    capsys.readouterr()

    assert tables.update([page], check=True, folder=shelf) == 1
    assert re.search(r"page\.md:3: table: small is not what the tables say", capsys.readouterr().err)
    assert "0.51" in page.read_text(encoding="utf-8")

    assert tables.update([page], check=False, folder=shelf) == 0
    assert "0.50" in page.read_text(encoding="utf-8")


def test_the_command_line_says_what_is_wrong_in_one_line(
    shelf: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tables, "pages", lambda: [_page(shelf, "<!-- table: nothing -->")])

    assert tables.main(["--check"]) == 2
    assert re.fullmatch(r"error: .*page\.md:3: .*nothing\.csv does not exist.*\n", capsys.readouterr().err)


# --- collecting from runs ---------------------------------------------------------------------------------------------


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Two runs of a study, and the VQ-VAE that both took."""
    folder = tmp_path / "runs"
    for stage, run in (("study", "20260102-a"), ("study", "20260101-b"), ("train_vqvae", "20260101-v")):
        path = folder / stage / run
        path.mkdir(parents=True)
        inputs = {"train_vqvae": "elsewhere/train_vqvae/20260101-v"} if stage == "study" else {}
        (path / "run.json").write_text(json.dumps({"inputs": inputs, "commit": "0123456789abcdef"}), encoding="utf-8")
        (path / "metrics.json").write_text(json.dumps({"test_psnr": 25.123456789}), encoding="utf-8")
        (path / "curves.csv").write_text(f"measure,run\nkept,{run}\nleft,{run}\n", encoding="utf-8")
    best = {"k1": {"run": "20260101-b"}, "k2": {"run": "20260102-a"}}
    (folder / "study" / "best.json").write_text(json.dumps(best), encoding="utf-8")
    (tmp_path / "sources.yaml").write_text(
        "demo:\n  stage: study\n  command: make demo\n  tables:\n"
        "    demo_curves: {file: curves.csv, from: [study], keep: {measure: [kept]}}\n"
        "    demo_metrics: {file: metrics.json, from: [train_vqvae]}\n",
        encoding="utf-8",
    )
    return folder


def _collect(runs: Path, group: str = "demo", **given: object) -> list[Path]:
    origin = collecting.Origin(runs, **{"run": None, "machine": "2 cores, no GPU", **given})
    return collecting.collect(group, origin, runs.parent / "sources.yaml", runs.parent)


def test_collect_takes_the_newest_run_its_inputs_and_their_origin(runs: Path) -> None:
    files = _collect(runs)

    assert [file.name for file in files] == ["demo_curves.csv", "demo_metrics.csv"]
    curves, metrics = (shelves.take_table(file.stem, runs.parent) for file in files)
    origin = {"run": "20260102-a", "commit": "0123456789ab", "machine": "2 cores, no GPU", "command": "make demo"}
    assert curves.facts == metrics.facts == origin
    assert curves.rows == [{"measure": "kept", "run": "20260102-a"}]
    assert metrics.rows == [{"stage": "train_vqvae", "metric": "test_psnr", "value": 25.1235}]


def test_collect_tells_apart_what_several_stages_wrote(runs: Path) -> None:
    sources = runs.parent / "sources.yaml"
    sources.write_text(sources.read_text(encoding="utf-8").replace("from: [study]", "from: [study, train_vqvae]"))
    _collect(runs)
    rows = shelves.take_table("demo_curves", runs.parent).rows
    assert [(row["stage"], row["run"]) for row in rows] == [("study", "20260102-a"), ("train_vqvae", "20260101-v")]


def test_collect_heeds_a_named_run_and_a_command(runs: Path) -> None:
    _collect(runs, run=runs / "study" / "20260101-b", command="make study")

    found = shelves.take_table("demo_curves", runs.parent)
    assert (found.facts["run"], found.facts["command"]) == ("20260101-b", "make study")
    assert found.rows[0]["run"] == "20260101-b"


def test_collect_says_what_is_missing(runs: Path) -> None:
    with pytest.raises(shelves.TableError, match="dem is not a group"):
        _collect(runs, "dem")
    (runs / "study" / "20260102-a" / "curves.csv").unlink()
    with pytest.raises(shelves.TableError, match=r"curves\.csv does not exist"):
        _collect(runs)


def test_collect_needs_the_machine(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        tables.main(["--collect", "demo"])
    assert "--machine" in capsys.readouterr().err


def test_the_list_of_sources_names_files_that_stages_write() -> None:
    known = yaml.safe_load(collecting.SOURCES.read_text(encoding="utf-8"))
    for group in known.values():
        assert importlib.util.find_spec(module_of(group["stage"]))
        for entry in group["tables"].values():
            assert entry["file"] == "metrics.json" or f'"{entry["file"]}"' in _all_code(), entry


def test_a_group_of_tables_is_there_whole_or_not_collected_yet() -> None:
    known = yaml.safe_load(collecting.SOURCES.read_text(encoding="utf-8"))
    there = {name: [(shelves.TABLES / f"{table}.csv").is_file() for table in known[name]["tables"]] for name in known}
    assert all(all(found) or not any(found) for found in there.values()), there
    assert all(there["demo"]) and all(there["priors"])


# --- the pages of this project ----------------------------------------------------------------------------------------


@pytest.mark.system
def test_every_page_is_what_the_tables_say() -> None:
    assert tables.update(PAGES, check=True) == 0


def test_tables_are_made_without_torch() -> None:
    code = "import runpy, sys; runpy.run_path('docs/tables.py'); sys.exit('torch' in sys.modules)"
    environment = {"PYTHONPATH": str(ROOT), "PATH": ""}
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment).returncode == 0


def test_the_readme_is_a_page() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 160


def test_every_page_is_in_the_list_of_the_readme() -> None:
    listed = set(re.findall(r"\]\(docs/(\w[\w-]*\.md)\)", (ROOT / "README.md").read_text(encoding="utf-8")))
    assert listed == {page.name for page in PAGES} - {"README.md"}


def test_every_table_is_shown_somewhere() -> None:
    shown = {mark.name for page in PAGES for mark in _marks(page)}
    assert {file.stem for file in shelves.TABLES.glob("*.csv")} <= shown


def test_every_key_strategy_and_decoding_is_in_a_table() -> None:
    rows = [line.split("|")[1].strip() for page in PAGES for line in _lines(page) if line.startswith("| `")]
    for key, _ in loading.options(Config):
        assert rows.count(f"`{key}`") == 1, key
    for name in (*STRATEGIES, *DECODINGS):
        assert f"`{name}`" in rows, name


@named
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        assert target.startswith("https://") or (page.parent / target).exists(), target


@named
def test_files_that_are_named_exist(page: Path) -> None:
    known = {file.name for file in CODE} | {"my_strategy.py"}  # the user's own
    for name in re.findall(r"(?<![\w/])((?:[a-z_]+/)*[a-z_0-9]+\.py)\b", page.read_text(encoding="utf-8")):
        assert (ROOT / name).is_file() or ("/" not in name and name in known), name
    for name in re.findall(r"presets/\w+\.yaml|docs/[\w/]+\.\w+|benchmarks/\w+\.\w+", page.read_text(encoding="utf-8")):
        assert (ROOT / name).is_file() or "NAME" in name, name


@named
def test_commands_take_settings_and_targets_that_there_are(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    keys = {key for key, _ in loading.options(Config)}
    for option in re.findall(r"--([a-z_]+(?:\.[a-z_]+)+)", text):
        assert option in (*keys, "section.key") or option.split(".space.")[0] + ".space" in keys, option
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    for target in re.findall(r"(?:^|`)make (\w+)", text, re.MULTILINE):
        assert target in targets, target


@named
def test_tables_that_are_named_are_written_by_the_code(page: Path) -> None:
    for name in re.findall(r"`([\w/.]+\.csv)`", _outside_code(page)):
        suffix = name.split("NAME")[-1].split("/")[-1]
        assert name == "docs/tables/NAME.csv" or f'{suffix}"' in _all_code(), name


#: Decimals that are no results: versions, addresses, constants of a definition.
NO_RESULTS = (r"Python 3\.\d+", r"version \d\.\d", r"127\.0\.0\.1\S*", r"sigma 1\.5", r"10\.\d{4}/\S+")
NUMBER = re.compile(r"(?<![\w.])(\d*\.\d+|\d[\d,]*(?= ?(?:times|ms|dB|nats|s)\b))(?![\d.]*\d)( %| ms)?")


def _strange_numbers(text: str, values: list[float]) -> list[str]:
    """The numbers of a text that no value rounds to."""
    for pattern in NO_RESULTS:
        text = re.sub(pattern, "", text)
    strange = []
    for shown, unit in NUMBER.findall(text):
        digits = len(shown.partition(".")[2])
        factor = {" %": 100, " ms": 1000}.get(unit, 1)
        wanted = float(shown.replace(",", ""))
        if not any(abs(value * factor - wanted) <= 0.5 * 10**-digits * (1 + 1e-9) for value in values):
            strange.append(shown + unit)
    return strange


def test_a_number_that_no_table_has_is_found() -> None:
    text = "With Python 3.11 it is .161, 0.16, 16.1 %, 12 times, 24 ms at 127.0.0.1; not .162 nor 17.1 % nor 13 times."
    assert _strange_numbers(text, [0.1611, 12.4, 0.024]) == [".162", "17.1 %", "13"]


@named
def test_numbers_in_the_text_are_in_the_tables_of_the_page(page: Path) -> None:
    shown = {mark.name for mark in _marks(page) if mark.kind in ("table", "sentence", "source")}
    rows = [row for name in shown for row in shelves.take_table(name).rows]
    values = [value for row in rows for value in row.values() if isinstance(value, int | float)]

    assert _strange_numbers(_by_hand(page), values) == []


def _marks(page: Path) -> list[tables.Mark]:
    return list(tables.marks_of(page, _lines(page)))


def _lines(page: Path) -> list[str]:
    return page.read_text(encoding="utf-8").splitlines()


def _outside_code(page: Path) -> str:
    return re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def _by_hand(page: Path) -> str:
    """What is typed: without code, marks, what stands between them, and where links lead."""
    text = re.sub(r"^<!--.*?^<!-- end -->", "", _outside_code(page), flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"`[^`]*`|\]\([^)]*\)", "", text)


def _all_code() -> str:
    return "\n".join(file.read_text(encoding="utf-8") for file in CODE)
