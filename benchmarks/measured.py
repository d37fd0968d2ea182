"""What benchmarks share: points measured in a process of their own, their memory, and tables on the console."""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from docs.shelf import write_table
from masked_memory.pipeline.machine import Machine, commit


def benchmark_parser(name: str, about: str | None) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(
        prog=f"python benchmarks/{name}.py",
        description=about,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def add_numbers(parser: argparse.ArgumentParser, *options: tuple[str, int, str]) -> None:
    """Whole numbers: name, default, meaning."""
    for name, default, meaning in options:
        parser.add_argument(f"--{name}", type=int, default=default, metavar="N", help=f"{meaning} [{default}]")


def resident_megabytes() -> float:
    """The largest resident memory of this process so far."""
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def seconds_of(work: Callable[[], object], times: int, device: torch.device) -> float:
    """Seconds of each of `times` calls, in the mean, until the device is done."""
    began = time.perf_counter()
    for _ in range(times):
        work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (time.perf_counter() - began) / times


def matrix_peak(bf16: bool, device: torch.device, side: int) -> float:
    """Operations a second of the product of two square matrices, as a product or as a convolution of 1x1, whichever is
    faster: other libraries compute them."""
    kind = torch.bfloat16 if bf16 else torch.float32
    a = torch.randn(side, side, device=device, dtype=kind)
    picture = a.view(1, side, side, 1).to(memory_format=torch.channels_last)
    ways = (lambda: a @ a), (lambda: F.conv2d(picture, a[:, :, None, None]))
    for way in ways:
        seconds_of(way, 3, device)
    return 2 * side**3 / min(seconds_of(way, 5, device) for way in ways for _ in range(3))


def counted_operations(work: Callable[[], object]) -> int:
    """Of convolutions, linear layers and attention, two for a multiplication with its addition, as torch counts."""
    with FlopCounterMode(display=False) as counted:
        work()
    return counted.get_total_flops()


def in_own_process(file: str, arguments: Sequence[str]) -> list[str]:
    """The fields of the last line, comma-separated, that this Python prints for the file."""
    done = subprocess.run([sys.executable, file, *arguments], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(done.returncode)
    return done.stdout.strip().splitlines()[-1].split(",")


def show_columns(header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Columns as wide as they have to be."""
    widths = [max(len(str(row[column])) for row in [header, *rows]) for column in range(len(header))]
    for row in [header, *rows]:
        print("  ".join(str(value).rjust(width) for value, width in zip(row, widths, strict=True)))


def save_table(
    file: Path, header: Sequence[str], rows: Sequence[Sequence[object]], machine: Machine, call: str
) -> None:
    """A CSV as docs/tables/ has them: with commit, machine and what was typed."""
    threads = f"{machine.threads} of {os.cpu_count()} cores"
    gpu = torch.cuda.get_device_name(machine.device) if machine.device.type == "cuda" else "no GPU"
    facts = {"run": "not kept", "commit": commit()[:12], "machine": f"{threads}, {gpu}", "command": call}
    write_table(file, facts, [dict(zip(header, row, strict=True)) for row in rows])
