"""Several processes of torchrun: they train what one would train with a batch as large as theirs together."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from masked_memory.models.augmentation import augment
from masked_memory.pipeline.draws import Part, for_rows
from masked_memory.pipeline.files import read_json
from masked_memory.pipeline.machine import generator
from masked_memory.pipeline.world import Alone, processes, shared_mean
from masked_memory.stages import data_split
from together import TRAINED, run_stages, settings
from toys import draw_classes, newest, words_of

pytestmark = pytest.mark.system

ROOT = Path(__file__).resolve().parents[2]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}


@dataclass(frozen=True)
class Both:
    """The same stages run by one process with batches of 8 and by two with batches of 4."""

    one: Path
    two: Path
    found: dict[str, Any]  # of `together.check_world`


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Both:
    folder = tmp_path_factory.mktemp("together")
    source = draw_classes(folder / "pictures")
    for name in ("one", "two"):
        data_split.run(settings(folder / name, source, 8))
    words = [ROOT / "tests/together.py", folder / "two", source, 4, folder / "found.json"]
    ended = subprocess.run(
        [*TORCHRUN, *map(str, words)], cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=300
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    run_stages(settings(folder / "one", source, 8))
    return Both(folder / "one", folder / "two", read_json(folder / "found.json"))


def test_what_processes_agree_on(both: Both) -> None:
    found = both.found
    assert found["sum"] == 3 and found["same"] == "from 0"
    assert found["map"] == [[0, 0], [1, 1], [2, 0], [3, 1], [4, 0]], "in order, each a part"


def test_parts_of_a_batch_are_changed_as_the_whole_is(both: Both) -> None:
    pictures = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 1, 4, 4).contiguous()
    assert torch.equal(torch.tensor(both.found["shifted"]), augment(pictures, "shift", generator(0)))


def test_batch_norm_in_parts_is_that_of_the_whole_batch(both: Both) -> None:
    assert both.found["norm"] < 1e-4


def is_counted(name: str) -> bool:
    """Whether a number counts pictures or codes that are right, of which rounding may turn one."""
    return any(word in name for word in ("error", "accuracy", "top1", "top5", "best_epoch"))


@pytest.mark.parametrize("stage", TRAINED)
def test_two_processes_train_what_one_does_with_a_batch_twice_as_large(both: Both, stage: str) -> None:
    """Every number that is logged, within rounding."""
    runs = newest(both.one, stage), newest(both.two, stage)
    logged = [[json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()] for run in runs]
    assert len(logged[0]) == len(logged[1])
    for expected, found in (*zip(*logged, strict=True), [read_json(run / "metrics.json") for run in runs]):
        names = {name for name in expected if "seconds" not in name}
        assert names == {name for name in found if "seconds" not in name}
        close = {name for name in names if not is_counted(name)}
        assert len(close) > 2
        assert {n: found[n] for n in close} == pytest.approx({n: expected[n] for n in close}, rel=5e-3, abs=5e-3)
        counted = names - close - {"best_epoch"}
        assert {n: found[n] for n in counted} == pytest.approx({n: expected[n] for n in counted}, abs=0.35)


def test_their_codebook_is_that_of_one(both: Both) -> None:
    weights = [load_file(newest(runs, "train_vqvae") / "model/model.safetensors") for runs in (both.one, both.two)]
    for name in ("quantizer.codebook", "quantizer.use"):
        torch.testing.assert_close(weights[1][name], weights[0][name], rtol=1e-3, atol=1e-4)


def test_they_leave_one_run_folder_a_stage_and_no_scratch(both: Both) -> None:
    for stage in (*TRAINED, "reconstruct_masked", "vqvae_reconstruction"):
        count = [len(list((runs / stage).glob("*/run.json"))) for runs in (both.one, both.two)]
        assert count[0] == count[1], stage
        assert read_json(newest(both.two, stage) / "run.json")["status"] == "finished"
    assert (newest(both.two, "train_vqvae") / "figures/study_history.png").is_file()


def test_their_study_has_the_cells_of_one(both: Both) -> None:
    """On models that are equal up to rounding a code may fall otherwise, so the numbers are those of other tests."""
    files = [newest(runs, "reconstruct_masked") / "curves.csv" for runs in (both.one, both.two)]
    keys = [[line.split(",")[:4] for line in file.read_text().splitlines()] for file in files]
    assert keys[0] == keys[1] and len(keys[0]) > 100


def ranks_of(launcher: int) -> dict[int, int]:
    """rank -> process id of what torchrun started."""
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    found = {}
    for child in children:
        values = dict(each.partition("=")[::2] for each in Path(f"/proc/{child}/environ").read_text().split("\0"))
        if "RANK" in values:
            found[int(values["RANK"])] = int(child)
    return found


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks for processes in /proc")
def test_a_process_that_is_killed_ends_the_others_and_the_run_goes_on_with_another_number(
    both: Both, tmp_path: Path
) -> None:
    """Killed after the first checkpoint, and resumed by one process."""
    source, runs = both.one.parent / "pictures", tmp_path / "runs"
    data_split.run(settings(runs, source, 4))
    long = {"epochs": 12, "least_steps": 600, "patience": 12, "tune.trials": 0}
    words = words_of("train_vqvae", runs, source)
    words += [word for key, value in long.items() for word in (f"--train_vqvae.{key}", str(value))]
    started = subprocess.Popen(
        [*TORCHRUN, *words], cwd=ROOT, env=ENVIRONMENT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    until = time.monotonic() + 60
    while not list((runs / "train_vqvae").glob("*/last/fit.safetensors")):
        assert time.monotonic() < until and started.poll() is None
        time.sleep(0.05)
    os.kill(ranks_of(started.pid)[1], signal.SIGKILL)
    _, errors = started.communicate(timeout=60)
    assert started.returncode != 0
    said = "error: another process of this run is gone, or torchrun was stopped; type the same command with --resume"
    assert errors.count(said) == 1
    assert "Traceback" not in errors.partition("torch/distributed")[0]
    assert read_json(newest(runs, "train_vqvae") / "run.json")["status"] in ("failed", "killed")
    ended = subprocess.run(
        [sys.executable, *words, "--resume"], cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 0 and "resuming" in ended.stdout, ended.stderr[-2000:]
    assert len(list((runs / "train_vqvae").glob("*/run.json"))) == 1


def test_a_stage_for_one_process_says_so() -> None:
    environment = {**ENVIRONMENT, "WORLD_SIZE": "2", "RANK": "0"}
    ended = subprocess.run(
        [sys.executable, "data_split.py"], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 2
    assert ended.stderr.strip() == "error: data_split runs in one process; type: python data_split.py"


def test_draws_for_rows_are_the_rows_of_draws_for_all() -> None:
    def draw(count: int, draws: torch.Generator) -> torch.Tensor:
        return torch.rand(3, count, generator=draws)

    whole = draw(8, generator(1))
    parts = [for_rows(4, Part(generator(1), rank, 2), draw, dim=1) for rank in range(2)]
    assert torch.equal(torch.cat(parts, dim=1), whole)
    assert torch.equal(for_rows(8, generator(1), draw, dim=1), whole)


def test_one_process_agrees_with_itself() -> None:
    world, values = Alone(), torch.tensor([1.0, 2.0, 6.0])
    assert processes() == 1 and world.rank == 0 and world.size == 1
    assert shared_mean(world, values) == 3 and torch.equal(world.sum(values), values)
    assert list(world.map(lambda item: item + 1, range(3))) == [1, 2, 3]
    assert world.made_by_first(lambda: "made") == "made"
