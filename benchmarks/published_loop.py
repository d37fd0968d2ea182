"""Choosing what to keep, one picture at a time and in batches: seconds per picture on the same DistilBERT.

Claim: one order for all pictures and percentages, asked for in batches, keeps the tokens that the published loop keeps,
in less time. The published study (Fayyaz and colleagues, ICANN 2024) runs its selection for each picture and each
percentage anew, with one forward pass per revealed token. Here its rule is the one of strategy "selective": start at
the centre token, then again and again reveal the token whose likeliest code is least probable, given those revealed.
Both run in float32. "adaptive", which does more per token, is timed beside them.

Reads the best models of the run folder, writes nothing.

    python benchmarks/published_loop.py
    python benchmarks/published_loop.py --pictures 4 --batched 500 --run.dir runs

All options of reconstruct_masked.py work, too: --config, --run.dir, --data.source, ...
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

if __name__ == "__main__":  # started as a file: the project is one folder up
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
from torch import Tensor

from cli import stage_main
from completion import masked_logits
from config import Config
from data_split import Split, open_split
from handoff import HandedIndices, take_distil, take_indices, take_vqvae
from masking import mask_first, masked_count
from pipeline.machine import generator, prepare_machine
from pipeline.progress import progress_bar
from pipeline.stage import say
from recall import Memory, shares_by_position
from selection import Choosing, choose_order


@torch.no_grad()
def published_mask(memory: Memory, tokens: Tensor, masked: int) -> Tensor:
    """(1, N) indices of one picture -> (1, N) bool, True = masked: one forward pass for each token revealed."""
    mask = torch.ones_like(tokens, dtype=torch.bool)
    if masked == memory.tokens:
        return mask
    mask[0, memory.side // 2 * memory.side + memory.side // 2] = False
    while int(mask.sum()) > masked:
        probabilities = masked_logits(memory.distil, tokens, mask).softmax(1)  # (M, K)
        least_sure = probabilities.amax(1).argmin()
        mask[0, mask[0].nonzero()[least_sure]] = False
    return mask


def published_masks(memory: Memory, tokens: Tensor, percentages: Sequence[int]) -> Tensor:
    """(B, N) -> (percentages, B, N) bool: for each picture and each percentage anew."""
    jobs = [(percent, row) for percent in percentages for row in range(len(tokens))]
    masks = [
        published_mask(memory, tokens[row : row + 1], masked_count(percent / 100, memory.tokens))
        for percent, row in progress_bar(jobs, desc="published loop", unit="mask")
    ]
    return torch.cat(masks).view(len(percentages), *tokens.shape)


def our_masks(order: Tensor, percentages: Sequence[int]) -> Tensor:
    """(B, N) ranks -> (percentages, B, N) bool: one order for all percentages."""
    return torch.stack([mask_first(order, masked_count(percent / 100, order.shape[1])) for percent in percentages])


def timed(work: Callable[[], Tensor]) -> tuple[Tensor, float]:
    """The result, on the CPU (so that a GPU has finished), and the seconds it took."""
    started = time.perf_counter()
    result = work().cpu()
    return result, time.perf_counter() - started


def choose_tokens(split: Split, indices: HandedIndices, count: int, seed: int) -> Tensor:
    """(B, N) of `count` test pictures chosen by the seed, or of all when there are less."""
    test = split.positions("test")
    drawn = torch.randperm(len(test), generator=generator(seed, 901))[:count].numpy()
    return indices.tokens(np.sort(test[drawn]))


def take_memory(cfg: Config) -> tuple[Memory, Split, HandedIndices, str]:
    """The best models of the run folder in float32, and what describes the machine."""
    machine = prepare_machine(cfg.run.device, cfg.run.precision, cfg.run.threads, say)
    section, split = cfg.reconstruct_masked, open_split(cfg)
    vqvae = take_vqvae(cfg, section.vqvae, split, machine.device)
    indices = take_indices(cfg, section.indices, split, vqvae)
    _, distil = take_distil(cfg, section.distil, split, vqvae, machine.device)
    shares = shares_by_position(indices.tokens(split.positions("train")), vqvae.model.config.codebook_size)
    memory = Memory(vqvae.model, distil, None, shares.to(machine.device), machine.device, batch_size=section.batch_size)
    return memory, split, indices, machine.describe().split(",")[0]


def run(cfg: Config, pictures: int, batched: int, resume: bool = False) -> float:
    """Print the table; returns how many times faster "selective" is in batches. `resume`: there is nothing to."""
    section = cfg.reconstruct_masked
    memory, split, indices, machine = take_memory(cfg)
    tokens = choose_tokens(split, indices, batched, cfg.run.seed).to(memory.device)
    few = tokens[:pictures]
    choosing = Choosing(section.choosing_passes, section.look_ahead, section.candidates, section.code_share)

    def order(strategy: str, grids: Tensor) -> Tensor:
        return choose_order(strategy, memory, grids, generator(cfg.run.seed), choosing)

    order("selective", few[:1])  # the first call of all is slow for both
    slow_masks, slow = timed(lambda: published_masks(memory, few, section.percentages))
    _, alone = timed(lambda: torch.cat([order("selective", grid) for grid in few.split(1)]))
    selective, fast = timed(lambda: order("selective", tokens))
    _, adaptive = timed(lambda: order("adaptive", tokens))
    slow, alone, fast, adaptive = slow / len(few), alone / len(few), fast / len(tokens), adaptive / len(tokens)
    say(f"{machine}, float32, {memory.tokens} tokens, percentages {section.percentages}")
    say(f"{'way of choosing':<44}{'s / picture':>12}{'ratio':>8}{'n':>6}")
    for name, seconds, count in (
        ("published loop, each percentage anew", slow, len(few)),
        ('one order, picture by picture, "selective"', alone, len(few)),
        ('one order in batches, "selective"', fast, len(tokens)),
        ('one order in batches, "adaptive"', adaptive, len(tokens)),
    ):
        say(f"{name:<44}{seconds:>12.4f}{slow / seconds:>7.1f}x{count:>6}")
    same = (slow_masks == our_masks(selective[: len(few)], section.percentages)).all(2)
    say(f"same rule, same tokens kept: {int(same.sum())} of {same.numel()} masks")
    return slow / fast


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python benchmarks/published_loop.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--pictures", type=int, default=2, metavar="N", help="pictures for the published loop [2]")
    parser.add_argument("--batched", type=int, default=500, metavar="N", help="pictures for ours [500]")
    known, others = parser.parse_known_args(argv)
    if not 1 <= known.pictures <= known.batched:
        parser.error(f"--pictures is {known.pictures}; expected 1 to --batched, {known.batched}")
    measure = partial(run, pictures=known.pictures, batched=known.batched)
    return stage_main("reconstruct_masked", measure, __doc__ or "", argv=others, resumable=False)


if __name__ == "__main__":
    sys.exit(main())
