"""What must not be interrupted half way: calls of databases, whose libraries then print tracebacks of their own, and
may not answer when the end of the run is to be noted."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")  # Windows lacks the last


@contextmanager
def interrupts_wait() -> Iterator[None]:
    """Ctrl-C and requests to end take effect at the end of the block; a second one does not wait."""
    if threading.current_thread() is not threading.main_thread():  # signals do not reach others
        yield
        return
    known = [getattr(signal, name) for name in SIGNALS if hasattr(signal, name)]
    handlers = {number: handler for number in known if callable(handler := signal.getsignal(number))}
    waiting: list[tuple[int, Any]] = []

    def put_back() -> None:
        for number, handler in handlers.items():
            signal.signal(number, handler)

    def note(number: int, frame: Any) -> None:
        waiting.append((number, frame))
        put_back()

    for number in handlers:
        signal.signal(number, note)
    try:
        yield
    finally:
        put_back()
        for number, frame in waiting:
            handlers[number](number, frame)


class Uninterrupted:
    """Stands for another object; interrupts wait while one of its methods runs."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    @classmethod
    def of(cls, inner: Any) -> Any:
        """As if it were the other object, which it is to all who only call it."""
        return cls(inner)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        return _waiting(found) if callable(found) else found


def _waiting(call: Callable[..., Any]) -> Callable[..., Any]:
    def called(*arguments: Any, **named: Any) -> Any:
        with interrupts_wait():
            return call(*arguments, **named)

    return called
