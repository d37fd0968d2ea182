"""Which process does something, noted so that a later one can tell whether it is still there."""

import os
import platform
from collections.abc import Mapping
from typing import Any

import psutil

STARTED_APART = 0.5  # seconds; two processes with one number start further apart


def this_process() -> dict[str, Any]:
    """Its machine, its number there, and when it started, in seconds since the machine did: no clock that is set later
    changes that."""
    return {"host": platform.node(), "pid": os.getpid(), "started": round(_started(psutil.Process()), 2)}


def cores() -> int:
    """Those that this process may run on: fewer than the machine has where a job was given some."""
    asked = getattr(os, "sched_getaffinity", None)  # not on macOS and Windows
    return len(asked(0)) if asked else os.cpu_count() or 1


def is_here(noted: Mapping[str, Any]) -> bool:
    """Whether the process ran on this machine."""
    return noted.get("host") == platform.node()


def is_gone(noted: Mapping[str, Any]) -> bool:
    """Whether the process ran on this machine and has ended. Of other machines nobody can tell."""
    if not is_here(noted):
        return False
    try:
        process = psutil.Process(noted["pid"])
        if process.status() == psutil.STATUS_ZOMBIE:
            return True
        return abs(_started(process) - noted.get("started", _started(process))) > STARTED_APART
    except psutil.NoSuchProcess:
        return True
    except psutil.AccessDenied:
        return False


def _started(process: psutil.Process) -> float:
    return process.create_time() - psutil.boot_time()
