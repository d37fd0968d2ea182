"""Interrupts that wait for the end of what they would tear."""

import signal
import threading
from collections.abc import Iterator

import pytest

from masked_memory.pipeline.interrupts import Uninterrupted, interrupts_wait


@pytest.fixture(autouse=True)
def handler() -> Iterator[None]:
    """Tests that run in the background are started with Ctrl-C ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def send() -> None:
    signal.raise_signal(signal.SIGINT)


def test_an_interrupt_takes_effect_at_the_end_of_the_block() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt):
        with interrupts_wait():
            send()
            done.append("the rest")
        done.append("what comes after")
    assert done == ["the rest"]


def test_a_second_one_does_not_wait() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), interrupts_wait():
        send()
        done.append("between them")
        send()
        done.append("the rest")
    assert done == ["between them"]


def test_blocks_within_blocks_wait_for_the_outer_one() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), interrupts_wait():
        with interrupts_wait():
            send()
        done.append("the rest of the outer one")
    assert done == ["the rest of the outer one"]


def test_without_an_interrupt_nothing_changes() -> None:
    with interrupts_wait():
        pass
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_error_of_the_block_does_not_swallow_the_interrupt() -> None:
    with pytest.raises(KeyboardInterrupt) as caught, interrupts_wait():
        send()
        raise ValueError("the database is gone")
    assert isinstance(caught.value.__context__, ValueError)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_what_is_ignored_stays_ignored() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with interrupts_wait():
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        send()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_other_threads_run_the_block_as_it_is() -> None:
    """Signals reach the main thread only, and only there handlers can be set."""
    done = []

    def work() -> None:
        with interrupts_wait():
            done.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [signal.default_int_handler]


class Account:
    total = 0

    def move(self, amount: int, *, at_once: bool) -> int:
        send()
        self.total += amount
        return self.total


def test_methods_of_an_uninterrupted_object_run_to_their_end() -> None:
    account = Account()
    standing = Uninterrupted.of(account)
    with pytest.raises(KeyboardInterrupt):
        standing.move(3, at_once=True)
    assert account.total == 3 and standing.total == 3
