"""Which run of an earlier stage is taken: the one that fits the settings, and what is said where none does."""

import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from masked_memory.handoff import taking
from masked_memory.handoff.taking import best_run, take_run
from masked_memory.pipeline.files import write_json
from masked_memory.pipeline.runs import RunFolder, Sought, used_settings
from masked_memory.settings import loading
from masked_memory.settings.config import Config

KEY = "split a"


def settings(runs: Path, stage: str = "train_distil", **typed: Any) -> Config:
    """As a stage gets them that looks for a VQ-VAE; typed: dotted keys of train_vqvae with __ for the dot."""
    values = {f"train_vqvae.{key.replace('__', '.')}": value for key, value in typed.items()}
    cfg = loading.load([], {"run.dir": str(runs), **values})
    return cfg.noting(replace(cfg.typed, stage=stage))


def trained(runs: Path, score: float, **values: Any) -> Path:
    """A finished run of train_vqvae with these settings."""
    cfg = settings(runs, "train_vqvae", **values)
    folder = RunFolder.create(runs, "train_vqvae", yaml.safe_dump(cfg.model_dump(mode="json")), "d")
    (folder.path / "used.yaml").write_text((folder.path / "config.yaml").read_text(), encoding="utf-8")
    for name in ("meta.json", "config.json"):
        write_json(folder.model / name, {})
    folder.finish(KEY, score, "mse", True)
    return folder.path


class Taken:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.said: list[str] = []
        monkeypatch.setattr(taking, "say", self.said.append)

    def __call__(self, cfg: Config, asked: str = "best", described: bool = True) -> tuple[Path, list[str]]:
        self.said.clear()
        folder = take_run(cfg, asked, Sought("train_vqvae", KEY, "", "python train_vqvae.py"), "vqvae", described)
        return folder, list(self.said)


@pytest.fixture
def take(monkeypatch: pytest.MonkeyPatch) -> Taken:
    return Taken(monkeypatch)


def test_the_best_of_the_shape_that_is_set_is_taken_without_a_word(tmp_path: Path, take: Taken) -> None:
    """Also of the shape that ships, once the settings are back at it."""
    large, plain, better = (
        trained(tmp_path, 0.1, codebook_size=512),
        trained(tmp_path, 0.3),
        trained(tmp_path, 0.2, learning_rate=0.02),
    )
    assert take(settings(tmp_path)) == (better, []) and plain != better
    assert take(settings(tmp_path, codebook_size=512)) == (large, [])
    assert best_run(settings(tmp_path), "train_vqvae", KEY) == better


def test_where_only_others_exist_it_is_said_with_what_to_type_for_either(tmp_path: Path, take: Taken) -> None:
    four = trained(tmp_path, 0.1)
    folder, (line,) = take(settings(tmp_path, stride=8))
    assert folder == four
    assert line == (
        f"not as set: {four} is taken, but train_vqvae.stride is 4 there and 8 here; for what is set, type: "
        "python train_vqvae.py; for what is taken, without this line, add --train_vqvae.stride 4"
    )
    option, value = re.search(r"add --train_vqvae\.(\S+) (\S+)", line).groups()
    assert take(settings(tmp_path, **{option: int(value)})) == (four, []), "what is to be typed ends it"


def test_the_best_that_differs_in_what_is_set_is_said_with_the_run_that_does_not(tmp_path: Path, take: Taken) -> None:
    """A key that does not decide the shape: the better run is taken all the same."""
    slow, quick = trained(tmp_path, 0.3, learning_rate=1e-3), trained(tmp_path, 0.1)
    folder, (line,) = take(settings(tmp_path, learning_rate=1e-3))
    assert folder == quick and "train_vqvae.learning_rate is 0.01 there and 0.001 here" in line
    assert f"name {slow.name} with --train_distil.vqvae;" in line
    assert take(settings(tmp_path, learning_rate=1e-3), slow.name) == (slow, [])
    assert take(settings(tmp_path)) == (quick, []), "what ships is not set by anybody"


def test_a_run_that_is_named_is_taken_and_what_differs_is_said(tmp_path: Path, take: Taken) -> None:
    trained(tmp_path, 0.1)
    eight = trained(tmp_path, 0.3, stride=8)
    folder, (line,) = take(settings(tmp_path), eight.name)
    assert folder == eight and "train_vqvae.stride is 8 there and 4 here" in line


def test_what_is_searched_fits_with_every_value_that_may_be_tried(tmp_path: Path, take: Taken) -> None:
    space = {"tune__space__hidden": [64, 96]}
    narrow = trained(tmp_path, 0.1, hidden=64, **space)
    assert take(settings(tmp_path, **space)) == (narrow, [])
    _, (line,) = take(settings(tmp_path, tune__space__hidden=[96, 128]))
    assert "train_vqvae.hidden is 64 there and 96 here" in line


def test_the_seed_that_is_set_is_compared(tmp_path: Path, take: Taken) -> None:
    trained(tmp_path, 0.1)
    cfg = loading.load([], {"run.dir": str(tmp_path), "run.seed": 1})
    _, (line,) = take(cfg)
    assert "run.seed is 0 there and 1 here" in line and "--run.seed" not in line, "it is this stage's seed, too"


def test_what_has_no_effect_is_not_compared_and_another_kind_is_said(tmp_path: Path, take: Taken) -> None:
    found = trained(tmp_path, 0.1)
    assert take(settings(tmp_path, label_drop=0.3)) == (found, []), "nothing is told"
    _, (line,) = take(settings(tmp_path, component_masking__enabled=True))
    assert line.startswith(f"train_vqvae.component_masking.enabled is true here and false in {found}, which is of the")


