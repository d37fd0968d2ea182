"""What has been learnt after so many seconds: both recipes get them, and a learning rate that fits."""

from pathlib import Path

import pytest
import torch
from masked_memory.stages.train_vqvae import VQVAELearner, evaluate

from benchmarks import quality_for_time
from benchmarks.quality_for_time import TEXTBOOK_RATES, batches_for, timed_plan, train_for
from docs.shelf import take_table
from masked_memory.handoff.split import open_split
from masked_memory.pipeline.machine import Machine
from masked_memory.stages import data_split
from toys import CPU, draw_classes, seeded, tiny, words_of


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("quality")
    runs, source = folder / "runs", draw_classes(folder / "pictures")
    data_split.run(tiny(runs, source, run__mlflow=False))
    return runs, source


def test_it_prints_and_saves_a_row_for_each_fit(world: tuple[Path, Path], tmp_path: Path, capsys) -> None:
    words = words_of("train_vqvae", *world)[1:]
    options = ["--seconds", "0.2", "--seeds", "2", "--save", str(tmp_path / "quality.csv")]
    assert quality_for_time.main([*options, *words]) == 0
    table = take_table("quality", tmp_path)
    rows, runs = table.rows, str(world[0])
    assert "--data.source PATH" in table.facts["command"] and runs not in table.facts["command"].split()
    assert [row["recipe"] for row in rows] == ["ours"] * 2 + ["textbook"] * 2
    assert [row["seed"] for row in rows] == [0, 1, 0, 1]
    assert {row["learning_rate"] for row in rows[2:]} <= set(TEXTBOOK_RATES)
    assert all(0 < float(row["psnr"]) < 60 and int(row["steps"]) >= 1 for row in rows)
    assert "perplexity" in capsys.readouterr().out


def test_more_time_is_used_and_helps(world: tuple[Path, Path]) -> None:
    cfg = tiny(*world, run__mlflow=False)
    split, machine, found = open_split(cfg), Machine(CPU, bf16=False, threads=1), []
    for seconds in (0.0, 2.0):
        torch.manual_seed(0)
        learner = VQVAELearner(cfg.train_vqvae, split, machine, with_val=False)
        steps = train_for(seconds, learner, timed_plan(cfg.train_vqvae, 0), machine)
        found.append((steps, evaluate(learner, split.positions("test"))["mse"]))
    assert found[0][0] == 1 < found[1][0] and found[1][1] < found[0][1]


def test_batches_go_on_in_ever_new_orders() -> None:
    drawn = batches_for(7, 3, seeded(0))
    passes = [torch.cat([next(drawn), next(drawn)]) for _ in range(3)]
    assert all(len(set(each.tolist())) == 6 for each in passes)
    assert len({tuple(each.tolist()) for each in passes}) == 3


@pytest.mark.parametrize("words", [["--seconds", "0"], ["--seeds", "0"]])
def test_no_time_is_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        quality_for_time.main(words)
    assert "above 0" in capsys.readouterr().err
