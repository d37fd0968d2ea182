"""This machine as its own network: no proxy stands before it, and what listens has a port to itself."""

import errno
import os
import socket

from masked_memory.pipeline.files import InputError

LOOPBACK = "127.0.0.1"
PORTS = 100  # that are tried


def pass_proxies() -> None:
    """Ask what runs on this machine without a proxy: its names join NO_PROXY, in both spellings of it."""
    for spelling, other in (("no_proxy", "NO_PROXY"), ("NO_PROXY", "no_proxy")):
        said = os.environ.get(spelling) or os.environ.get(other, "")
        named = [name.strip() for name in said.split(",") if name.strip()]
        if named != ["*"]:  # which means all, when it stands alone
            os.environ[spelling] = ",".join(dict.fromkeys([*named, LOOPBACK, "localhost", "::1"]))


def read_port(text: str | None) -> int | None:
    """Raises InputError for anything but 1 to 65535."""
    if text is None:
        return None
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise InputError(f"--port is {text}; expected a whole number from 1 to 65535")
    return int(text)


def listening(port: int | None, first: int) -> socket.socket:
    """A socket that listens on this machine alone: at the port, or without one at the first that is free from `first`
    on. Raises InputError when it is taken, or all are."""
    for tried in range(first, first + PORTS) if port is None else [port]:
        try:
            return socket.create_server((LOOPBACK, tried))
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise
    taken = f"no port from {first} on is free" if port is None else f"--port {port} is taken, or kept for the system"
    raise InputError(f"{taken}; give another with --port NUMBER")
