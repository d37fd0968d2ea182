"""A web page: a test picture, recalled at any percentage at once, and pictures of your own.

Reads:  the best VQ-VAE, its indices, the DistilBERT and the classifier (as reconstruct_masked.py does), and the curves
        of the newest reconstruct_masked run, where there is one
Writes: nothing; uploads lie in a temporary folder that is removed at the end

    python app.py
    python app.py --config presets/imagenette.yaml --port 7900 --no-browser
    read -rs RECONSTRUCT_PASSWORD; export RECONSTRUCT_PASSWORD; python app.py --host 0.0.0.0

--port NUMBER   port of the page; without it the first free one from 7860
--host ADDRESS  address to listen on, 127.0.0.1 without it: this machine only. Others need a password
--no-browser    do not open the page in a browser

The page starts with the values of reconstruct_masked.own. Models, and how tokens are chosen and filled, are those of
reconstruct_masked (python reconstruct_masked.py --help-all). It works without a network and reports to nobody. The
password is read from the environment (RECONSTRUCT_PASSWORD) and asked for by the browser, with any user name. It can
also be used by program, see "Use via API" on the page.
"""

import argparse
import ipaddress
import os
import signal
import sys
import tempfile
import threading
import webbrowser
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from masked_memory.handoff.memory import HandedMemory, take_memory
from masked_memory.handoff.shipped import lend
from masked_memory.handoff.split import open_split
from masked_memory.own_picture.completing import request_of
from masked_memory.page.building import TITLE, build_page, stay_offline
from masked_memory.page.drawing import STYLE
from masked_memory.page.guard import MOST_UPLOADED, Gate, Guard, is_local
from masked_memory.page.opening import Opening, example_pictures, newest_study
from masked_memory.pipeline.files import InputError
from masked_memory.pipeline.loopback import pass_proxies, read_port
from masked_memory.pipeline.machine import prepare_machine
from masked_memory.pipeline.stage import say
from masked_memory.settings.command import stage_main
from masked_memory.settings.config import Config
from masked_memory.sources.pixels import write_png
from masked_memory.sources.stacks import ORDINARY

HOST, PASSWORD = "127.0.0.1", "RECONSTRUCT_PASSWORD"
SHORTEST_PASSWORD = 12
MOST_SESSIONS = 100  # whose state is held

# --- models and examples ----------------------------------------------------------------------------------------------


def load_memory(cfg: Config) -> HandedMemory:
    """What cfg.reconstruct_masked names. Raises InputError when a model is missing or was made for other data."""
    machine, split = prepare_machine(cfg.run, say), open_split(cfg)
    if split.meta["channels"] not in ORDINARY:
        raise InputError(f"the page takes grey and RGB pictures; these have {split.meta['channels']} components")
    return take_memory(cfg, split, machine)


def write_examples(pictures: np.ndarray, folder: Path) -> list[Path]:
    """Pictures (P, H, W, C) uint8 as PNG files."""
    files = [folder / f"example{number}.png" for number in range(len(pictures))]
    for file, picture in zip(files, pictures, strict=True):
        write_png(file, picture)
    return files


# --- serving ----------------------------------------------------------------------------------------------------------


def serve(page: Any, port: int | None, gate: Gate) -> str:
    """Serve in the background to those who pass the gate; returns the address. Raises InputError for a taken port and
    for an address that is not this machine's."""
    from fastapi.middleware import Middleware

    pass_proxies()  # gradio asks its own page whether it is there
    try:
        _, url, _ = page.launch(
            server_name=gate.host,
            server_port=port,
            share=False,
            ssr_mode=False,
            mcp_server=False,
            pwa=False,
            enable_monitoring=False,
            run_history=False,
            prevent_thread_lock=True,
            quiet=True,
            footer_links=["api"],
            css=STYLE,
            max_file_size=MOST_UPLOADED,
            state_session_capacity=MOST_SESSIONS,
            app_kwargs={"middleware": [Middleware(Guard, gate=gate)]},
        )
    except OSError as error:
        taken = f"--port {port} is taken" if port else "no port from 7860 on is free"
        where = "" if gate.host == HOST else f", or {gate.host} is no address of this machine"
        raise InputError(f"{taken}{where}; give another with --port NUMBER") from error
    return str(url)


# --- the command ------------------------------------------------------------------------------------------------------


def run_page(cfg: Config, port: int | None, gate: Gate, open_browser: bool, wait: Callable[[], Any]) -> float:
    """Load, serve, and wait until interrupted."""
    stay_offline()
    cfg = lend(cfg)
    handed = load_memory(cfg)
    memory, split = handed.memory, handed.split
    start = request_of(cfg.reconstruct_masked, memory.distil, split.classes, cfg.run.seed)
    opening = Opening(memory, split.classes, example_pictures(split), start)
    studied = newest_study(Path(cfg.run.dir), handed, start.decoding)
    with tempfile.TemporaryDirectory(prefix="reconstruct_masked_") as folder:
        os.environ["GRADIO_TEMP_DIR"] = str(Path(folder) / "uploads")
        page = build_page(opening, write_examples(opening.pictures, Path(folder)), studied)
        url = serve(page, port, gate)
        who = "this machine only" if is_local(gate.host) else f"{gate.host}, with the password"
        try:
            say(f"{TITLE}: {url} ({who}; Ctrl-C ends it)")
            if open_browser:
                webbrowser.open(url)
            wait()
        except KeyboardInterrupt:
            say("closed")
        finally:
            page.close(verbose=False)
    return 0.0


def wait_until_stopped() -> None:
    """Ends with KeyboardInterrupt at Ctrl-C, and at a plain kill, which would leave the uploads behind."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    threading.Event().wait()


def read_gate(host: str | None, environment: Mapping[str, str]) -> Gate:
    """Who may come in: this machine without more, others with the password of the environment.

    Raises InputError for what is no address, for other machines without a password, and for a short one.
    """
    host, password = host or HOST, environment.get(PASSWORD)
    try:
        ipaddress.IPv4Address("127.0.0.1" if host == "localhost" else host)
    except ValueError:
        raise InputError(
            f"--host is {host}; expected an IPv4 address: 127.0.0.1 (this machine only) or 0.0.0.0 (everyone)"
        ) from None
    if password is None and not is_local(host):
        raise InputError(
            f"--host {host} lets other machines in, which takes a password; set the environment variable {PASSWORD}"
        )
    if password is not None and len(password) < SHORTEST_PASSWORD:
        found = f"{PASSWORD} has {len(password)} characters"
        raise InputError(f"{found}; expected {SHORTEST_PASSWORD} or more")
    return Gate(host, password)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, usage=argparse.SUPPRESS)
    parser.add_argument("--port")
    parser.add_argument("--host")
    parser.add_argument("--no-browser", action="store_true")
    mine, others = parser.parse_known_args(argv)

    def run(cfg: Config, resume: bool = False) -> float:
        port, gate = read_port(mine.port), read_gate(mine.host, os.environ)
        os.environ.pop(PASSWORD, None)  # not for the browser that is opened, nor for others that start from here
        return run_page(cfg, port, gate, not mine.no_browser, wait_until_stopped)

    return stage_main("app", run, __doc__ or "", argv=others, resumable=False)


if __name__ == "__main__":
    sys.exit(main())
