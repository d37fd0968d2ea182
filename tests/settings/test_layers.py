"""Who set what: what ships, what a file edits, what is typed; and what a user sets is not searched."""

import copy
from pathlib import Path

import pytest
import yaml

from masked_memory.pipeline.machine import commit
from masked_memory.settings import layers, loading
from masked_memory.settings.command import what_is_set
from masked_memory.settings.config import Config
from masked_memory.settings.kinds import Only, Section
from masked_memory.settings.layers import SHIPPED_FILE, alike
from toys import ROOT, merged

SHIPPED = yaml.safe_load(loading.BASE_FILE.read_text(encoding="utf-8"))
SPACE = SHIPPED["train_vqvae"]["tune"]["space"]
RATE = {"learning_rate": 1e-3}


def write(file: Path, values: object) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(values if isinstance(values, str) else yaml.safe_dump(values), encoding="utf-8")
    return file


def searched(cfg: Config) -> set[str]:
    return set(cfg.train_vqvae.tune.space)


def test_what_ships_is_noted_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a checkout whose files were not edited. `python -m masked_memory.settings.layers` writes the note anew."""
    if commit().endswith("+changes"):
        pytest.skip("files were edited")
    monkeypatch.setattr(layers, "SHIPPED_FILE", tmp_path / "shipped.json")
    layers.write_shipped()
    assert (tmp_path / "shipped.json").read_text(encoding="utf-8") == SHIPPED_FILE.read_text(encoding="utf-8")


@pytest.mark.parametrize("preset", [None, *sorted((ROOT / "presets").glob("*.yaml"))], ids=str)
def test_as_it_ships_nothing_is_set_by_a_user(preset: Path | None) -> None:
    by = loading.load([preset] if preset else [], {}).typed.by
    assert not by.set and not by.lost and not by.kept


def ways_to_set(tmp_path: Path) -> dict[str, Config]:
    """The same edit in each way in which people make it."""
    section = {"train_vqvae": RATE}
    whole = write(tmp_path / "copy.yaml", merged(SHIPPED, section))
    return {
        "typed": loading.load([], {"train_vqvae.learning_rate": 1e-3}),
        "in an overlay": loading.load([write(tmp_path / "mine.yaml", section)], {}),
        "in config.yaml": loading.load([], {}, base=whole),
        "in a copy of config.yaml": loading.load([whole], {}),
        "as text": loading.load([write(tmp_path / "text.yaml", "train_vqvae: {learning_rate: 1e-3}")], {}),
    }


def test_a_key_that_is_set_leaves_the_space_and_the_others_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "shipped_values", lambda file: dict(SHIPPED) if file.name != "mine.yaml" else {})
    for way, cfg in ways_to_set(tmp_path).items():
        assert cfg.train_vqvae.learning_rate == 1e-3, way
        assert searched(cfg) == set(SPACE) - {"learning_rate"}, way
        assert set(cfg.typed.by.kept) == {"train_vqvae.learning_rate"}, way


def test_what_a_copy_of_config_yaml_repeats_is_not_set_by_it(tmp_path: Path) -> None:
    """Under a name that does not ship, laid over config.yaml as it ships."""
    cfg = loading.load([write(tmp_path / "copy.yaml", merged(SHIPPED, {"train_vqvae": RATE}))], {})
    assert set(cfg.typed.by.set) == {"train_vqvae.learning_rate"}
    assert searched(cfg) == set(SPACE) - {"learning_rate"}


def test_a_value_inside_the_space_is_kept_as_well() -> None:
    cfg = loading.load([], {"train_vqvae.learning_rate": 8e-3, "train_vqvae.batch_size": 16})
    assert searched(cfg) == {"commitment_weight"}, "also one that is typed as it ships"


def test_the_space_that_is_named_for_a_key_brings_it_back(tmp_path: Path) -> None:
    entry = {"low": 1e-4, "high": 1e-2}
    typed = {"train_vqvae.learning_rate": 1e-3, "train_vqvae.tune.space.learning_rate": entry}
    assert searched(loading.load([], typed)) == set(SPACE)
    both = write(tmp_path / "both.yaml", {"train_vqvae": {**RATE, "tune": {"space": {"learning_rate": entry}}}})
    assert searched(loading.load([both], {})) == {"learning_rate"}
    assert not searched(loading.load([both], {"train_vqvae.learning_rate": 2e-3})), "what is typed is later"
    same = {"train_vqvae.learning_rate": 1e-3, "train_vqvae.tune.space.learning_rate": SPACE["learning_rate"]}
    assert searched(loading.load([], same)) == set(SPACE), "also as it ships"


def test_a_small_overlay_sets_what_it_names_also_as_it_ships(tmp_path: Path) -> None:
    mine = write(tmp_path / "mine.yaml", {"train_vqvae": {"batch_size": 16}})
    assert "batch_size" not in searched(loading.load([mine], {}))
    space = {"learning_rate": SPACE["learning_rate"]}
    back = write(tmp_path / "back.yaml", {"train_vqvae": {**RATE, "tune": {"space": space}}})
    assert searched(loading.load([back], {})) == {"learning_rate"}
    lines = list(what_is_set(loading.load([back], {}), "train_vqvae"))
    assert f"train_vqvae.learning_rate is searched, from 0.001 on, as tune.space names it ({back})" in lines


def test_the_space_of_a_preset_does_not_bring_back_what_is_set_in_config_yaml(tmp_path: Path) -> None:
    base = write(tmp_path / "config.yaml", merged(SHIPPED, {"train_distil": RATE}))
    cfg = loading.load([ROOT / "presets" / "published_study.yaml"], {}, base=base)
    assert cfg.train_distil.learning_rate == 1e-3 and "learning_rate" not in cfg.train_distil.tune.space


def test_what_config_yaml_lacks_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "shipped_values", lambda file: dict(SHIPPED))
    values = copy.deepcopy(SHIPPED)
    del values["train_vqvae"]["tune"]["space"], values["train_distil"]
    cfg = loading.load([], {}, base=write(tmp_path / "config.yaml", values))
    assert list(what_is_set(cfg, "train_vqvae")) == ["as shipped, as config.yaml lacks it: train_vqvae.tune.space"]
    assert list(what_is_set(cfg, "train_distil")) == ["as shipped, as config.yaml lacks it: train_distil"]


def test_a_preset_that_is_undone_is_said(tmp_path: Path) -> None:
    whole = write(tmp_path / "copy.yaml", SHIPPED)
    cfg = loading.load([ROOT / "presets" / "imagenette.yaml", whole], {})
    (line,) = [line for line in what_is_set(cfg, "train_vqvae") if line.startswith("data.source")]
    assert line.startswith("data.source = digits_in_context (") and line.endswith(
        "imagenette.yaml, which has imagenette)"
    )


@pytest.mark.parametrize("key", ["patience", "retrain", "epochs"])
def test_what_no_trial_has_is_not_searched(key: str) -> None:
    with pytest.raises(loading.ConfigError, match=f"tune.space.{key} would change no trial"):
        loading.load([], {f"train_vqvae.tune.space.{key}": [True] if key == "retrain" else [1, 2]})


def test_an_edit_in_a_preset_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A preset sets values and searches them, as it ships; a line that is edited in it is the user's."""
    monkeypatch.setattr(layers, "HOME", tmp_path)
    values = yaml.safe_load((ROOT / "presets" / "imagenette.yaml").read_text(encoding="utf-8"))
    preset = write(tmp_path / "presets" / "imagenette.yaml", values)
    assert searched(loading.load([preset], {})) == set(values["train_vqvae"]["tune"]["space"])
    write(preset, merged(values, {"train_vqvae": RATE}))
    assert "learning_rate" not in searched(loading.load([preset], {}))


