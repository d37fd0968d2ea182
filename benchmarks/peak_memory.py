"""Peak memory while untrained models of a large grid are asked, each way in a process of its own.

Claim: with pictures of 128x128, 1,024 tokens and K = 8,192 validation, choosing and completion stay under 4 GB on CPU,
as batches are cut to `run.memory`.

"peak" is the largest resident memory of the process, torch and the libraries with it; "at start" what it takes before
it asks. Pictures and grids are noise.

    python benchmarks/peak_memory.py
    python benchmarks/peak_memory.py --size 64 --codes 512 --pictures 50 --memory 0.1 --save peak.csv
"""

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

if __name__ == "__main__":  # started as a file: the project is one folder up
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from masked_memory.stages.train_distil import evaluate
from torch import Tensor

from benchmarks.measured import (
    add_numbers,
    benchmark_parser,
    in_own_process,
    resident_megabytes,
    save_table,
    show_columns,
)
from masked_memory.models.codes import Filling
from masked_memory.models.distilbert import DistilShape, build_distilbert, prepare_for
from masked_memory.models.sizes import painting_bytes
from masked_memory.pipeline.machine import Machine, generator, prepare_machine
from masked_memory.pipeline.metrics import picture_errors, to_unit
from masked_memory.recall.choosing import Choosing, choose_order
from masked_memory.recall.fillers import distil_filler
from masked_memory.recall.hole import dig
from masked_memory.recall.memory import Memory
from masked_memory.settings.common import RunSection
from masked_memory.stages.masking import random_mask
from masked_memory.stages.vqvae import VQVAE, VQVAEConfig

PEAK_HEADER = ("asked", "pictures", "at_once", "seconds", "start_megabytes", "peak_megabytes")


class AskedModels:
    """Models and grids of one size."""

    def __init__(self, size: int, codes: int, pictures: int, machine: Machine) -> None:
        torch.manual_seed(0)
        self.machine, self.size, self.pictures = machine, size, pictures
        self.vqvae = VQVAE(VQVAEConfig(image_size=size, hidden=128, codebook_size=codes)).to(machine.device).eval()
        tokens = self.vqvae.config.tokens
        self.distil = build_distilbert(codes, tokens, DistilShape(192, 4, 4)).eval()
        prepare_for(self.distil, machine.device, training=False)
        self.tokens = torch.randint(0, codes, (pictures, tokens), generator=generator(0))
        shares = torch.full((tokens, codes), 1 / codes, device=machine.device)
        self.memory = Memory(
            self.vqvae, self.distil, None, shares, machine.device, machine.bf16, pictures, machine.memory
        )

    def mask(self) -> Tensor:
        return random_mask(self.pictures, self.memory.tokens, 0.5, generator(1))

    def reconstruct(self) -> int:
        """Encode, paint and measure, as in validation of the VQ-VAE."""
        at_once = self.machine.at_once(painting_bytes(self.vqvae.config), self.pictures)
        for start in range(0, self.pictures, at_once):
            count = min(at_once, self.pictures - start)
            x = torch.rand(count, 3, self.size, self.size, generator=generator(2, start)).to(self.machine.device)
            painted = self.vqvae.decode_indices(self.vqvae.encode_indices(x * 2 - 1))
            picture_errors(to_unit(painted), x)
        return at_once

    def validate(self) -> int:
        """Cross-entropy of masked tokens, as in validation of the DistilBERT."""
        evaluate(self.distil, self.tokens, {50: self.mask()}, self.machine)
        return self.memory.at_once

    def complete(self) -> int:
        """Draw the masked codes and paint them, as in the study."""
        memory, mask = self.memory, self.mask()
        filler = distil_filler(memory, Filling(temperature=1.0))
        hole = dig(self.tokens.to(memory.device), mask.to(memory.device))
        for answer in filler.fill_all(hole, ("sample", "expected"), generator(3)).values():
            memory.paint(answer)
        return memory.at_once

    def choose(self) -> int:
        """What to keep, by the strategy `painted` in four passes."""
        choosing = Choosing(choosing_passes=4)
        choose_order("painted", self.memory, self.tokens.to(self.memory.device), generator(4), choosing)
        return self.memory.at_once


QUESTIONS: dict[str, Callable[[AskedModels], int]] = {
    "reconstruct": AskedModels.reconstruct,
    "validate": AskedModels.validate,
    "complete": AskedModels.complete,
    "choose": AskedModels.choose,
}


@torch.no_grad()
def measure_question(name: str, asked: AskedModels) -> list[object]:
    start, began = resident_megabytes(), time.perf_counter()
    at_once = QUESTIONS[name](asked)
    seconds = time.perf_counter() - began
    return [name, asked.pictures, at_once, f"{seconds:.1f}", f"{start:.0f}", f"{resident_megabytes():.0f}"]


def main(argv: Sequence[str] | None = None) -> int:
    parser = benchmark_parser("peak_memory", __doc__)
    add_numbers(
        parser,
        ("size", 128, "side of the pictures"),
        ("codes", 8192, "K"),
        ("pictures", 250, "how many are asked about"),
        ("threads", 0, "CPU threads, 0: all cores"),
    )
    parser.add_argument("--memory", type=float, default=1.0, metavar="GB", help="run.memory [1]")
    parser.add_argument("--only", choices=QUESTIONS, help="one way, in this process")
    parser.add_argument("--save", type=Path, metavar="FILE", help="also write the table there, as CSV")
    given = parser.parse_args(argv)
    if given.only:
        machine = prepare_machine(RunSection(threads=given.threads, memory=given.memory), lambda text: None)
        print(*measure_question(given.only, AskedModels(given.size, given.codes, given.pictures, machine)), sep=",")
        return 0
    options = [f"--{key}={getattr(given, key)}" for key in ("size", "codes", "pictures", "threads", "memory")]
    rows = [in_own_process(__file__, ["--only", name, *options]) for name in QUESTIONS]
    show_columns(PEAK_HEADER, rows)
    if given.save:
        machine = prepare_machine(RunSection(threads=given.threads), lambda text: None)
        save_table(given.save, PEAK_HEADER, rows, machine, "python benchmarks/peak_memory.py")
    return 0


if __name__ == "__main__":
    sys.exit(main())
