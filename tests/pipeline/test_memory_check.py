"""What a fit takes in memory is counted before it begins, and too much is refused at once."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from masked_memory.pipeline import memory_check as needs
from masked_memory.pipeline import training
from masked_memory.pipeline.files import InputError
from masked_memory.pipeline.machine import Machine
from masked_memory.pipeline.memory_check import TooMuchMemory, check_memory, free_bytes, kept_by_step, left_of_groups
from masked_memory.pipeline.world import Alone
from toys import CPU, ROOT

MACHINE = Machine(CPU, bf16=False, threads=1)


class Linear:
    """Learns one matrix of `width` squared; a step of B rows keeps B * width floats, its input."""

    def __init__(self, width: int, count: int = 1000) -> None:
        self.model = nn.Linear(width, width, bias=False)
        self.count, self.steps, self.width = count, 0, width

    def step(self, rows: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        self.steps += 1
        return {"loss": self.model(torch.ones(len(rows), self.width)).sum()}


def asked(width: int, batch: int, count: int = 1000, least_steps: int = 0) -> tuple[object, SimpleNamespace]:
    def build(section, with_val, share=1.0):
        return Linear(width, count)

    return build, SimpleNamespace(batch_size=batch, least_steps=least_steps)


def test_a_linear_layer_keeps_what_paper_and_pencil_say():
    kept = kept_by_step(Linear(64), MACHINE)
    assert kept.of_each == 64 * 4 and kept.whatever == 0
    assert check_memory(*asked(64, 100), MACHINE) == 3 * 64 * 64 * 4 + 100 * 64 * 4


def test_a_batch_that_does_not_fit_is_refused_with_one_that_does(monkeypatch):
    weights, each = 3 * 64 * 64 * 4, 64 * 4
    monkeypatch.setattr(needs, "free_bytes", lambda machine: weights + 10.5 * each)
    check_memory(*asked(64, 10), MACHINE)
    with pytest.raises(TooMuchMemory, match=r"batch_size 11 needs at least .* GB of memory, .* are free") as refused:
        check_memory(*asked(64, 11), MACHINE)
    assert refused.value.fitting == 10
    build, section = asked(64, 11)
    with pytest.raises(InputError, match=r"^train_toy: batch_size 11 .*; type --train_toy.batch_size 10$"):
        training.check_fit("train_toy", section, build, MACHINE)


def test_no_step_has_more_pictures_than_there_are():
    """Unless an epoch has a least number of steps: it then goes through the pictures more than once."""
    weights, each = 3 * 64 * 64 * 4, 64 * 4
    assert check_memory(*asked(64, 100, count=7), MACHINE) == weights + 7 * each
    assert check_memory(*asked(64, 100, count=7, least_steps=5), MACHINE) == weights + 100 * each


def test_all_processes_go_by_what_is_free_for_the_first(monkeypatch):
    """Or one would refuse what the others begin, and they would wait for it."""
    monkeypatch.setattr(needs, "free_bytes", lambda machine: 1e9)

    class Second(Alone):
        def same(self, value):
            return 100.0 if value == 1e9 else value

    check_memory(*asked(64, 10), MACHINE)
    with pytest.raises(TooMuchMemory):
        check_memory(*asked(64, 10), replace(MACHINE, world=Second()))


@pytest.mark.system
def test_a_model_that_does_not_fit_is_refused_before_it_is_filled(monkeypatch):
    """A large one would take minutes to fill, or end the process."""
    monkeypatch.setattr(needs, "free_bytes", lambda machine: 1e9)
    filled = []
    monkeypatch.setattr(nn.init, "kaiming_uniform_", lambda *args, **kwargs: filled.append(1))
    with pytest.raises(TooMuchMemory, match=r"the model needs more memory than the 1\.0 GB that are free") as refused:
        check_memory(*asked(20_000, 1), MACHINE)
    assert refused.value.fitting == 0 and not filled
    build, section = asked(20_000, 1)
    with pytest.raises(InputError, match=r"type settings of a smaller model \(.*masked_memory train_toy --help-all\)"):
        training.check_fit("train_toy", section, build, MACHINE)


def test_what_cannot_even_be_asked_for_is_refused():
    with pytest.raises(TooMuchMemory, match=r"the model needs more memory than the .* GB that are free"):
        check_memory(*asked(3_000_000, 1), MACHINE)


def test_afterwards_models_of_any_size_can_be_made(monkeypatch):
    monkeypatch.setattr(needs, "free_bytes", lambda machine: 100.0)
    with pytest.raises(TooMuchMemory):
        check_memory(*asked(64, 1), MACHINE)
    assert nn.Linear(64, 64).weight.shape == (64, 64)


@pytest.mark.system
def test_a_limit_of_the_process_counts():
    """`ulimit -d`, as clusters set it."""
    pytest.importorskip("resource", reason="there are no such limits on Windows")
    program = (
        "import resource, torch, psutil; from masked_memory.pipeline.machine import Machine\n"
        "from masked_memory.pipeline.memory_check import free_bytes\n"
        "taken = psutil.Process().memory_info().data\n"
        "resource.setrlimit(resource.RLIMIT_DATA, (taken + 5 * 10**8,) * 2)\n"
        "print(free_bytes(Machine(torch.device('cpu'), False, 1)))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert 4e8 < float(done.stdout) <= 5e8


def test_without_limits_what_is_free_is_the_machines():
    resource = pytest.importorskip("resource", reason="there are no such limits on Windows")
    assert resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY
    assert 1e8 < free_bytes(MACHINE) < 1e14


def test_processes_of_one_machine_share_what_is_free(monkeypatch):
    alone = free_bytes(MACHINE)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert free_bytes(MACHINE) == pytest.approx(alone / 4, rel=0.2)


def group(folder: Path, most: str, used: int = 0, files: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, said in (("max", most), ("current", str(used)), ("stat", f"anon 5\ninactive_file {files}\nslab 3")):
        (folder / f"memory.{name}").write_text(said + "\n")


def test_each_control_group_around_the_process_counts(tmp_path):
    noted, groups = tmp_path / "cgroup", tmp_path / "groups"
    noted.write_text("1:name=systemd:/elsewhere\n0::/outer/middle/inner\n")
    group(groups / "outer", "9000", used=4000, files=1000)
    group(groups / "outer" / "middle", "max", used=4000)
    group(groups / "outer" / "middle" / "inner", "7000", used=6500)
    group(groups / "elsewhere", "10")
    assert sorted(left_of_groups(noted, groups)) == [500, 6000]


def test_a_container_sees_its_own_group_as_the_root(tmp_path):
    noted, groups = tmp_path / "cgroup", tmp_path / "groups"
    noted.write_text("0::/\n")
    group(groups, "3000", used=1000)
    group(tmp_path, "10")  # no control group
    assert left_of_groups(noted, groups) == [2000]


def test_without_control_groups_there_is_no_limit(tmp_path):
    assert left_of_groups(tmp_path / "absent", tmp_path) == []
    (tmp_path / "old").write_text("4:memory:/user.slice\n")  # version 1
    assert left_of_groups(tmp_path / "old", tmp_path / "groups") == []
