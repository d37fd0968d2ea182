"""Generators known by their numbers, and devices that are not there."""

import pytest
import torch

from pipeline.machine import generator, prepare_machine


def test_a_generator_is_known_by_all_its_numbers() -> None:
    def first(*numbers: int) -> int:
        return int(torch.randint(2**40, (1,), generator=generator(*numbers)))

    numbers = [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (0, 2), (2**31 - 1, 3), (0, 1, 5), (1, 0, 5), (1, 0, 6)]
    assert len({first(*n) for n in numbers}) == len(numbers)
    assert [first(*n) for n in numbers] == [first(*n) for n in numbers]


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_gpu_that_is_not_there_is_refused_with_what_is_there() -> None:
    from pipeline.files import InputError

    deterministic, threads = torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()
    try:
        with pytest.raises(InputError, match=r"run\.device is cuda, but this machine has: .*cpu"):
            prepare_machine("cuda", "fp32", 1)
    finally:
        torch.use_deterministic_algorithms(deterministic)
        torch.set_num_threads(threads)
