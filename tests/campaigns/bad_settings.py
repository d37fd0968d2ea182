"""Settings that must be refused: every key with values that its own help rules out, and files that are no settings.

What a key takes is read from the words of --help, so that these are checked, too.
"""

import contextlib
import importlib
import io
import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from campaigns.outcomes import Ending, Outcome
from masked_memory.pipeline.commands import module_of
from masked_memory.settings import loading
from masked_memory.settings.config import Config

CAMPAIGN = "bad settings"
COMMON = ("run", "data")
STAGES = (
    "data_split", "train_vqvae", "vqvae_reconstruction", "train_classifier", "train_distil", "reconstruct_masked",
    "train_prior", "train_mae", "train_painter", "sample", "compare_priors", "compare_bits", "compare_seeds",
)  # fmt: skip
SECONDS = 20.0  # a refusal takes less, imports left out

#: name -> content of a file of settings, of which none can be used
FILES: dict[str, bytes] = {
    "a list": b"- run\n- data\n",
    "a text": b"just words\n",
    "a number": b"3\n",
    "a set": b"run: {seed: !!set {a, b}}\n",
    "pairs": b"run: !!pairs [seed: 1, seed: 2]\n",
    "a section that is null": b"run: null\n",
    "a section that is a list": b"run: [seed, 3]\n",
    "a section that is a text": b"train_vqvae: yes please\n",
    "a key twice": b"run: {seed: 1, seed: 2}\n",
    "a section twice": b"run: {seed: 1}\nrun: {seed: 2}\n",
    "an unknown section": b"runs: {seed: 1}\n",
    "an unknown key": b"run: {sead: 1}\n",
    "a key that is a number": b"run: {3: 1}\n",
    "a key that is null": b"run: {null: 1}\n",
    "a key that is a list": b"run: {[1, 2]: 1}\n",
    "not a whole number": b"run: {seed: !!int abc}\n",
    "not a truth": b"run: {mlflow: !!bool maybe}\n",
    "not a date": b"run: {seed: 2024-13-45}\n",
    "a time": b"run: {seed: 2024-01-02 03:04:05}\n",
    "digits without end": b"run: {seed: " + b"9" * 5000 + b"}\n",
    "a number beyond all": b"train_vqvae: {learning_rate: 1e999}\n",
    "not a number": b"train_vqvae: {learning_rate: .nan}\n",
    "nested without end": b"run: " + b"[" * 5000 + b"]" * 5000 + b"\n",
    "not closed": b"run: {seed: 1\n",
    "tabs": b"run:\n\tseed: 1\n",
    "bytes that are no text": bytes(range(128, 256)),
    "NULs": b"run:\0 {seed: 1}\n",
    "UTF-16": "run: {seed: 1}\n".encode("utf-16"),
    "two documents": b"run: {seed: 1}\n---\nrun: {seed: 2}\n",
    "aliases that grow": b"".join(
        b"a%d: &a%d [%s]\n" % (n, n, b", ".join([b"*a%d" % (n - 1)] * 10) if n else b"1") for n in range(9)
    ),
    "a list that holds itself": b"run: &a [*a]\n",
    "an alias to nothing": b"run: *gone\n",
    "a tag that runs code": b"run: !!python/object/apply:os.system ['touch hacked']\n",
    "a tag that names a class": b"run: !!python/name:os.system\n",
    "a tag of its own": b"run: !mine {seed: 1}\n",
    "an environment": b"run: {dir: !!python/object:os.environ {}}\n",
    "a text that is too long": b"run: {dir: '" + b"x" * 100_000 + b"'}\n",
    "half a character": b'run: {dir: "\\ud800"}\n',
    "a NUL in a path": b'run: {dir: "a\\0b"}\n',
    "a bomb of merged keys": b"a: &a {x: 1}\n" + b"run: {" + b"<<: *a, " * 3 + b"seed: 1}\n",
}  # fmt: skip

#: words behind a stage's name, of which none can be used
WORDS: tuple[tuple[str, ...], ...] = (
    ("--number", "1"),
    ("--run.seed",),
    ("--run.sead", "1"),
    ("--run", "{seed: 1}"),
    ("run.seed=1",),
    ("--run.seed=",),
    ("--run.seed", ""),
    ("--run.seed", "1", "2"),
    ("--config",),
    ("--config", "nowhere.yaml"),
    ("--config", "."),
    ("--config", "config.yaml", "nowhere.yaml"),
    ("--run.device", "gpu"),
    ("--run.precision", "FP32"),
    ("--run.memory", "0"),
    ("--run.memory", "1 GB"),
    ("--run.threads", "-1"),
    ("--run.threads", "100000"),
    ("--run.threads", str(2**31)),
    ("--run.tracking_uri", "127.0.0.1:5000"),
    ("--run.tracking_uri", "http://me:secret@127.0.0.1"),
    ("--data.train", "0.9"),
    ("--data.train", "1"),
    ("--data.image_size", "30"),
    ("--data.image_size", "33"),
    ("--data.classes", "1"),
    ("--data.channels", "0"),
    ("--data.source", "s3://me:secret@bucket/a.tar"),
    ("--train_vqvae.tune.space", "{no_such: [1, 2]}"),
    ("--train_vqvae.tune.space", "{hidden: []}"),
    ("--train_vqvae.tune.space", "{hidden: {low: 9, high: 3}}"),
    ("--train_vqvae.tune.space", "{hidden: {low: 0, high: 3}}"),
    ("--train_vqvae.tune.space", "{learning_rate: {low: 0, high: 1, log: true}}"),
    ("--train_vqvae.tune.space", "3"),
    ("--train_distil.tune.space", "{dim: [100], heads: [3]}"),
    ("--train_distil.dim", "100", "--train_distil.heads", "3"),
    ("--train_distil.percentages", "[0]"),
    ("--train_distil.percentages", "[101]"),
    ("--train_distil.percentages", "[]"),
    ("--reconstruct_masked.strategies", "[]"),
    ("--reconstruct_masked.strategies", "[nearest]"),
    ("--reconstruct_masked.decodings", "[mean]"),
)  # fmt: skip


