"""The benchmark of a training step: a row for each recipe and arithmetic, and what it counts."""

from pathlib import Path

import pytest
import torch

from benchmarks import training_step
from docs.shelf import take_table
from masked_memory.stages.vqvae import VQVAEConfig

pytestmark = pytest.mark.system

TINY = {"image_size": 16, "hidden": 16, "codebook_size": 8, "code_dim": 4}


def test_it_prints_and_saves_a_row_for_each_way(tmp_path: Path, capsys) -> None:
    options = {"size": 16, "hidden": 16, "codes": 8, "batch": 2, "rounds": 1, "threads": 1}
    words = [word for key, value in options.items() for word in (f"--{key}", str(value))]
    assert training_step.main([*words, "--save", str(tmp_path / "step.csv")]) == 0
    rows = take_table("step", tmp_path).rows
    assert {row["recipe"] for row in rows} == {"textbook", "ours"}
    assert rows[0]["recipe"] == "textbook" and float(rows[0]["times_textbook"]) == 1
    assert all(float(row["pictures_per_second"]) > 0 for row in rows)
    assert "times_textbook" in capsys.readouterr().out


def test_both_recipes_learn_the_pictures_that_lie_ready() -> None:
    """A rival that did not train would be fast for nothing."""
    pictures = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
    textbook = VQVAEConfig(**TINY, stem="strided", codebook_update="gradient", data_init=False, restart_share=0)
    for recipe, config in (("textbook", textbook), ("ours", VQVAEConfig(**TINY))):
        way = training_step.make_way(recipe, False, config, pictures)
        losses = [float(way.step()) for _ in range(30)]
        assert losses[-1] < losses[0], recipe
