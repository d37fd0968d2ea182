"""Ports of this machine, and the way past proxies to it."""

import os
import socket

import pytest

from masked_memory.pipeline.files import InputError
from masked_memory.pipeline.loopback import listening, pass_proxies

HERE = "127.0.0.1,localhost,::1"


@pytest.mark.parametrize(
    ("lower", "upper", "then_lower", "then_upper"),
    [
        (None, None, HERE, HERE),
        (None, "corp.example, .local", f"corp.example,.local,{HERE}", f"corp.example,.local,{HERE}"),
        ("corp.example", None, f"corp.example,{HERE}", f"corp.example,{HERE}"),
        ("a.example", "b.example", f"a.example,{HERE}", f"b.example,{HERE}"),
        ("localhost", None, "localhost,127.0.0.1,::1", "localhost,127.0.0.1,::1"),
        ("*", None, "*", None),
        (None, "*", None, "*"),
    ],
)
def test_names_of_this_machine_join_those_that_are_there(
    lower: str | None, upper: str | None, then_lower: str, then_upper: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (("no_proxy", lower), ("NO_PROXY", upper)):
        monkeypatch.setenv(name, value or "")
        if value is None:
            monkeypatch.delenv(name)
    for _ in range(2):
        pass_proxies()
        assert (os.environ.get("no_proxy"), os.environ.get("NO_PROXY")) == (then_lower, then_upper)


def test_a_taken_port_is_refused_when_asked_for_and_else_passed_over() -> None:
    with listening(None, 20000) as first:
        host, port = first.getsockname()
        assert host == "127.0.0.1"
        with listening(None, port) as next_one:
            assert next_one.getsockname()[1] > port
        with pytest.raises(InputError, match=f"--port {port} is taken, .*; give another with --port NUMBER"):
            listening(port, 20000)
        with socket.create_connection((host, port), timeout=5):
            pass  # it listens already


def test_a_port_that_was_just_given_back_can_be_taken() -> None:
    with listening(None, 20000) as first:
        port = first.getsockname()[1]
        there = socket.create_connection(("127.0.0.1", port), timeout=5)
        first.accept()[0].close()  # this side waits for late packets now
    there.close()
    with listening(port, 20000) as again:
        assert again.getsockname()[1] == port
