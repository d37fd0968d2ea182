"""What the benchmarks compare is the same thing; how fast it is, they say themselves."""

import argparse
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import published_loop
from benchmarks.published_loop import our_masks, parse_percentages, print_table, published_mask, published_masks
from masked_memory.recall.choosing import Choosing, choose_order
from masked_memory.recall.memory import Memory
from masked_memory.settings.config import Config
from toys import ROOT, fake_indices, fake_split, tiny_distil, tiny_memory

pytestmark = pytest.mark.system

K, SIDE = 8, 4
N = SIDE**2
PERCENTAGES = [0, 10, 50, 90, 100]


@pytest.fixture
def memory() -> Memory:
    """Weights large enough that what the model answers depends on what it sees."""
    return replace(tiny_memory(SIDE, K), distil=tiny_distil(K, N))


def test_the_published_loop_keeps_the_tokens_that_selective_keeps(memory: Memory) -> None:
    tokens = torch.randint(0, K, (6, N))
    masks, seconds = published_masks(memory, tokens, PERCENTAGES)
    assert masks.shape == (5, 6, N) and list(seconds) == PERCENTAGES
    assert 0 < seconds[100] < seconds[0], "each percentage has its own time, and 15 passes take longer than none"
    assert masks.sum(2).tolist() == [[round(percent / 100 * N)] * 6 for percent in PERCENTAGES]
    ours, additive = (
        our_masks(choose_order(name, memory, tokens, torch.Generator(), Choosing()), PERCENTAGES)
        for name in ("selective", "additive")
    )
    assert torch.equal(masks, ours)
    assert not torch.equal(masks, additive), "another rule would be noticed"


@pytest.mark.parametrize(("masked", "passes"), [(N, 0), (N - 1, 0), (N - 4, 3), (0, N - 1)])
def test_the_published_loop_asks_once_for_each_revealed_token_but_the_centre(
    memory: Memory, masked: int, passes: int
) -> None:
    asked: list[int] = []
    memory.distil.distilbert.register_forward_pre_hook(lambda module, inputs: asked.append(1))
    mask = published_mask(memory, torch.randint(0, K, (1, N)), masked)
    assert len(asked) == passes
    assert int(mask.sum()) == masked and bool(mask[0, 10]) == (masked == N)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("50", [50]),
        ("10,20,90", [10, 20, 90]),
        (" 90, 10,10 ", [10, 90]),
        ("0,100", [0, 100]),
        ("every 1", list(range(1, 100))),
        ("every 30", [30, 60, 90]),
        ("every 50", [50]),
    ],
)
def test_percentages_are_a_list_or_a_step(text: str, found: list[int]) -> None:
    assert parse_percentages(text) == found


@pytest.mark.parametrize("text", ["", "ten", "10,,20", "-1,5", "10,101", "every", "every 0", "every 100", "each 5"])
def test_other_percentages_are_refused_with_what_is_expected(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="expected 0 to 100, such as"):
        parse_percentages(text)


def test_the_table_has_the_ratio_to_both_curves(capsys: pytest.CaptureFixture[str]) -> None:
    """6 and 0.75 seconds against 0.5 are 12 and 1.5 times."""
    print_table([6.0, 0.75], 4, [("ours", 0.5, 250)])
    header, loop_a, loop_b, ours = capsys.readouterr().out.splitlines()
    assert loop_a.split()[-2:] == ["4", "6.0000"] and loop_b.split()[-2:] == ["4", "0.7500"]
    assert ours.split() == ["ours", "250", "0.5000", "12.0x", "1.5x"]
    assert len(header) == len(ours)


@pytest.mark.parametrize("bf16", [False, True])
def test_the_comparison_says_what_was_compared(
    bf16: bool, memory: Memory, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The loop runs at the percentages of both curves, ours in the precision of the machine, and the rule is the same
    in float32."""
    split, indices = fake_split(["test"] * 6), fake_indices(6, SIDE, K)
    ours = replace(memory, bf16=bf16)
    monkeypatch.setattr(published_loop, "take_choosers", lambda cfg: (ours, split, indices, "a machine"))
    ratio = published_loop.run(Config(), pictures=2, batched=5, percentages=[25, 50])
    printed = capsys.readouterr().out
    assert ratio > 0
    assert "A: a curve of 2 points, at 25, 50 % forgotten" in printed
    assert "B: a curve of 12 points, at 10, 20, 30, 40, 50, 60, 70, 80, 85, 90, 95, 100 % forgotten" in printed
    assert '"selective", in batches of 5, float32' in printed
    assert ('"selective", in batches of 5, bf16' in printed) == bf16
    assert f'"adaptive", in batches of 5, {"bf16" if bf16 else "float32"}' in printed
    agreements = [line for line in printed.splitlines() if line.startswith("same tokens kept")]
    assert len(agreements) == 1 + bf16, "one line for each precision"
    assert agreements[0].endswith("in float32: 26 of 26 masks"), "2 pictures at 13 percentages, 50 is in both curves"


def test_it_starts_from_the_repository_root_and_says_in_one_line_what_is_missing(tmp_path: Path) -> None:
    command = [sys.executable, "benchmarks/published_loop.py", "--run.dir", str(tmp_path / "runs")]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"PYTHONPATH": ""}, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert "python data_split.py" in done.stderr and len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "runs").exists()
