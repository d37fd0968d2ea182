"""A large set needs no more memory than a small one: pictures stay on the disk until a step asks for them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from toys import ROOT

pytestmark = pytest.mark.system

#: Trains one epoch on 256 pictures spread over a file of each size; prints the peak after each, in bytes.
EPOCHS = """
import resource, sys
from dataclasses import replace
from pathlib import Path
import numpy as np
import torch
from masked_memory.pipeline.engine import fit
from masked_memory.pipeline.machine import Machine
from masked_memory.settings.train_vqvae import TrainVQVAESection
from toys import fake_split, fit_plan
from masked_memory.stages.train_vqvae import VQVAELearner

torch.set_num_threads(1)
PARTS = ["train"] * 256 + ["val"] * 8
MACHINE = Machine(torch.device("cpu"), bf16=False, threads=1)
SECTION = TrainVQVAESection.model_validate(
    {"hidden": 8, "residual_blocks": 0, "codebook_size": 16, "code_dim": 4, "tune": {"trials": 0}}
)

def peak(file, count):
    images = np.load(file, mmap_mode="r")
    rows = np.linspace(0, count - 1, len(PARTS)).astype(np.int64)
    split = replace(fake_split(PARTS, size=32), images=images, rows=rows)
    plan = fit_plan(epochs=1, horizon=1, patience=1, batch_size=32)
    fit(VQVAELearner(SECTION, split, MACHINE, with_val=False), plan, MACHINE, "epoch")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

for name in sys.argv[1:]:
    file = Path(name)
    print(peak(file, int(file.stem)))
"""
BYTES_OF_A_PICTURE = 32 * 32 * 3
SMALL, LARGE = 1_000, 2 * 1024**3 // BYTES_OF_A_PICTURE


def sparse(folder: Path, count: int) -> Path:
    """A cache of so many black pictures that takes no room on the disk."""
    code = "import sys, numpy as np; np.lib.format.open_memmap(sys.argv[1], 'w+', 'u1', (int(sys.argv[2]), 32, 32, 3))"
    file = folder / f"{count}.npy"
    subprocess.run([sys.executable, "-c", code, str(file), str(count)], check=True)
    return file


@pytest.mark.skipif(sys.platform == "win32", reason="needs resource.getrusage")
def test_an_epoch_over_two_gigabytes_needs_no_more_than_one_over_three_megabytes(tmp_path: Path) -> None:
    files = [sparse(tmp_path, count) for count in (SMALL, LARGE)]
    assert files[1].stat().st_size > 2e9
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    call = [sys.executable, "-c", EPOCHS, *map(str, files)]
    done = subprocess.run(call, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    small, large = map(int, done.stdout.split())
    assert large - small < 300e6, "read as a whole it would be 2.1 GB more"
