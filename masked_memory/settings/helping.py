"""What `--help` says: a screen with what is changed most; `--help-all` explains every key."""

import argparse
import textwrap
from collections.abc import Mapping
from typing import Any, ClassVar

from masked_memory.pipeline.commands import command
from masked_memory.settings import loading
from masked_memory.settings.config import Config
from masked_memory.settings.kinds import flatten

COMMON_SECTIONS = ("run", "data")
COLUMNS = 100

#: What an option without a section stands for: a dotted key, or (dotted key, how many values it takes).
Shortcut = str | tuple[str, int]

#: stage -> the settings that are changed most
CHANGED_MOST: dict[str, tuple[str, ...]] = {
    "data_split": ("data.source", "data.image_size", "data.classes", "data.images_per_class", "data.seed"),
    "train_vqvae": ("epochs", "learning_rate", "codebook_size", "hidden", "tune.trials"),
    "vqvae_reconstruction": ("vqvae", "input", "indices", "components", "batch_size"),
    "train_classifier": ("epochs", "degrade", "architecture", "augmentation", "tune.trials"),
    "train_distil": ("epochs", "learning_rate", "dim", "layers", "tune.trials"),
    "reconstruct_masked": ("pictures", "strategies", "percentages", "decodings", "passes"),
    "train_prior": ("kind", "epochs", "condition_on_class", "width", "tune.trials"),
    "train_painter": ("epochs", "learning_rate", "distil", "mask_schedule", "tune.trials"),
    "train_mae": ("epochs", "inputs", "dim", "layers", "tune.trials"),
    "sample": ("mode", "prior", "num_samples", "label", "temperature"),
    "compare_priors": ("pictures", "masks", "percentages", "samples", "draws"),
    "compare_seeds": ("folders", "bootstrap"),
    "compare_bits": ("pictures", "strategies", "percentages", "coding_passes", "pixelcnn"),
}
OTHERS_CHANGE = ("run.dir", "data.source", "data.image_size")


class Once(argparse.Action):
    """Stores a value. Of an option that is typed again with another value, the last one counts; `replaced` has the
    others."""

    replaced: ClassVar[str] = "replaced"

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        before = getattr(namespace, self.dest)
        if before is not None and before != values:
            typed = before if isinstance(before, str) else " ".join(before)
            setattr(namespace, self.replaced, [*getattr(namespace, self.replaced, []), (self.dest, typed)])
        setattr(namespace, self.dest, values)


class ShortHelp(argparse.Action):
    """Print the screen and end."""

    def __init__(self, option_strings: list[str], dest: str, text: str, help: str) -> None:
        super().__init__(option_strings, dest, nargs=0, default=argparse.SUPPRESS, help=help)
        self.text = text

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        print(self.text)
        parser.exit()


def build_parser(
    stage: str, description: str, shortcuts: Mapping[str, Shortcut], resumable: bool = True
) -> argparse.ArgumentParser:
    """One option for each key, with range, sentence and default; --help-all shows the stage's and the common ones."""
    parser = argparse.ArgumentParser(
        prog=command(stage),
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        add_help=False,
        usage=_usage(stage, resumable),
    )
    short = short_help(stage, description, shortcuts, resumable)
    parser.add_argument("-h", "--help", action=ShortHelp, text=short, help="show what is changed most, and end")
    parser.add_argument("--help-all", action="help", help="show this message, with every key, and end")
    parser.add_argument(
        "--config",
        nargs="+",
        action="extend",
        default=[],
        metavar="FILE",
        help="overlays on config.yaml, such as presets/imagenette.yaml",
    )
    if resumable:
        parser.add_argument(
            "--resume", action="store_true", help="go on with the newest interrupted run of these settings"
        )
        parser.add_argument(
            "--dry-run", action="store_true", help="say what would be used and made, and how long it took last time"
        )
    for option, meant in shortcuts.items():
        key, count = (meant, None) if isinstance(meant, str) else meant
        parser.add_argument(
            option, dest=key, nargs=count, action=Once, metavar="VALUE", default=None, help=f"short for --{key}"
        )
    defaults = shipped_defaults()
    sections = sorted(Config.model_fields, key=lambda name: (name != stage, name not in COMMON_SECTIONS))
    for name in sections:
        annotation: Any = Config.model_fields[name].annotation
        shown = name in (stage, *COMMON_SECTIONS)
        group = parser.add_argument_group(name) if shown else parser
        for key, field in loading.options(annotation, f"{name}."):
            default = loading.as_typed(defaults.get(key))
            text = f"{field.description} [{loading.describe_range(field)}; default {default}]".replace("%", "%%")
            group.add_argument(
                f"--{key}",
                dest=key,
                action=Once,
                metavar="VALUE",
                default=None,
                help=text if shown else argparse.SUPPRESS,
            )
    return parser


def options_without_key(parser: argparse.ArgumentParser) -> list[str]:
    """--config, --resume, shortcuts and others that stand for no dotted key of their own."""
    return [option for action in parser._actions for option in action.option_strings if "." not in option]


def _usage(stage: str, resumable: bool) -> str:
    more = " [--resume] [--dry-run]" if resumable else ""
    return f"{command(stage)} [--config FILE ...] [--section.key VALUE ...]{more}"


def short_help(stage: str, description: str, shortcuts: Mapping[str, Shortcut], resumable: bool) -> str:
    """What fits a screen: the description, what is changed most with its value, and the names of all other keys."""
    fields, defaults = dict(loading.options(Config)), shipped_defaults()
    most = [key if key in fields else f"{stage}.{key}" for key in CHANGED_MOST.get(stage, OTHERS_CHANGE)]
    lines = [f"usage: {_usage(stage, resumable)}", "", description.strip(), "", "changed most:"]
    typed = [f"  --{key} {textwrap.shorten(loading.as_typed(defaults[key]), 24, placeholder=' ...')}" for key in most]
    column = max(map(len, typed)) + 2
    for shown, key in zip(typed, most, strict=True):
        sentence = " ".join((fields[key].description or "").split()).partition(". ")[0].removesuffix(".") + "."
        lines += textwrap.wrap(shown.ljust(column) + sentence, COLUMNS, subsequent_indent=" " * column)
    lines += ["", "all keys; --help-all explains them, with ranges and defaults:"]
    for section in dict.fromkeys((stage, *COMMON_SECTIONS)):
        keys = [key.removeprefix(f"{section}.") for key in fields if key.startswith(f"{section}.")]
        if keys:
            lines += textwrap.wrap(f"  --{section}. {' '.join(keys)}", COLUMNS, subsequent_indent=" " * 6)
    if shortcuts:
        lines += textwrap.wrap(f"  short: {' '.join(shortcuts)}", COLUMNS, subsequent_indent=" " * 6)
    return "\n".join(lines)


def shipped_defaults() -> dict[str, Any]:
    """The defaults that help shows: config.yaml's; those that ship when that file cannot be used."""
    try:
        return flatten(loading.load([], {}).model_dump())
    except loading.ConfigError:
        return loading.as_shipped()
