"""The command line of all stages: `python STAGE.py [--config FILE ...] [--section.key VALUE ...] [--resume]`."""

import difflib
import os
import select
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

from pydantic.fields import FieldInfo

from masked_memory.pipeline.commands import command
from masked_memory.settings import loading
from masked_memory.settings.config import OF_THE_SPLIT, READS, Config
from masked_memory.settings.helping import COMMON_SECTIONS, Once, Shortcut, build_parser, options_without_key
from masked_memory.settings.kinds import flatten
from masked_memory.settings.layers import TYPED
from masked_memory.settings.plain_yaml import read_plain
from masked_memory.settings.training import Training

FEWER = "take fewer pictures at once (batch_size, run.memory), a smaller model or smaller pictures"


def stage_main(
    stage: str,
    run: Callable[..., float],
    description: str,
    shortcuts: Mapping[str, Shortcut] | None = None,
    argv: Sequence[str] | None = None,
    resumable: bool = True,
    parallel: bool = False,
) -> int:
    """Parse, run, and turn mistakes into one line each. Returns the exit status: 0, 2 for bad settings or input, 1 for
    a training that diverged, 130 when interrupted, 141 when what reads the output has gone. parallel: several processes
    of torchrun may run it together.

    shortcuts: option without a section -> dotted key, such as {"--input": "vqvae_reconstruction.input"}, or that and
    how many values it takes, such as {"--box": ("reconstruct_masked.own.box", 4)}.
    """
    parser = build_parser(stage, description, shortcuts or {}, resumable)
    known, unknown = parser.parse_known_args(argv)  # ends here for --help, before torch is imported
    from masked_memory.pipeline.loopback import pass_proxies
    from masked_memory.pipeline.world import is_first, processes

    pass_proxies()
    arguments = vars(known)
    twice = arguments.pop(Once.replaced, [])
    overlays, resume = [Path(file) for file in arguments.pop("config")], arguments.pop("resume", False)
    dry_run = {"run.dry_run": True} if arguments.pop("dry_run", False) else {}
    fields = dict(loading.options(Config))
    overrides = {key: _parse_given(given, fields[key]) for key, given in arguments.items() if given is not None}
    try:
        settings = loading.load(
            overlays, overrides | dry_run | _unknown_settings(unknown, stage, options_without_key(parser))
        )
    except loading.ConfigError as error:
        _complain("\n".join(f"error: {problem}" for problem in error.problems), is_first())
        return 2
    settings.noting(replace(settings.typed, stage=stage))
    if settings.run.dry_run and not resumable:
        _complain(
            f"error: run.dry_run is true, but {stage} makes no run of a stage; type --run.dry_run false", is_first()
        )
        return 2
    if processes() > 1 and not parallel:
        _complain(f"error: {stage} runs in one process; type: {command(stage)}", is_first())
        return 2
    for line in what_is_set(settings, stage, twice) if is_first() else ():
        print(line)
    how = _how_to_go_on(stage, sys.argv[1:] if argv is None else argv) if resumable else ""
    return _guarded(run, settings, resume, how)


