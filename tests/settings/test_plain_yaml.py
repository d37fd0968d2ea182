"""Files of settings that strangers write: each is read, or refused in one line, at once."""

import time
from pathlib import Path

import pytest
from masked_memory.stages.train_vqvae import main as train_vqvae_main

from masked_memory.settings import loading
from masked_memory.settings.loading import ConfigError
from masked_memory.settings.plain_yaml import read_plain
from toys import refused_in_one_line

LETTERS = "bcdefghi"
BOMB = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join('*' + chr(ord(name) - 1) for _ in range(10))}]\n" for name in LETTERS
)
BAD = {
    "no integer": ("run: {seed: !!int abc}", "has a value that cannot be read"),
    "no date": ("run: {dir: 2024-13-45}", "has a value that cannot be read: month"),
    "no boolean": ("run: {mlflow: !!bool abc}", "has a value that cannot be read"),
    "5,000 digits": (f"run: {{seed: {'1' * 5000}}}", "has a value that cannot be read"),
    "5,000 levels": (f"run: {{dir: {'[' * 5000}{']' * 5000}}}", "nested more than 40 deep"),
    "a section twice": ("run: {seed: 1}\nrun: {seed: 2}", "run stands twice"),
    "a key twice": ("run: {seed: 1, seed: 2}", "seed stands twice"),
    "a bomb of aliases": (BOMB + "run: {dir: *i}", "more than 20,000 values when its aliases are written out"),
    "a list in itself": ("run: &a [*a]", "holds itself"),
    "a mapping in itself": ("run: &a {dir: *a}", "holds itself"),
    "nothing for a value": ("train_vqvae: {epochs: }", "train_vqvae.epochs is None"),
    "a section of text": ("run: abc", "run is 'abc'"),
    "a list of pairs": ("run: [[seed, 3]]", "run is"),
    "ordered pairs": ("run: !!omap [seed: 3]", "run is"),
    "a set": ("run: !!set {seed}", "run is"),
    "code": ("run: !!python/object/apply:os.system [exit]", "is not YAML"),
    "a NUL": ('run: {dir: "a\\0b"}', "run.dir holds a NUL"),
    "bytes": ("data: {source: !!binary AAAA}", "data.source holds bytes; expected text"),
    "bytes in a list": ("data: {components: [!!binary AAAA]}", "data.components holds bytes; expected text"),
    "half a character": ('run: {dir: "\\ud800"}', "run.dir holds a NUL or half a character"),
    "a long path": (f"run: {{dir: {'a' * 5000}}}", "run.dir holds a text of 5,000 characters"),
    "a key that is no text": ("? [a]\n: 3", "is not YAML"),
    "a list": ("[1, 2]", "holds list; expected sections with keys"),
    "a NUL in the file": ("run:\0 {seed: 1}", "is not YAML"),
    "a tab": ("run:\n\tseed: 1", "is not YAML"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_refused_at_once_with_what_is_wrong(name: str, tmp_path: Path) -> None:
    text, said = BAD[name]
    file = tmp_path / "bad.yaml"
    file.write_text(text, encoding="utf-8")
    began = time.monotonic()
    with pytest.raises(ConfigError) as refused:
        loading.load([file], {})
    assert said in str(refused.value) and time.monotonic() - began < 5
    assert all(len(line) < 500 for line in refused.value.problems)


@pytest.mark.parametrize("typed", ["2024-13-45", "!!int abc", "[" * 5000, "{a: 1, a: 2}", "*x"])
def test_what_is_typed_and_is_no_yaml_is_text(
    typed: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a folder's name it is the name, of a number it is refused."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["train_vqvae.py", "--train_vqvae.epochs", typed])
    refused_in_one_line(train_vqvae_main(), capsys.readouterr().err, "train_vqvae.epochs")
    assert not list(tmp_path.iterdir()), "no run folder is left behind"


def test_plain_values_aliases_and_merged_keys_are_read() -> None:
    assert read_plain("a: &x {b: 1, c: [2, 3.5, true, null, text]}\nd: *x\ne: {<<: *x, b: 9}") == {
        "a": {"b": 1, "c": [2, 3.5, True, None, "text"]},
        "d": {"b": 1, "c": [2, 3.5, True, None, "text"]},
        "e": {"b": 9, "c": [2, 3.5, True, None, "text"]},
    }
    assert read_plain("") is None


def test_errors_name_the_file_and_the_line(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    for text in ("run: [1", "run: {seed: 1}\nrun: {seed: 2}", "run: \x01"):
        file.write_text(text, encoding="utf-8")
        with pytest.raises(ConfigError) as refused:
            loading.load([file], {})
        (problem,) = refused.value.problems
        assert problem.startswith(f"{file} is not YAML") and "unicode string" not in problem