class Typed(NamedTuple):
    """What is typed: a stage and what is behind it; file: the content of an overlay."""

    what: str
    stage: str
    words: tuple[str, ...] = ()
    file: bytes | None = None


def bad_settings(count: int, seed: int = 0) -> list[Typed]:
    """All odd files and words, and so many values that a key does not take as to make `count`, over all stages."""
    draws = random.Random(seed)
    odd = [Typed(f"{name}, as --config", draws.choice(STAGES), file=content) for name, content in FILES.items()]
    odd += [Typed(" ".join(words)[:60], draws.choice(STAGES), words) for words in WORDS]
    draws.shuffle(odd)
    every = [one for stage in STAGES for one in _of_keys(stage)]
    return [*odd[:count], *draws.sample(every, max(0, count - len(odd)))]


def _of_keys(stage: str) -> Iterator[Typed]:
    for name in (*COMMON, stage):
        if name not in Config.model_fields:  # data_split has no section of its own
            continue
        for key, field in loading.options(Config.model_fields[name].annotation, f"{name}."):
            takes = loading.describe_range(field)
            for value in refused_values(takes):
                yield Typed(f"--{key} {value}", stage, (f"--{key}", value))
            for value in refused_in_files(takes):
                section, *path = key.split(".")
                inner = value
                for part in reversed(path):
                    inner = f"{{{part}: {inner}}}"
                yield Typed(f"{key}: {value}", stage, file=f"{section}: {inner}\n".encode())


def refused_values(takes: str) -> list[str]:
    """Values that a key cannot be given on the command line, by what its help says that it takes."""
    kinds = takes.split(" or ")
    if any(kind in ("text", "mapping") or kind.startswith("list of") for kind in kinds):
        return []  # whatever is typed is a text, or has its own rules
    found = ["[1, 2]", "{a: 1}", "[]", "some words", "''"]
    if "null" not in kinds:
        found.append("null")
    numbers = [kind for kind in kinds if kind.startswith(("whole number", "number"))]
    if not numbers:
        return [*found, "3", "-1", "nan", ".inf"]
    found += [".nan", ".inf", "-.inf", "1e999", "9" * 5000]
    if "true | false" not in kinds:
        found += ["true", "false"]
    if all(kind.startswith("whole") for kind in numbers):
        found += ["1.5", "0.1"]
    for words in numbers:
        for bound in words.replace("whole number", "").replace("number", "").split(","):
            sign, _, value = bound.strip().partition(" ")
            if sign in (">", ">="):
                found.append(str(float(value) - 1) if "." in value else str(int(value) - 1))
            if sign == ">":
                found.append(value)
    return found


def refused_in_files(takes: str) -> list[str]:
    """Values that a key cannot have in a file, where text has to be one."""
    if "mapping" in takes:
        return ["3", "[a]", "words"]
    if takes in ("text", "text or null"):
        return ["[a, b]", "{a: 1}", "2024-01-02", "!!binary AAAA", "true"]
    return []


def try_settings(typed: Typed, folder: Path) -> Outcome:
    """Type it, in this process; the run folder would be `folder`/runs."""
    words = list(typed.words)
    if typed.file is not None:
        overlay = folder / "overlay.yaml"
        overlay.write_bytes(typed.file)
        words += ["--config", str(overlay)]
    if "--run.dir" not in words and b"dir" not in (typed.file or b""):
        words += ["--run.dir", str(folder / "runs")]
    main = importlib.import_module(module_of(typed.stage)).main
    began = time.monotonic()
    status, said = _typed(main, words)
    seconds, left = time.monotonic() - began, [path for path in folder.rglob("*") if path.name != "overlay.yaml"]
    ending: Ending = "wrong"
    if status != 2 or not said.startswith(("error: ", "usage: ")) or "Traceback" in said:
        why = f"status {status}: {said[-300:]}"
    elif left:
        why = f"left behind: {left[0]}"
    elif seconds > SECONDS:
        why = f"took {seconds:.0f} s"
    else:
        ending, why = "refused", said.splitlines()[0]
    return Outcome(CAMPAIGN, f"{typed.stage}.py {typed.what}", ending, why)


def _typed(main: object, words: Sequence[str]) -> tuple[object, str]:
    """The exit status, or the exception, and what was said on stderr."""
    import sys

    before, errors = sys.argv, io.StringIO()
    sys.argv = ["stage.py", *words]
    try:
        with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
            status: object = main()  # type: ignore[operator]
    except SystemExit as error:
        status = error.code
    except BaseException as error:
        status = f"{type(error).__name__}: {error}"
    finally:
        sys.argv = before
    return status, errors.getvalue()