def what_is_set(settings: Config, stage: str, twice: Sequence[tuple[str, str]] = ()) -> Iterator[str]:
    """A line for each setting that is not as shipped, with who set it, what it replaced, and what follows: that it is
    not searched, that it has no effect, or that another stage reads it. twice: options that were typed before, and
    their values."""
    by, values, shipped = settings.typed.by, flatten(settings.model_dump()), loading.as_shipped()
    mine = [key for key in values if key.split(".")[0] in (stage, *COMMON_SECTIONS) and key != "run.dry_run"]
    left = {f"{key.split('.')[0]}.tune.space" for key in by.kept}  # spaces that keys have left, which have their lines
    for key in mine:
        lost = [f"typed before as {before}" for name, before in twice if name == key]
        if below := by.lost.get(key):
            lost = [f"over {below.origin}, which has {loading.as_typed(below.value)}", *lost]
        if key in left:  # beside what has left it
            values[key] |= {
                one.rpartition(".")[2]: entry for one, entry in by.kept.items() if one.startswith(f"{stage}.")
            }
        if values[key] != shipped[key] or lost:
            who = [by.origin[key]] if key in by.origin else []
            said = ", ".join([*who, f"{loading.as_typed(shipped[key])} as shipped", *lost])
            yield f"{key} = {loading.as_typed(values[key])} ({said})"
    if lacking := [key for key in by.lacking if key.split(".")[0] in (stage, *COMMON_SECTIONS)]:
        yield f"as shipped, as config.yaml lacks it: {', '.join(lacking)}"
    set_here = [key for key in mine if key in by.set and (by.set[key] == TYPED or values[key] != shipped[key])]
    for why, keys in loading.without_effect(settings, set_here).items():
        yield f"without effect: {', '.join(keys)}, as {why}"
    yield from _searched_or_not(settings, stage)
    read = (stage, *COMMON_SECTIONS, *READS.get(stage, ()))
    others = [key for key in settings.typed.values if key.split(".")[0] not in read]
    others += [key for key in set_here if key in OF_THE_SPLIT and stage != "data_split"]
    if others and (hasattr(settings, stage) or stage == "data_split"):
        yield f"for other stages: {', '.join(others)}"


def _searched_or_not(settings: Config, stage: str) -> Iterator[str]:
    """Of each key that was set and could be searched."""
    by, section = settings.typed.by, getattr(settings, stage, None)
    if not isinstance(section, Training) or not section.tune.trials:
        return
    for key, entry in by.kept.items():
        if key.startswith(f"{stage}."):
            option = f"--{stage}.tune.space.{key.removeprefix(f'{stage}.')} {shlex.quote(loading.as_typed(entry))}"
            yield f"{key} is kept as it is set, tuning does not search it; to search it from there, add {option}"
    for name in section.tune.space:
        if f"{stage}.{name}" in by.set:
            who = by.origin.get(f"{stage}.tune.space.{name}", "config.yaml")
            value = loading.as_typed(getattr(section, name))
            yield f"{stage}.{name} is searched, from {value} on, as tune.space names it ({who})"


def _how_to_go_on(stage: str, typed: Sequence[str]) -> str:
    """What to type after an interrupt, to go on. How torchrun was called is not known here."""
    from masked_memory.pipeline.world import processes

    if processes() > 1:
        return "; type the same command with --resume to go on"
    words = [word for word in typed if word != "--resume"]
    return f"; to go on, type: {command(stage)} {shlex.join([*words, '--resume'])}"


def _unknown_settings(words: list[str], stage: str, plain: list[str]) -> dict[str, Any]:
    """Options that no key has, as settings, so that the schema names the nearest key of each. plain: the options that
    are no keys.

    Raises ConfigError for words that cannot be settings.
    """
    found: dict[str, Any] = {}
    problems = []
    while words:
        option, *words = words
        name, equals, value = option.removeprefix("--").partition("=")
        if not equals and words and not words[0].startswith("--"):
            value, *words = words
        if option.startswith("--") and "." in name:
            found[name] = _parse_value(value)
            continue
        keys = [key for key, _ in loading.options(Config) if key.endswith(f".{name}")]
        keys.sort(key=lambda key: not key.startswith(f"{stage}."))
        alike = difflib.get_close_matches(option, plain, n=1, cutoff=0.7) or [f"--{key}" for key in keys]
        hint = f"did you mean {alike[0]}?" if alike else "expected --section.key VALUE, see --help-all"
        problems.append(f"{option} is not an option; {hint}")
    if problems:
        raise loading.ConfigError(problems)
    return found