def test_how_it_was_tuned_is_compared_as_well(tmp_path: Path, take: Taken) -> None:
    trained(tmp_path, 0.1)
    _, (line,) = take(settings(tmp_path, tune__trials=7, tune__space__hidden=[96, 128]))
    assert "it was tuned otherwise (tune.trials, tune.space)" in line and len(line) < 400


def test_a_run_that_is_offered_is_wholly_as_set(tmp_path: Path, take: Taken) -> None:
    """Also in what nobody set: another seed, more epochs."""
    trained(tmp_path, 0.1)
    cfg = loading.load([], {"run.dir": str(tmp_path), "run.seed": 1, "train_vqvae.learning_rate": 1e-3})
    folder = RunFolder(trained(tmp_path, 0.3, learning_rate=1e-3, epochs=9))
    _, (line,) = take(settings(tmp_path, learning_rate=1e-3))
    assert folder.name not in line and "type: python train_vqvae.py" in line
    right = trained(tmp_path, 0.4, learning_rate=1e-3)
    assert f"name {right.name}" in take(settings(tmp_path, learning_rate=1e-3))[1][0]
    assert right.name not in take(cfg)[1][0], "its seed is another one"


def test_a_run_that_another_stage_is_told_to_take_is_said(tmp_path: Path, take: Taken) -> None:
    """People name it once, and mean it for all stages."""
    best, other = trained(tmp_path, 0.1), trained(tmp_path, 0.3, learning_rate=0.02)
    values = {"run.dir": str(tmp_path), "vqvae_reconstruction.vqvae": other.name}
    cfg = loading.load([], values)
    cfg.noting(replace(cfg.typed, stage="train_distil"))
    folder, (line,) = take(cfg)
    assert folder == best and line.endswith(f"add --train_distil.vqvae {other.name}")
    assert take(cfg, other.name) == (other, [])
    cfg.noting(replace(cfg.typed, stage="vqvae_reconstruction"))
    assert take(cfg, other.name) == (other, [])


def test_a_rival_is_not_compared(tmp_path: Path, take: Taken) -> None:
    better = trained(tmp_path, 0.1, stride=8)
    trained(tmp_path, 0.3)
    assert take(settings(tmp_path), described=False) == (better, [])


def test_a_run_whose_settings_are_gone_can_be_taken(tmp_path: Path, take: Taken) -> None:
    found = trained(tmp_path, 0.1)
    for name in ("used.yaml", "config.yaml"):
        (found / name).unlink()
    assert take(settings(tmp_path, stride=8)) == (found, [])


def test_runs_of_before_used_yaml_say_their_shape_with_their_model(tmp_path: Path, take: Taken) -> None:
    """As c5e1d6a wrote them: tuning chose another width than config.yaml has, and a rate that nothing says."""
    space = {"tune__space__hidden": [64, 96]}
    found = trained(tmp_path, 0.1, **space)
    (found / "used.yaml").unlink()
    write_json(found / "model" / "config.json", {"hidden": 64, "stride": 4, "condition_numbers": 0})
    used = used_settings(found)["train_vqvae"]
    assert (used["hidden"], used["condition_numbers"]) == (64, []) and "learning_rate" not in used
    folder, (line,) = take(settings(tmp_path, learning_rate=1e-2, **space))
    assert folder == found and "train_vqvae.learning_rate is not known there and 0.01 here" in line
    assert "without this line" not in line
    _, (line,) = take(settings(tmp_path))
    assert "hidden is 64 there and 96 here" in line


def test_a_run_without_a_model_comes_last(tmp_path: Path, take: Taken) -> None:
    bare, whole = trained(tmp_path, 0.1), trained(tmp_path, 0.3)
    shutil.rmtree(bare / "model")
    assert take(settings(tmp_path)) == (whole, [])


def test_a_run_whose_settings_are_gone_has_the_shape_that_its_model_says(tmp_path: Path, take: Taken) -> None:
    odd, plain = trained(tmp_path, 0.1), trained(tmp_path, 0.3)
    write_json(odd / "model" / "config.json", {"hidden": 64, "n_layers": 2})
    for content in ("train_vqvae: 3", "a: [", None):
        for name in ("used.yaml", "config.yaml"):
            (odd / name).unlink(missing_ok=True)
            if content is not None:
                (odd / name).write_text(content, encoding="utf-8")
        assert take(settings(tmp_path)) == (plain, [])


def test_a_space_that_is_not_searched_decides_nothing(tmp_path: Path, take: Taken) -> None:
    trained(tmp_path, 0.1, hidden=64, tune__trials=0)
    off = {"tune__trials": 0, "tune__space__hidden": [64, 96]}
    assert "train_vqvae.hidden is 64 there and 96 here" in take(settings(tmp_path, **off))[1][0]


def test_commands_that_are_named_can_be_typed_where_one_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from masked_memory.pipeline.commands import HOME, command, make

    monkeypatch.chdir(HOME)
    assert command("train_vqvae") == "python train_vqvae.py" and make("demo") == "make demo"
    monkeypatch.chdir(tmp_path)
    script = Path(shlex.split(command("train_vqvae"))[1])
    assert script.is_file() and script.is_absolute() and (Path(shlex.split(make("demo"))[2]) / "Makefile").is_file()
    assert command("train_mae") == f"PYTHONPATH={shlex.quote(str(HOME))} python -m masked_memory train_mae"
    monkeypatch.setattr("sys.argv", ["C:/Scripts/masked-memory.exe", "--resume"])
    assert (command("train_vqvae"), command("train_mae")) == ("masked-memory train_vqvae", "masked-memory train_mae")
