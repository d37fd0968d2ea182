"""Every way of the GPU benchmark, tried small on the CPU."""

from pathlib import Path

import pytest
import torch

from benchmarks import gpu
from benchmarks.gpu import TINY, make_step, matrix_peak
from docs.shelf import take_table
from masked_memory.pipeline.machine import Machine
from toys import CPU

pytestmark = pytest.mark.system

MACHINE = Machine(CPU, bf16=False, threads=1)


def test_it_prints_and_saves_a_row_for_each_way(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--run.device", "cpu", "--tiny", "--rounds", "1", "--steps", "1", "--save", str(tmp_path / "gpu.csv")]
    assert gpu.main(words) == 0
    rows = take_table("gpu", tmp_path).rows
    assert [(row["model"], row["recipe"]) for row in rows] == [
        ("VQ-VAE", "eager float32"), ("VQ-VAE", "as shipped"), ("VQ-VAE", "textbook, eager float32"),
        ("DistilBERT", "eager float32"), ("DistilBERT", "as shipped"),
    ]  # fmt: skip
    assert all(row["pictures_per_second"] > 0 and row["share_of_peak"] > 0 for row in rows)
    assert {row["times_eager_float32"] for row in rows if row["recipe"] == "eager float32"} == {1}
    assert "times_eager_float32" in capsys.readouterr().out


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_without_a_gpu_it_says_so_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main([]) == 2
    assert capsys.readouterr().err.startswith("error: run.device is cuda, but this machine has: cpu")


def test_operations_of_a_step_grow_with_the_batch() -> None:
    for task in TINY:
        few = make_step(task, "eager float32", MACHINE, compiled=False).operations
        many = make_step(task.__class__(task.model, task.size, 2 * task.batch, task.hidden, task.codes),
                         "eager float32", MACHINE, compiled=False).operations  # fmt: skip
        assert 1.7 * few < many < 2.3 * few, task


def test_the_peak_is_that_of_a_product() -> None:
    assert matrix_peak(False, CPU, 64) > 1e6