def _guarded(run: Callable[..., float], settings: Config, resume: bool, how: str) -> int:
    """how: a run that is interrupted can go on, in words; empty where it cannot."""
    from masked_memory.pipeline.engine import TrainingDiverged
    from masked_memory.pipeline.files import DISK_ERRORS, InputError, cannot_write, one_line
    from masked_memory.pipeline.memory_check import is_out_of_memory
    from masked_memory.pipeline.world import (
        EndedElsewhere,
        OnlyAsked,
        is_first,
        is_loss_of_another,
        leave_world,
        processes,
        says_the_end,
    )

    gone = f"error: another process of this run is gone, or torchrun was stopped{how}"
    try:
        with _kills_as_interrupts():
            run(settings, resume=resume)
            sys.stdout.flush()
    except (InputError, FileNotFoundError) as error:
        _complain(f"error: {one_line(str(error))}", is_first())
        return leave_world(2)
    except BrokenPipeError:
        gone_streams = [stream for stream in (sys.stdout, sys.stderr) if _has_no_reader(stream)]
        if not gone_streams:  # another pipe of the program
            raise
        _turn_off(gone_streams)
        _complain(f"what read the output is gone{how}", is_first())
        return leave_world(141)  # as a shell says of a program that ended by SIGPIPE
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        _complain(f"error: {one_line(str(cannot_write(Path(error.filename or settings.run.dir), error)))}", is_first())
        return leave_world(2)
    except TrainingDiverged as error:
        _complain(f"error: {error}", is_first())
        return leave_world(1)
    except EndedElsewhere:
        return leave_world(2)
    except OnlyAsked:
        return leave_world(0)
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            _complain(f"error: out of memory; {FEWER}")
            return leave_world(2)
        if not isinstance(error, RuntimeError) or not is_loss_of_another(error):
            raise
        _complain(gone, says_the_end())
        return leave_world(1)
    except KeyboardInterrupt as error:
        stopped = processes() > 1 and isinstance(error, Killed)  # torchrun does so when another has ended
        _complain(gone if stopped else f"interrupted{how}", says_the_end() if stopped else is_first())
        return leave_world(143 if isinstance(error, Killed) else 130)
    return leave_world(0)


def _has_no_reader(stream: TextIO) -> bool:
    """Whether what read it has gone. Where that cannot be asked, on Windows, it counts as gone."""
    if not hasattr(select, "poll"):
        return True
    asked = select.poll()
    asked.register(stream.fileno(), select.POLLOUT)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in asked.poll(0))


def _turn_off(streams: list[TextIO]) -> None:
    """Nothing is written at the end of the process either, where it could only fail."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in streams:
        os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


class Killed(KeyboardInterrupt):
    """The process was asked to end by a plain kill, or its terminal was closed."""


@contextmanager
def _kills_as_interrupts() -> Iterator[None]:
    """SIGTERM and SIGHUP raise Killed, so that the run is noted as killed; a second one ends the process at once."""
    names = [name for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {name: signal.getsignal(getattr(signal, name)) for name in names}

    def end(number: int, frame: Any) -> None:
        for name in names:
            signal.signal(getattr(signal, name), signal.SIG_DFL)
        raise Killed(signal.Signals(number).name)

    for name in names:
        if before[name] is not signal.SIG_IGN:  # nohup ignores SIGHUP
            signal.signal(getattr(signal, name), end)
    try:
        yield
    finally:
        for name, handler in before.items():
            if handler is not None:  # one that was not set by Python cannot be put back
                signal.signal(getattr(signal, name), handler)


def _complain(message: str, aloud: bool = True) -> None:
    if aloud:
        print(message, file=sys.stderr)


def _parse_given(given: str | list[str], field: FieldInfo) -> Any:
    """One value, or the values of an option that takes several. Where text is wanted, what YAML reads as something else
    stays as it was typed: a class 01, a folder 2024."""
    if not isinstance(given, str):
        return [_parse_value(text) for text in given]
    value = _parse_value(given)
    wants_text = loading.describe_range(field) in ("text", "text or null")
    return value if not wants_text or value is None or isinstance(value, str) else given


def _parse_value(text: str) -> Any:
    """A command-line value as YAML: 3, 1e-3, true, null, [10, 50], {low: 1, high: 2}; what is none is text."""
    try:
        return read_plain(text) if text.strip() else text
    except ValueError:
        return text
