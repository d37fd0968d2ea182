"""Generators known by their numbers, and devices that are not there."""

import re
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch

from masked_memory.pipeline.machine import Stream, commit, epoch_stream, generator, prepare_machine
from masked_memory.settings.common import RunSection
from toys import ROOT


def test_a_generator_is_known_by_all_its_numbers() -> None:
    def first(*numbers: int) -> int:
        return int(torch.randint(2**40, (1,), generator=generator(*numbers)))

    numbers = [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (0, 2), (2**31 - 1, 3), (0, 1, 5), (1, 0, 5), (1, 0, 6)]
    assert len({first(*n) for n in numbers}) == len(numbers)
    assert [first(*n) for n in numbers] == [first(*n) for n in numbers]


def states(numbers: Iterable[tuple[int, ...]]) -> set[bytes]:
    return {generator(*each).get_state().numpy().tobytes() for each in numbers}


def test_no_stream_draws_what_another_stream_or_an_epoch_draws() -> None:
    """Streams may be told apart further by numbers behind, of which 0 counts as none."""
    streams = [(7, stream) for stream in Stream]
    epochs = [(7, epoch_stream(epoch)) for epoch in [*range(1000), *range(1000, 100_000, 997)]]
    assert len(states(streams)) == len(Stream), "among themselves"
    assert len(states(epochs)) == len(epochs)
    assert not states(streams) & states(epochs)


def test_each_stream_is_drawn_from_somewhere_and_no_number_is_typed_where_it_is_drawn() -> None:
    """Of the modules outside of the one that names them."""
    outside = {"tests", "runs", "build", ".venv", ".venv-lowest"}
    files = [file for file in ROOT.rglob("*.py") if not outside & set(file.relative_to(ROOT).parts)]
    text = "\n".join(file.read_text(encoding="utf-8") for file in files)
    assert [stream.name for stream in Stream if f"Stream.{stream.name}" not in text] == []
    assert re.findall(r"(?<!def )\bgenerator\([^()]*seed, *\d+", text) == []


def test_epochs_below_a_hundred_draw_by_their_own_number() -> None:
    """So that fits of before the streams were apart repeat bit by bit."""
    assert [epoch_stream(epoch) for epoch in (0, 1, 99)] == [0, 1, 99]


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_what_the_processor_has_is_asked_on_every_system(monkeypatch: pytest.MonkeyPatch) -> None:
    """/proc is there on Linux only."""
    for found, bf16 in (
        ({"avx512_bf16": True}, True),
        ({"avx512_bf16": False}, False),
        ({"architecture": "arm"}, False),
    ):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=found: found)
        assert prepare_machine(RunSection(device="cpu"), lambda text: None).bf16 is bf16


def test_a_gpu_that_is_not_there_is_refused_with_what_is_there() -> None:
    from masked_memory.pipeline.files import InputError

    deterministic, threads = torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()
    try:
        with pytest.raises(InputError, match=r"run\.device is cuda, but this machine has: .*cpu"):
            prepare_machine(RunSection(device="cuda", precision="fp32", threads=1))
    finally:
        torch.use_deterministic_algorithms(deterministic)
        torch.set_num_threads(threads)


@pytest.mark.parametrize("asked", [True, False])
def test_tf32_is_what_the_setting_says(asked: bool) -> None:
    """Torch itself allows it in convolutions."""
    deterministic, threads = torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()
    try:
        prepare_machine(RunSection(device="cpu", precision="fp32", threads=1, tf32=asked))
        assert torch.backends.cuda.matmul.allow_tf32 == torch.backends.cudnn.allow_tf32 == asked
    finally:
        torch.use_deterministic_algorithms(deterministic)
        torch.set_num_threads(threads)


def test_the_commit_of_a_repository_around_an_installed_package_is_not_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with a .venv within a project of someone's own."""
    package = tmp_path / ".venv" / "masked_memory" / "stages"
    package.mkdir(parents=True)
    monkeypatch.setattr("masked_memory.pipeline.machine.HOME", package)
    monkeypatch.setattr(
        "masked_memory.pipeline.machine._git", lambda root, *arguments: "a commit of the project around it"
    )
    assert commit() == "unknown"
    (package / ".git").touch()
    assert commit().startswith("a commit")