def test_the_settings_of_a_run_hold_as_they_stand(tmp_path: Path) -> None:
    """Of one that searched what was set, and of one that did not: laid over anything they come to the same."""
    entry = {"train_vqvae.tune.space.learning_rate": SPACE["learning_rate"]}
    for more in (entry, {}):
        cfg = loading.load([], {"train_vqvae.learning_rate": 1e-3, **more})
        folder = tmp_path / f"run{len(more)}"
        stored = write(folder / "config.yaml", cfg.model_dump(mode="json"))
        write(folder / "run.json", "{}")
        assert loading.load([stored], {}) == cfg


def test_what_config_yaml_lacks_is_as_it_ships(tmp_path: Path) -> None:
    """Not as the schema has it."""
    assert loading.load([], {}, base=write(tmp_path / "config.yaml", "run: {seed: 3}")) == loading.load(
        [], {"run.seed": 3}
    )


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [("1e-3", 0.001, True), (1, 1.0, True), (["1e-3", 2], [0.001, 2.0], True), (True, 1, True), ("a", "b", False),
     ({"low": "1e-3"}, {"low": 1e-3}, True), (None, "null", False), ([1], [1, 2], False)],
)  # fmt: skip
def test_values_are_compared_as_settings(one: object, other: object, same: bool) -> None:
    assert alike(one, other) == same


# What is said


def said(overlays: list[Path], typed: dict[str, object], stage: str = "train_vqvae") -> list[str]:
    return list(what_is_set(loading.load(overlays, typed), stage))


def test_nothing_is_said_where_nothing_was_set() -> None:
    assert said([], {}) == []


