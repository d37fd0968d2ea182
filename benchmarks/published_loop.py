"""Choosing what to keep, one picture at a time and in batches: seconds per picture on the same DistilBERT.

Claim: one order for all pictures and percentages, asked for in batches, keeps the tokens that the published loop keeps,
in less time (both in float32). The published study (Fayyaz and colleagues, ICANN 2024) runs its selection for each
picture and each percentage anew, with one forward pass per revealed token, so a curve with more points costs more; one
order serves any number. Here its rule is the one of strategy "selective": start at the centre token, then again and
again reveal the token whose likeliest code is least probable, given those revealed. "adaptive", which does more per
token, is timed beside it.

The published loop runs in float32. Ours runs as in reconstruct_masked.py: in bf16 where the machine has it, in batches
of reconstruct_masked.batch_size; and also in float32, where the rule alone decides and the same tokens are kept. In
bf16 nearly equal probabilities change places, so that part of the masks are others. Both are counted.

Reads the best models of the run folder, writes nothing.

    python benchmarks/published_loop.py
    python benchmarks/published_loop.py --percentages 10,50,90 --pictures 8 --batched 500 --run.dir runs
    python benchmarks/published_loop.py --percentages "every 5"

All options of reconstruct_masked.py work, too: --config, --run.dir, --data.source, ...
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

if __name__ == "__main__":  # started as a file: the project is one folder up
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch
from torch import Tensor

from benchmarks.measured import benchmark_parser
from masked_memory.handoff.memory import take_distil, train_shares
from masked_memory.handoff.split import Split, open_split
from masked_memory.handoff.vqvae import HandedIndices, take_indices, take_vqvae
from masked_memory.models.distilbert import masked_logits
from masked_memory.pipeline.from_settings import configured
from masked_memory.pipeline.machine import Stream, generator, prepare_machine
from masked_memory.pipeline.progress import progress_bar
from masked_memory.pipeline.stage import say
from masked_memory.recall.choosing import Choosing, choose_order
from masked_memory.recall.memory import Memory
from masked_memory.settings.command import stage_main
from masked_memory.settings.config import Config
from masked_memory.stages.masking import mask_first, masked_count

#: Percentages of the figure of the published study.
PUBLISHED_PERCENTAGES = (10, 20, 30, 40, 50, 60, 70, 80, 85, 90, 95, 100)


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


def published_masks(memory: Memory, tokens: Tensor, percentages: Sequence[int]) -> tuple[Tensor, dict[int, float]]:
    """(B, N) -> (percentages, B, N) bool on the CPU, for each picture and each percentage anew; and percentage -> the
    seconds that it took for all B."""
    jobs = [(percent, row) for percent in percentages for row in range(len(tokens))]
    masks, seconds = [], dict.fromkeys(percentages, 0.0)
    for percent, row in progress_bar(jobs, desc="published loop", unit="mask"):
        count = masked_count(percent / 100, memory.tokens)
        mask, took = timed(partial(published_mask, memory, tokens[row : row + 1], count))
        masks.append(mask)
        seconds[percent] += took
    return torch.cat(masks).view(len(percentages), *tokens.shape), seconds


def our_masks(order: Tensor, percentages: Sequence[int]) -> Tensor:
    """(B, N) ranks -> (percentages, B, N) bool: one order for all percentages."""
    return torch.stack([mask_first(order, masked_count(percent / 100, order.shape[1])) for percent in percentages])


def timed(work: Callable[[], Tensor]) -> tuple[Tensor, float]:
    """The result, on the CPU (so that a GPU has finished), and the seconds it took."""
    started = time.perf_counter()
    result = work().cpu()
    return result, time.perf_counter() - started


def parse_percentages(text: str) -> list[int]:
    """Text such as 10,50,90, or every 5 for 5, 10, ... below 100 -> whole numbers from 0 to 100, rising, each once.

    Raises argparse.ArgumentTypeError, which argparse shows to the user.
    """
    every, _, step = text.strip().partition(" ")
    try:
        found = range(int(step), 100, int(step)) if every == "every" else [int(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or min(found) < 0 or max(found) > 100:
        raise argparse.ArgumentTypeError(f'found {text!r}; expected 0 to 100, such as 10,50,90, or "every 5"')
    return sorted(set(found))


def choose_tokens(split: Split, indices: HandedIndices, count: int, seed: int) -> Tensor:
    """(B, N) of `count` test pictures chosen by the seed, or of all when there are less."""
    test = split.positions("test")
    drawn = torch.randperm(len(test), generator=generator(seed, Stream.BENCHMARK_PICTURES))[:count].numpy()
    return indices.tokens(np.sort(test[drawn]))


def take_choosers(cfg: Config) -> tuple[Memory, Split, HandedIndices, str]:
    """The best models of the run folder, choosing in the precision of the machine, and what describes it."""
    machine = prepare_machine(cfg.run, say)
    section, split = cfg.reconstruct_masked, open_split(cfg)
    vqvae = take_vqvae(cfg, section.vqvae, split, machine.device)
    indices = take_indices(cfg, section.indices, split, vqvae)
    distil = take_distil(cfg, section.distil, split, vqvae).model
    shares = train_shares(split, indices, vqvae)
    memory = Memory(vqvae.model, distil, None, shares, machine.device, machine.bf16, section.batch_size)
    return memory, split, indices, machine.describe().split(",")[0]


def run(cfg: Config, pictures: int, batched: int, percentages: Sequence[int], resume: bool = False) -> float:
    """Print the table; returns how many times faster "selective" is in batches. `resume`: there is nothing to."""
    memory, split, indices, machine = take_choosers(cfg)
    exact, precision = replace(memory, bf16=False), "bf16" if memory.bf16 else "float32"
    tokens = choose_tokens(split, indices, batched, cfg.run.seed).to(memory.device)
    few = tokens[:pictures]
    choosing = configured(Choosing, cfg.reconstruct_masked)

    def order(strategy: str, asked: Memory, grids: Tensor) -> Tensor:
        return choose_order(strategy, asked, grids, generator(cfg.run.seed, Stream.ORDERS), choosing)

    for asked in (memory, exact):  # the first calls of all are slow
        order("selective", asked, few[:1])
    both = sorted({*percentages, *PUBLISHED_PERCENTAGES})
    masks, seconds = published_masks(exact, few, both)
    slow = [sum(seconds[p] for p in each) / len(few) for each in (percentages, PUBLISHED_PERCENTAGES)]
    _, alone = timed(lambda: torch.cat([order("selective", exact, grid) for grid in few.split(1)]))
    selective = {"float32": timed(lambda: order("selective", exact, tokens))}
    if memory.bf16:
        selective["bf16"] = timed(lambda: order("selective", memory, tokens))
    _, adaptive = timed(lambda: order("adaptive", memory, tokens))

    say(f"{machine}, {memory.tokens} tokens, {len(memory.codebook)} codes; seconds to choose what to keep")
    for name, each in (("A", percentages), ("B", PUBLISHED_PERCENTAGES)):
        say(f"{name}: a curve of {len(each)} points, at {_in_words(each)} % forgotten")
    batches = f"in batches of {min(memory.batch_size, len(tokens))}"
    ours = [('one order, "selective", picture by picture, float32', alone / len(few), len(few))]
    for kind, (_, took) in selective.items():
        ours.append((f'one order, "selective", {batches}, {kind}', took / len(tokens), len(tokens)))
    ours.append((f'one order, "adaptive", {batches}, {precision}', adaptive / len(tokens), len(tokens)))
    print_table(slow, len(few), ours)
    for kind, (found, _) in selective.items():
        same = (masks == our_masks(found[: len(few)], both)).all(2)
        say(f'same tokens kept, published loop and "selective" in {kind}: {int(same.sum())} of {same.numel()} masks')
    return slow[0] / (selective[precision][1] / len(tokens))


def print_table(slow: Sequence[float], pictures: int, ours: Sequence[tuple[str, float, int]]) -> None:
    """slow: seconds per picture of the published loop at percentages A and B; ours: name, seconds per picture, n."""
    say(f"{'way of choosing':<58}{'n':>5}{'s / picture':>13}{'loop A / it':>13}{'loop B / it':>13}")
    for name, seconds in zip("AB", slow, strict=True):
        say(f"{f'published loop, each of {name} anew, float32':<58}{pictures:>5}{seconds:>13.4f}")
    for name, seconds, count in ours:
        ratios = "".join(f"{f'{each / seconds:.1f}x':>13}" for each in slow)
        say(f"{name:<58}{count:>5}{seconds:>13.4f}{ratios}")


def _in_words(percentages: Sequence[int]) -> str:
    """Runs of three and more are shortened: 1, 2, ..., 99."""
    if len(percentages) > 2 and len(set(np.diff(percentages).tolist())) == 1:
        return f"{percentages[0]}, {percentages[1]}, ..., {percentages[-1]}"
    return ", ".join(map(str, percentages))


def main(argv: Sequence[str] | None = None) -> int:
    parser = benchmark_parser("published_loop", __doc__)
    parser.add_argument("--pictures", type=int, default=3, metavar="N", help="pictures for the published loop [3]")
    parser.add_argument("--batched", type=int, default=250, metavar="N", help="pictures for ours [250]")
    parser.add_argument(
        "--percentages",
        type=parse_percentages,
        default=parse_percentages("every 1"),
        metavar="LIST",
        help='points of the curve: 10,50,90 or "every 5" [every 1: 1 to 99]',
    )
    known, others = parser.parse_known_args(argv)
    if not 1 <= known.pictures <= known.batched:
        parser.error(f"--pictures is {known.pictures}; expected 1 to --batched, {known.batched}")
    measure = partial(run, pictures=known.pictures, batched=known.batched, percentages=known.percentages)
    return stage_main("reconstruct_masked", measure, __doc__ or "", argv=others, resumable=False)


if __name__ == "__main__":
    sys.exit(main())
