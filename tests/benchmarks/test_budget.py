"""What a training would take: what is counted, and what follows from it."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from benchmarks import budget
from benchmarks.budget import Counted, GPUs, budget_rows, count_step
from docs.shelf import take_table

SMALL = """
data: {image_size: 16}
train_vqvae: {hidden: 16, residual_blocks: 1, codebook_size: 16, code_dim: 8, epochs: 4, batch_size: 8}
train_distil: {dim: 16, layers: 1, heads: 2, epochs: 2, batch_size: 8}
"""


def test_operations_and_kept_bytes_of_a_linear_layer_are_those_of_paper_and_pencil() -> None:
    """100 x 50 weights: 2 * 100 * 50 operations forward, and as many for the gradient of the weights; what is kept is
    the input in bf16, and what the sum over squares needs."""
    model = nn.Linear(100, 50, bias=False)

    def loss_of(pictures: int) -> Tensor:
        return model(torch.ones(pictures, 100)).square().sum()

    found = count_step(model, loss_of, "adamw", 1e-3)
    assert found.operations == 2 * (2 * 100 * 50)
    assert found.kept_bytes == pytest.approx(2 * 100 + 2 * 50, rel=0.8)
    assert found.fixed_bytes >= 4 * 5000 * 4  # weights, gradients, two moments


def test_hours_memory_and_cost_follow_from_what_was_counted() -> None:
    step, given = Counted(2e9, 1e6, 3e9), GPUs(1e12, 0.5, 0.8, 2.4)
    one, eight = budget_rows("x", step, 100, 300_000, 9e5, [1, 8], given)
    assert one == ["x", "1", "100", "2", "3.1", "3", "1", "2.4"]  # 9e5 * 2e9 / (1e12 * 0.5) = 3,600 s
    assert eight == ["x", "8", "100", "2", "3.1", "3", "0.156", "3"]  # 1 / (8 * 0.8) hours, 1.25 of a GPU


def test_each_stage_and_number_has_a_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "small.yaml").write_text(SMALL, encoding="utf-8")
    words = ["--config", str(tmp_path / "small.yaml"), "--pictures", "1000", "--peak", "1e-6", "--share", "0.5"]
    assert budget.main([*words, "--gpus", "1", "2", "--price", "3", "--save", str(tmp_path / "budget.csv")]) == 0
    rows = take_table("budget", tmp_path).rows
    assert [(row["stage"], row["gpus"]) for row in rows] == [
        ("train_vqvae", 1), ("train_vqvae", 2), ("train_distil", 1), ("train_distil", 2),
    ]  # fmt: skip
    assert all(row["hours"] > 0 and row["cost"] > 0 for row in rows) and "gigabytes_of_a_gpu" in capsys.readouterr().out


def test_settings_that_cannot_be_used_are_said_in_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert budget.main(["--config", "nowhere.yaml", "--peak", "1", "--share", "1"]) == 2
    assert capsys.readouterr().err.startswith("error: config file nowhere.yaml does not exist")