def test_a_value_is_said_with_who_set_it_and_what_it_replaces(tmp_path: Path) -> None:
    mine = write(tmp_path / "mine.yaml", {"train_vqvae": {"epochs": 5}})
    other = write(tmp_path / "other.yaml", {"train_vqvae": {"epochs": 6}})
    assert said([mine], {}) == [f"train_vqvae.epochs = 5 ({mine}, 8 as shipped)"]
    assert said([mine, other], {}) == [f"train_vqvae.epochs = 6 ({other}, 8 as shipped, over {mine}, which has 5)"]
    assert said([mine], {"train_vqvae.epochs": 8}) == [
        f"train_vqvae.epochs = 8 (typed, 8 as shipped, over {mine}, which has 5)"
    ]


def test_a_preset_over_an_edit_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = write(tmp_path / "config.yaml", merged(SHIPPED, {"train_vqvae": {"hidden": 64}}))
    cfg = loading.load([ROOT / "presets" / "imagenette.yaml"], {}, base=base)
    (line,) = [line for line in what_is_set(cfg, "train_vqvae") if line.startswith("train_vqvae.hidden")]
    assert "160 (presets/imagenette.yaml, 96 as shipped, over " in line and line.endswith("config.yaml, which has 64)")


def test_a_key_that_is_kept_says_how_to_search_it(tmp_path: Path) -> None:
    lines = said([], {"train_vqvae.learning_rate": 1e-3})
    assert lines[0] == "train_vqvae.learning_rate = 0.001 (typed, 0.01 as shipped)" and len(lines) == 2
    assert lines[1].startswith("train_vqvae.learning_rate is kept as it is set, tuning does not search it; to search")
    option, value = lines[1].rpartition(" --")[2].split(" ", 1)
    back = {"train_vqvae.learning_rate": 1e-3, option: yaml.safe_load(value.strip("'"))}
    assert searched(loading.load([], back)) == set(SPACE)
    assert len(said([], {"train_vqvae.learning_rate": 1e-3, "train_vqvae.tune.trials": 0})) == 2, "nothing is searched"


def test_a_setting_without_effect_says_why() -> None:
    def useless(**typed: object) -> list[str]:
        lines = said(
            [], {f"train_distil.{key.replace('__', '.')}": value for key, value in typed.items()}, "train_distil"
        )
        return [line.removeprefix("without effect: ") for line in lines if "without effect" in line]

    assert useless(fixed_ratio=0.3) == [
        "train_distil.fixed_ratio, as train_distil.mask_schedule is uniform, and not fixed"
    ]
    assert not useless(fixed_ratio=0.3, mask_schedule="fixed")
    assert useless(tune__epochs=3, tune__patience=4, tune__trials=0) == [
        "train_distil.tune.epochs, train_distil.tune.patience, as train_distil.tune.trials is 0"
    ]


def test_what_is_searched_may_give_another_setting_its_effect() -> None:
    typed = {"train_distil.fixed_ratio": 0.3, "train_distil.tune.space.mask_schedule": ["fixed", "uniform"]}
    assert not [line for line in said([], typed, "train_distil") if "without effect" in line]


def test_what_is_typed_for_another_stage_is_said() -> None:
    assert said([], {"train_distil.epochs": 3}) == ["for other stages: train_distil.epochs"]


def test_every_condition_names_settings_that_there_are() -> None:
    """With values that these settings take."""
    fields = dict(loading.options(Config))
    conditions = [(key, item) for key, field in fields.items() for item in field.metadata if isinstance(item, Only)]
    assert len(conditions) > 60
    values = dict.fromkeys(fields)
    for key, only in conditions:
        for name in only.keys:
            dotted = name if name in values else f"{key.rpartition('.')[0]}.{name}"
            takes = loading.describe_range(fields[dotted])
            for value in only.values:
                assert value is None or str(value).lower() in takes or takes == "text", (key, dotted, value, takes)


def test_conditions_hold_as_they_are_written() -> None:
    settings = {"s.a": 3, "s.b": None, "s.c": ["x", "y"], "s.d": False, "s.e": "ema"}

    def unmet(only: Only) -> str:
        return only.unmet("s.z", settings)

    assert (
        not unmet(Only("a"))
        and not unmet(Only("b", None))
        and not unmet(Only("c", "y"))
        and not unmet(Only("a", above=2))
    )
    assert not unmet(Only("b or a")) and not unmet(Only("b") | Only("e", "ema")) and not unmet(Only("s.d", False))
    assert unmet(Only("b")) == "s.b is null" and unmet(Only("d")) == "s.d is false"
    assert unmet(Only("a", above=3)) == "s.a is 3, and not more than 3"
    assert unmet(Only("c", "z", "w")) == "s.c is ['x', 'y'], and not z or w"
    assert unmet(Only("b or d")) == "s.b is null and s.d is false" and unmet(Only("b") | Only("d"))


def test_sections_have_no_key_of_their_own_name() -> None:
    """`Only` reads a name that is a key elsewhere as that one."""
    sections = [field.annotation for field in Config.model_fields.values()]
    assert all(isinstance(section, type) and issubclass(section, Section) for section in sections)
