"""The command line of all stages: `python STAGE.py [--config FILE ...] [--section.key VALUE ...] [--resume]`."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

import config

COMMON_SECTIONS = ("run", "data")


def stage_main(
    stage: str,
    run: Callable[..., float],
    description: str,
    shortcuts: dict[str, str] | None = None,
    argv: Sequence[str] | None = None,
) -> int:
    """Parse, run, and turn mistakes into one line each. Returns the exit status: 0, 2 for bad settings or input, 1 for
    a training that diverged, 130 when interrupted.

    shortcuts: option without a section -> dotted key, such as {"--input": "vqvae_reconstruction.input"}.
    """
    parser = build_parser(stage, description, shortcuts or {})
    arguments = vars(parser.parse_args(argv))
    overlays, resume = [Path(file) for file in arguments.pop("config")], arguments.pop("resume")
    overrides = {key: _parse_value(text) for key, text in arguments.items() if text is not None}
    try:
        settings = config.load(overlays, overrides)
    except config.ConfigError as error:
        print("\n".join(f"error: {problem}" for problem in error.problems), file=sys.stderr)
        return 2
    for key, value in config.changed_keys(settings).items():
        print(f"{key} = {value} (not config.yaml's)")
    return _guarded(run, settings, resume)


def _guarded(run: Callable[..., float], settings: config.Config, resume: bool) -> int:
    from pipeline.engine import TrainingDiverged
    from pipeline.files import InputError

    try:
        run(settings, resume=resume)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except TrainingDiverged as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; type the same command with --resume to go on", file=sys.stderr)
        return 130
    return 0


def build_parser(stage: str, description: str, shortcuts: dict[str, str]) -> argparse.ArgumentParser:
    """One option for each key, with range, sentence and default; options of the stage and the common ones first."""
    parser = argparse.ArgumentParser(
        prog=f"python {stage}.py",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        usage=f"python {stage}.py [--config FILE ...] [--section.key VALUE ...] [--resume]",
    )
    parser.add_argument(
        "--config",
        nargs="+",
        default=[],
        metavar="FILE",
        help="overlays on config.yaml, such as presets/imagenette.yaml",
    )
    parser.add_argument("--resume", action="store_true", help="go on with an interrupted run of the same settings")
    for option, key in shortcuts.items():
        parser.add_argument(option, dest=key, metavar="PATH", default=None, help=f"short for --{key}")
    defaults = _shipped_defaults()
    sections = sorted(config.Config.model_fields, key=lambda name: (name != stage, name not in COMMON_SECTIONS))
    for name in sections:
        annotation: Any = config.Config.model_fields[name].annotation
        group = parser.add_argument_group(name)
        for key, field in config.options(annotation, f"{name}."):
            text = f"{field.description} [{config.describe_range(field)}; default {defaults.get(key)}]"
            group.add_argument(f"--{key}", dest=key, metavar="VALUE", default=None, help=text.replace("%", "%%"))
    return parser


def _shipped_defaults() -> dict[str, Any]:
    """The defaults that --help shows: config.yaml's; the schema's own when that file cannot be used."""
    try:
        return config.flatten(config.load([], {}).model_dump())
    except config.ConfigError:
        return config.flatten(config.Config().model_dump())


def _parse_value(text: str) -> Any:
    """A command-line value as YAML: 3, 1e-3, true, null, [10, 50], {low: 1, high: 2}."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text
