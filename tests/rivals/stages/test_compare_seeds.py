"""compare_seeds.py: what several training seeds have in common, by hand-made studies and by real ones."""

from pathlib import Path

import numpy as np
import pytest
import torch

from masked_memory.measuring.paired import PER_PICTURE, read_per_picture, write_per_picture
from masked_memory.pipeline.files import InputError, read_csv, read_json, write_json
from masked_memory.pipeline.runs import read_best
from masked_memory.rivals import compare_seeds
from masked_memory.rivals.measuring.seeds import MODELS_HEADER, SEED_PAIRS_HEADER, SEEDS_HEADER
from masked_memory.settings import loading
from masked_memory.settings.config import Config
from toys import STAGES, Ran, Reads, newest, seeded, tiny, undrawn

pytestmark = pytest.mark.system

MSE = "mse_to_reconstruction"


def hand_made(runs: Path, shift: float, positions: list[int], split_hash: str = "abc", psnr: float = 20.0) -> None:
    """A finished study in a runs folder: `adaptive` errs by about `shift`, `random` by one more, `half` by the same."""
    study, vqvae = runs / "reconstruct_masked" / "20260101-000000-aaaa", runs / "train_vqvae" / "20260101-000000-bbbb"
    write_json(study / "run.json", {"status": "finished", "inputs": {"train_vqvae": str(vqvae)}})
    write_json(vqvae / "metrics.json", {"test_psnr": psnr, "epochs": 3})
    noise = torch.randn(len(positions), generator=seeded(0))
    values = {
        ("adaptive", 50, "expected", MSE): shift + noise,
        ("random", 50, "expected", MSE): shift + 1 + noise + 0.1 * torch.randn(len(positions), generator=seeded(1)),
        ("half", 50, "expected", MSE): shift + noise,
    }
    write_per_picture(study / PER_PICTURE, values, np.array(positions), split_hash)


def settings(tmp_path: Path, pattern: str = "seed-*") -> Config:
    return loading.check(
        {
            "run": {"dir": str(tmp_path / "runs"), "mlflow": False, "threads": 1},
            "compare_seeds": {"folders": str(tmp_path / pattern), "bootstrap": 200},
        }
    )


def compared(tmp_path: Path) -> Path:
    with undrawn():
        compare_seeds.run(settings(tmp_path))
    return newest(tmp_path / "runs", "compare_seeds")


def test_seeds_by_hand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, shift in enumerate((1.0, 2.0, 3.0)):
        hand_made(tmp_path / f"seed-{number}", shift, list(range(40)), psnr=20.0 + number)
    folder = compared(tmp_path)
    rows = {row["strategy"]: row for row in read_csv(folder / "seeds.csv")}
    assert tuple(rows["adaptive"]) == SEEDS_HEADER
    noise = float(torch.randn(40, generator=seeded(0)).mean())
    found = {name: float(rows["adaptive"][name]) for name in ("mean", "seed_sd", "lowest", "highest", "seeds")}
    expected = {"mean": 2 + noise, "seed_sd": 1, "lowest": 1 + noise, "highest": 3 + noise, "seeds": 3}
    assert found == pytest.approx(expected, abs=1e-4) and rows["adaptive"]["pictures"] == "40"
    pairs = {row["strategy"]: row for row in read_csv(folder / "paired.csv")}
    assert tuple(pairs["random"]) == SEED_PAIRS_HEADER and set(pairs) == {"random", "half"}
    assert float(pairs["random"]["difference"]) == pytest.approx(1, abs=0.1) and float(pairs["random"]["p"]) < 0.001
    assert pairs["random"]["seeds_agreeing"] == "3" and float(pairs["random"]["seed_sd"]) == pytest.approx(0, abs=1e-5)
    assert float(pairs["half"]["p"]) == 1
    models = {row["metric"]: row for row in read_csv(folder / "models.csv")}
    assert tuple(models["test_psnr"]) == MODELS_HEADER
    assert (models["test_psnr"]["mean"], models["test_psnr"]["seed_sd"]) == ("21", "1")
    assert "no strategy is significantly better than adaptive" in capsys.readouterr().out
    assert read_json(folder / "run.json")["status"] == "finished" and (folder / "figures" / "seeds.png").exists()


def test_a_strategy_that_is_better_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(2):
        runs = tmp_path / f"seed-{number}"
        hand_made(runs, 1.0, list(range(40)))
        (file,) = runs.rglob(PER_PICTURE)
        values, positions, split_hash = read_per_picture(file)
        values["half", 50, "expected", MSE] -= 0.5
        write_per_picture(file, values, positions.numpy(), split_hash)
    compared(tmp_path)
    said = capsys.readouterr().out
    assert f"half is better than adaptive at 50 %: {MSE} -0.5 (p 0.0001 after Holm, 2 of 2 seeds)" in said


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ({"positions": [1, 2, 3], "split_hash": "other"}, "is of split other, .* of abc; expected one"),
        ({"positions": [1, 2, 4]}, "measures other pictures than"),
        (None, "has 1 runs folders with a finished study; expected at least 2; type: make seeds"),
    ],
)
def test_seeds_that_do_not_belong_together_are_refused(tmp_path: Path, second: dict | None, message: str) -> None:
    hand_made(tmp_path / "seed-0", 1.0, [1, 2, 3])
    if second is not None:
        hand_made(tmp_path / "seed-1", 1.0, **second)
    with pytest.raises(InputError, match=message) as caught:
        compare_seeds.run(settings(tmp_path))
    assert "\n" not in str(caught.value) and not (tmp_path / "runs" / "compare_seeds").exists()


def test_an_unfinished_study_is_passed_over(tmp_path: Path) -> None:
    for number in range(2):
        hand_made(tmp_path / f"seed-{number}", 1.0, [1, 2, 3])
    newer = tmp_path / "seed-1" / "reconstruct_masked" / "20270101-000000-aaaa"
    write_json(newer / "run.json", {"status": "failed", "inputs": {}})
    write_per_picture(newer / PER_PICTURE, {}, np.array([9]), "abc")
    assert read_json(compared(tmp_path) / "run.json")["inputs"]["seed-1"].endswith("20260101-000000-aaaa")


def test_two_real_seeds_share_split_and_pictures_and_differ(ran: Ran, tmp_path: Path, monkeypatch) -> None:
    untuned = {f"{stage}__tune": {"trials": 0} for stage in ("train_vqvae", "train_classifier", "train_distil")}
    with undrawn():
        for seed in (0, 1):
            cfg = tiny(tmp_path / f"seed-{seed}", ran.source, run__seed=seed, run__mlflow=False, **untuned)
            for stage in STAGES.values():
                stage.run(cfg)
    reads = Reads(monkeypatch)
    folder = compared(tmp_path)
    assert {("CompareSeedsSection", name) for name in ("folders", "bootstrap")} <= reads.seen
    rows = read_csv(folder / "seeds.csv")
    assert {row["seeds"] for row in rows} == {"2"} and {row["decoding"] for row in rows} == {"expected"}
    assert any(float(row["seed_sd"]) > 0 for row in rows)
    stages = {row["stage"] for row in read_csv(folder / "models.csv")}
    assert {"train_vqvae", "train_distil", "train_classifier"} <= stages
    (best,) = read_best(tmp_path / "runs", "compare_seeds").values()
    assert best["run"] == folder.name
