"""Two runs of one stage side by side."""

from pathlib import Path

import pytest

from fake_runs import VERSIONS, fake_run
from masked_memory.pipeline.runs import RunFolder
from masked_memory.reporting.comparing import comparable, comparison
from masked_memory.settings.config import Config
from masked_memory.stages import summary
from toys import refused_in_one_line

LONG = "a_very_long_name_of_a_measure_that_takes_more_than_its_column_mse"


@pytest.fixture
def pair(tmp_path: Path) -> tuple[RunFolder, RunFolder]:
    """Two VQ-VAEs that differ in everything that a run can differ in."""
    numbers = {
        "best_epoch": 8,
        "test_psnr": 26.5,
        "test_mse": 0.002,
        "test_perplexity": 170.0,
        LONG: 0.5,
        "odd": float("nan"),
    }
    others = {**numbers, "best_epoch": 9, "test_psnr": 26.0, "test_mse": 0.001, "test_perplexity": 171.5, LONG: 0.25}
    cfg = Config().replace({"train_vqvae": {"epochs": 3, "condition_classes": [f"column_{n}" for n in range(20)]}})
    first = fake_run(tmp_path, "train_vqvae", numbers, inputs={"data_split": "runs/data_split/20260101-000000-aaaa"})
    second = fake_run(
        tmp_path, "train_vqvae", others | {"new": 1.0}, cfg.replace({"train_distil": {"epochs": 2}}),
        inputs={"data_split": "elsewhere/data_split/20260101-000000-bbbb"}, commit="f" * 40,
        versions=VERSIONS | {"torch": "2.15.0"},
    )  # fmt: skip
    return first, second


def test_what_differs_is_told_in_lines_that_fit(tmp_path: Path, pair: tuple[RunFolder, RunFolder]) -> None:
    lines = comparison(*comparable(tmp_path, [str(folder.path) for folder in pair]))
    assert all(len(line) <= 100 or line.strip().startswith(("A ", "B ")) for line in lines)
    cells = [line.split() for line in lines]
    assert ["train_vqvae.epochs", str(Config().train_vqvae.epochs), "3"] in cells
    assert ["data_split", "20260101-000000-aaaa", "20260101-000000-bbbb"] in cells
    assert ["commit", "0123456789ab", "f" * 12] in cells and ["torch", "2.14.1", "2.15.0"] in cells
    assert not [line for line in lines if "python" in line], "equal versions are not listed"
    assert ["test_psnr", "26.5", "26", "-0.5", "A"] in cells and ["test_mse", "0.002", "0.001", "-0.001", "B"] in cells
    assert ["test_perplexity", "170", "171.5", "+1.5"] in cells and ["best_epoch", "8", "9", "+1"] in cells
    assert cells[cells.index([LONG]) + 1] == ["0.5", "0.25", "-0.25", "B"]
    text = "\n".join(lines)
    assert "settings of other stages differ, too: train_distil.epochs" in text
    assert "of 3 with a known direction: A better in 1, B in 2" in text
    assert "only B has 1 more, such as new" in text and "they took other inputs" in text
    assert text.index("test_psnr") < text.index("best_epoch"), "those of the test set first"
    assert "odd" not in text, "nan is equal to nan"


def test_columns_stand_below_each_other(tmp_path: Path, pair: tuple[RunFolder, RunFolder]) -> None:
    lines = comparison(*comparable(tmp_path, [str(folder.path) for folder in pair]))
    head = next(line for line in lines if line.startswith("numbers that differ"))
    row = next(line for line in lines if "test_mse" in line)
    assert head.index("  A ") + len("  A") == row.index("0.002") + len("0.002")
    assert head.index("B - A") + len("B - A") == row.index("-0.001") + len("-0.001")


def test_equal_runs_are_called_equal(tmp_path: Path) -> None:
    two = [str(fake_run(tmp_path, "train_mae", {"test_mse": 1.0}).path) for _ in range(2)]
    text = "\n".join(comparison(*comparable(tmp_path, two)))
    assert "settings of train_mae: all the same" in text and "inputs: all the same" in text
    assert "commit and versions: all the same" in text and "numbers: all 2 the same" in text


def test_only_finished_runs_of_one_stage_are_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mae = fake_run(tmp_path, "train_mae", {"test_mse": 1.0}).name
    other = fake_run(tmp_path, "train_mae", {"test_mse": 2.0}).name
    prior = fake_run(tmp_path, "train_prior", {}).name
    killed = fake_run(tmp_path, "train_mae", {}, status="killed").name

    def typed(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["summary.py", *words, "--run.dir", str(tmp_path)])
        return summary.main(), *capsys.readouterr()

    status, out, _ = typed("--compare", mae, other)
    assert status == 0 and "test_mse" in out
    for words, said in (
        (("--compare", mae, prior), ("train_mae", "train_prior", "two runs of one stage")),
        (("--compare", mae, killed), ("not finished", "killed", "--resume")),
        (("--compare", mae, mae), ("the same run",)),
        (("--compare", mae, "20991231"), ("20991231", "expected such as")),
        (("--compare", mae), (mae, "expected two RUNs")),
        (("--compare",), ("nothing", "expected two RUNs")),
        (("--config", "config.yaml", "--compare", mae, other, prior), ("expected two RUNs",)),
        (("--report", "a.html", "b.html"), ("a.html b.html", "at most one FILE")),
        (("--ui", "--sync"), ("--ui and --sync", "one of them")),
        (("--compare", mae, other, "--reprot"), ("--reprot is not an option",)),
    ):
        status, _, err = typed(*words)
        refused_in_one_line(status, err, *said)
