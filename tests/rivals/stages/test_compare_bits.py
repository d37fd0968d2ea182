"""compare_bits.py: both tables, the same numbers again, with and without a PixelCNN, and what does not fit."""

from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from masked_memory.pipeline.files import InputError, read_csv, read_json
from masked_memory.rivals import compare_bits
from masked_memory.rivals.measuring.bits import BITS_HEADER
from masked_memory.rivals.measuring.coded import ALL_TOKENS
from masked_memory.rivals.measuring.envelope import ENVELOPE_HEADER
from masked_memory.rivals.measuring.formats import NAMES
from masked_memory.settings.compare_bits import CompareBitsSection
from masked_memory.settings.config import Config
from masked_memory.stages import train_classifier
from toys import QUICK_TUNE, Counted, Made, Reads, copied, newest, prior_settings, run_folders, undrawn

pytestmark = pytest.mark.system

QUICK_BITS: dict[str, Any] = {
    "strategies": ["random", "selective", "adaptive"], "percentages": [50, 100], "coding_passes": 2, "batch_size": 4,
    "bootstrap": 100, "pictures": 5,
}  # fmt: skip


class Weighed(NamedTuple):
    """A comparison with the untold PixelCNN of `made`, in a folder of its own."""

    made: Made
    cfg: Config
    folder: Path


