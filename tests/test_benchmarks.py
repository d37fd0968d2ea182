"""What the benchmarks compare is the same thing; how fast it is, they say themselves."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.published_loop import our_masks, published_mask, published_masks
from completion import build_distilbert
from recall import Memory
from selection import Choosing, choose_order
from vqvae import VQVAE, VQVAEConfig

ROOT = Path(__file__).resolve().parent.parent
K, SIDE = 8, 4
N = SIDE**2
PERCENTAGES = [0, 10, 50, 90, 100]


@pytest.fixture
def memory() -> Memory:
    """Weights large enough that what the model answers depends on what it sees."""
    config = VQVAEConfig(image_size=4 * SIDE, hidden=8, residual_blocks=1, codebook_size=K, code_dim=4, data_init=False)
    distil = build_distilbert(K, N, dim=16, layers=2, heads=2, dropout=0.0).eval()
    with torch.no_grad():
        for parameter in distil.distilbert.parameters():
            if parameter.ndim == 2:
                parameter.mul_(15)
    return Memory(VQVAE(config).eval(), distil, None, torch.full((N, K), 1 / K), torch.device("cpu"))


def test_the_published_loop_keeps_the_tokens_that_selective_keeps(memory: Memory) -> None:
    tokens = torch.randint(0, K, (3, N))
    masks = published_masks(memory, tokens, PERCENTAGES)
    assert masks.shape == (5, 3, N)
    assert masks.sum(2).tolist() == [[round(percent / 100 * N)] * 3 for percent in PERCENTAGES]
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


def test_it_starts_from_the_repository_root_and_says_in_one_line_what_is_missing(tmp_path: Path) -> None:
    command = [sys.executable, "benchmarks/published_loop.py", "--run.dir", str(tmp_path / "runs")]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"PYTHONPATH": ""}, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert "python data_split.py" in done.stderr and len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "runs").exists()