@pytest.fixture(scope="module")
def weighed(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Weighed:
    stages = [folder.name for folder in made.runs.iterdir() if folder.is_dir()]
    mine = made._replace(runs=copied(made.runs, tmp_path_factory.mktemp("weighed") / "runs", *stages))
    train_classifier.run(prior_settings(mine.runs, mine.source, train_classifier={"epochs": 1, "tune": QUICK_TUNE}))
    cfg = prior_settings(mine.runs, mine.source, compare_bits=QUICK_BITS)
    compare_bits.run(cfg)
    return Weighed(mine, cfg, newest(mine.runs, "compare_bits"))


def settings_of(rows: list[dict[str, str]], method: str) -> list[str]:
    return [row["setting"] for row in rows if row["method"] == method]


def test_all_methods_stand_in_the_table(weighed: Weighed) -> None:
    rows = read_csv(weighed.folder / "bits.csv")
    assert tuple(rows[0]) == BITS_HEADER
    formats = {*NAMES.values(), *(f"{name}, data only" for name in NAMES.values())}
    assert {row["method"] for row in rows} == {
        ALL_TOKENS,
        "random",
        "selective",
        "adaptive",
        "any",
        "fewer codes",
    } | formats
    assert settings_of(rows, ALL_TOKENS) == [
        "fixed length", "frequencies of the codes", "frequencies at the position", "PixelCNN", "DistilBERT",
    ]  # fmt: skip
    assert settings_of(rows, "fewer codes") == [
        f"{size} codes, {how}" for size in (8, 4, 2) for how in ("frequencies", "DistilBERT")
    ]
    assert settings_of(rows, "adaptive") == ["50 % forgotten"] and settings_of(rows, "any") == ["100 % forgotten"]
    for row in rows:
        assert int(row["pictures"]) == 5 and 0 <= float(row["classification_error"]) <= 1
        low, high = (float(row[f"mse_to_picture_{end}"]) for end in ("low", "high"))
        assert 0 < low <= float(row["mse_to_picture"]) <= high < 1
        assert (row["ideal_bits"] == "") == (row["method"] in formats)
        assert (row["position_bits"] != "") == (row["setting"].endswith("forgotten"))


def test_bits_are_whole_bytes_near_those_of_an_ideal_coder(weighed: Weighed) -> None:
    for row in read_csv(weighed.folder / "bits.csv"):
        total = float(row["bits"]) * 5
        assert total == pytest.approx(8 * round(total / 8), abs=0.01), "five streams of whole bytes"
        if row["ideal_bits"]:
            assert float(row["ideal_bits"]) - 1 < float(row["bits"]) < float(row["ideal_bits"]) + 9


def test_the_envelope_is_made_of_settings_of_the_table(weighed: Weighed) -> None:
    rows = {(row["method"], row["setting"]): row for row in read_csv(weighed.folder / "bits.csv")}
    envelope = read_csv(weighed.folder / "envelope.csv")
    assert tuple(envelope[0]) == ENVELOPE_HEADER
    for measure in ("mse_to_picture", "classification_error"):
        mine = [row for row in envelope if row["measure"] == measure]
        assert float(mine[0]["from_bits"]) == 0 and mine[-1]["to_bits"] == ""
        for row, following in pairwise(mine):
            assert row["to_bits"] == following["from_bits"] and float(row["error"]) > float(following["error"])
        for row in mine:
            known = rows[row["method"], row["setting"]]
            assert (known["bits"], known[measure]) == (row["from_bits"], row["error"])


def test_a_run_ends_with_its_figure_its_inputs_and_its_metrics(weighed: Weighed) -> None:
    record = read_json(weighed.folder / "run.json")
    assert record["status"] == "finished" and record["inputs"]["pixelcnn"] == weighed.made.named("pixelcnn")
    assert [file.stem for file in (weighed.folder / "figures").glob("*.png")] == ["bits"]
    metrics = read_json(weighed.folder / "metrics.json")
    (fixed,) = (row for row in read_csv(weighed.folder / "bits.csv") if row["setting"] == "fixed length")
    assert metrics["all tokens fixed length bits"] == float(fixed["bits"])
    assert float(fixed["ideal_bits"]) == float(fixed["bits_without_coding"]) == 16 * 4


def test_the_same_settings_give_the_same_tables(weighed: Weighed) -> None:
    with undrawn():
        score = compare_bits.run(weighed.cfg)
    again = newest(weighed.made.runs, "compare_bits")
    assert again != weighed.folder
    for name in compare_bits.FILES:
        assert (again / name).read_bytes() == (weighed.folder / name).read_bytes()
    assert score == read_json(again / "metrics.json")["all tokens DistilBERT bits"]


def test_every_setting_is_read(weighed: Weighed, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = Reads(monkeypatch)
    with undrawn():
        compare_bits.run(weighed.cfg)
    assert {("CompareBitsSection", name) for name in CompareBitsSection.model_fields} - reads.seen == set()


def run_with(weighed: Weighed, **changes: Any) -> Path:
    section = QUICK_BITS | {"strategies": ["random"], "percentages": [50]} | changes
    with undrawn():
        compare_bits.run(prior_settings(weighed.made.runs, weighed.made.source, compare_bits=section))
    return newest(weighed.made.runs, "compare_bits")


def test_without_a_pixelcnn_the_others_code(weighed: Weighed, capsys: pytest.CaptureFixture[str]) -> None:
    rows = read_csv(run_with(weighed, pixelcnn=None) / "bits.csv")
    assert "PixelCNN" not in settings_of(rows, ALL_TOKENS) and "DistilBERT" in settings_of(rows, ALL_TOKENS)
    assert "no PixelCNN" not in capsys.readouterr().out


def test_where_none_is_untold_it_is_said_how_to_have_one(
    weighed: Weighed, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stages = [folder.name for folder in weighed.made.runs.iterdir() if folder.name != "train_prior"]
    runs = copied(weighed.made.runs, tmp_path / "runs", *stages)
    rows = read_csv(run_with(weighed._replace(made=weighed.made._replace(runs=runs))) / "bits.csv")
    assert "PixelCNN" not in settings_of(rows, ALL_TOKENS)
    (said,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("no PixelCNN"))
    assert "told nothing" in said and said.endswith("--train_prior.kind pixelcnn")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"compare_bits__pixelcnn": "pixelcnn by class"},
            "is told class, but one that is told nothing is needed",
        ),
        ({"compare_bits__pixelcnn": "gan"}, "kind is gan, but pixelcnn is needed here"),
        ({"compare_bits__pixelcnn": "nowhere"}, "nowhere is neither a run folder"),
        ({"reconstruct_masked__tell_class": True}, "tell_class is true, but compare_bits tells no class"),
    ],
)
def test_what_does_not_fit_is_one_line_and_leaves_no_run_folder(
    weighed: Weighed, changes: dict[str, Any], message: str
) -> None:
    runs, source = weighed.made[:2]
    for key, value in changes.items():
        if value in ("pixelcnn by class", "gan"):
            changes = changes | {key: weighed.made.named(value)}
    before = run_folders(runs, "compare_bits")
    with pytest.raises(InputError, match=message) as caught:
        compare_bits.run(prior_settings(runs, source, **changes))
    assert "\n" not in str(caught.value) and run_folders(runs, "compare_bits") == before


def test_batches_that_were_measured_before_it_ended_are_not_measured_again(
    weighed: Weighed, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = Counted(monkeypatch, "masked_memory.rivals.measuring.bits.BitsPlan.batch")
    with undrawn():
        compare_bits.run(weighed.cfg)
        every = asked.start_again(ends_at=6)
        with pytest.raises(KeyboardInterrupt):
            compare_bits.run(weighed.cfg)
        asked.start_again()
        compare_bits.run(weighed.cfg, resume=True)
    assert every == 8 and asked.calls == 3, "two batches of four kinds, of which five were done"
    folder = newest(weighed.made.runs, "compare_bits")
    for table in ("bits.csv", "envelope.csv"):
        assert (folder / table).read_bytes() == (weighed.folder / table).read_bytes(), table
    assert not (folder / "last" / "batches").exists()
