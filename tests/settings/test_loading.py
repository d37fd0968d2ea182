"""Settings: every mistake is found, all at once, with the key, what was found and what was expected."""

import math
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import optuna
import pytest
import yaml
from annotated_types import Ge, Gt, Le, Lt, MultipleOf
from pydantic.fields import FieldInfo

from masked_memory.pipeline.tuning import suggest
from masked_memory.settings import command, loading
from masked_memory.settings.config import Config
from masked_memory.settings.kinds import flatten
from masked_memory.settings.loading import ConfigError
from masked_memory.settings.strategies import STRATEGIES
from masked_memory.stages import train_vqvae
from toys import ROOT


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"train_vqvae": {"ssim_weight": 0.5}}, "train_vqvae.ssim_weight"),
        ({"vqvae_reconstruction": {"brain": True}}, "vqvae_reconstruction.brain"),
    ],
)
def test_pictures_smaller_than_the_window_of_ssim_are_refused(values, key):
    with pytest.raises(loading.ConfigError) as caught:
        loading.check({"data": {"image_size": 8}, **values})
    assert caught.value.problems == [f"{key} needs data.image_size of at least 11, the window of SSIM; found 8"]


def test_shipped_config_names_every_key_and_nothing_else():
    """config.yaml is complete: a reader sees every setting there, at the value that is used."""
    written = flatten(yaml.safe_load(loading.BASE_FILE.read_text()))
    known = {name for name, _ in loading.options(Config)}
    assert set(written) == known


@pytest.mark.parametrize("preset", sorted((ROOT / "presets").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_preset_fits(preset):
    assert loading.load([preset], {})


FIELDS = loading.options(Config)
#: A class or a file may be called 3, which YAML reads as a number.
NUMBERS_BECOME_TEXT = (
    "data.metadata",
    "reconstruct_masked.own.image",
    "reconstruct_masked.own.mask",
    "reconstruct_masked.own.label",
    "sample.label",
)
NAMES = (
    "run.modules",  # lists that may be typed as a,b, so that any text is one
    "data.components",
    "train_vqvae.condition_numbers",
    "train_vqvae.condition_classes",
    "vqvae_reconstruction.components",
    "train_prior.condition_numbers",
    "train_prior.condition_classes",
    "sample.components",
    "sample.values",
)


def nested(dotted: str, value: Any) -> dict[str, Any]:
    for key in reversed(dotted.split(".")):
        value = {key: value}
    return value


def problems_of(values: dict[str, Any]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        loading.check(values)
    assert all("\n" not in problem for problem in caught.value.problems), "one line each"
    return caught.value.problems


def parts(annotation: Any, metadata: list[Any]) -> list[tuple[Any, list[Any]]]:
    """The plain types of an annotation, each with the bounds that hold for it."""
    metadata = [m for item in metadata for m in (item.metadata if isinstance(item, FieldInfo) else [item])]
    if hasattr(annotation, "__metadata__"):
        return parts(annotation.__origin__, [*annotation.__metadata__, *metadata])
    if get_origin(annotation) in (list, dict, Literal) or not get_args(annotation):
        return [(annotation, metadata)]
    return [part for choice in get_args(annotation) for part in parts(choice, metadata)]


def just_outside(kind: type, bound: Any) -> Any:
    """The value nearest to the bound that it excludes."""
    for sort, name, way in ((Ge, "ge", -1), (Gt, "gt", 0), (Le, "le", 1), (Lt, "lt", 0)):
        if isinstance(bound, sort):
            value = getattr(bound, name)
            return value + way if kind is int else math.nextafter(value, value + way)
    return bound.multiple_of + 1 if isinstance(bound, MultipleOf) else None


def outside_values() -> list[tuple[str, Any]]:
    found = []
    for key, field in FIELDS:
        for kind, bounds in parts(field.annotation, field.metadata):
            if kind in (int, float):
                found += [(key, just_outside(kind, b)) for b in bounds if just_outside(kind, b) is not None]
            if get_origin(kind) is list:
                ((element, element_bounds),) = parts(get_args(kind)[0], [])
                found += [(key, [just_outside(element, b)]) for b in element_bounds]
    return found


# Every key


@pytest.mark.parametrize("key", [key for key, _ in FIELDS])
def test_every_key_refuses_a_wrong_type_and_says_which_key(key: str) -> None:
    (problem,) = (
        problems_of(nested(key, {"surely": "wrong"})) if not key.endswith("space") else problems_of(nested(key, 3))
    )
    assert problem.startswith(f"{key} is ") and "; expected " in problem


@pytest.mark.parametrize("key", [key for key, _ in FIELDS])
def test_every_key_refuses_a_word_or_number_of_the_wrong_kind(key: str) -> None:
    """Text where a number, a switch or a choice is wanted; a number (or a switch) where text is wanted."""
    kinds = [kind for kind, _ in parts(*next((f.annotation, f.metadata) for name, f in FIELDS if name == key))]
    number: Any = True if key in NUMBERS_BECOME_TEXT else 1.5
    wrong = True if key in NAMES else number if str in kinds else "no such value"
    (problem,) = problems_of(nested(key, wrong))
    assert problem.startswith(f"{key} is {wrong!r}; expected ")


@pytest.mark.parametrize("key", NUMBERS_BECOME_TEXT)
def test_names_that_yaml_reads_as_numbers_are_text(key: str) -> None:
    for number in (3, 1.5):
        assert flatten(loading.check(nested(key, number)).model_dump())[key] == str(number)


@pytest.mark.parametrize("name", ["reconstruct_masked.strategies", "reconstruct_masked.own.strategy"])
def test_an_unknown_strategy_is_named_with_the_list_of_all(name: str) -> None:
    wrong = ["random", "best"] if name.endswith("strategies") else "best"
    (problem,) = problems_of(nested(name, wrong))
    assert "'best'" in problem and all(strategy in problem for strategy in STRATEGIES)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_registered_strategy_is_a_setting_and_stands_in_the_help(strategy: str) -> None:
    """Of the study and of an own picture; the registry is where both have it from."""
    study, own = "reconstruct_masked.strategies", "reconstruct_masked.own.strategy"
    assert loading.check(nested(study, [strategy])).reconstruct_masked.strategies == [strategy]
    assert loading.check(nested(own, strategy)).reconstruct_masked.own.strategy == strategy
    for name, field in FIELDS:
        if name in (study, own):
            assert strategy in loading.describe_range(field).removeprefix("list of ").split(" | ")


@pytest.mark.parametrize(("key", "value"), outside_values())
def test_every_bounded_number_refuses_a_value_just_outside(key: str, value: Any) -> None:
    (problem,) = problems_of(nested(key, value))
    shown = value[0] if isinstance(value, list) else value
    assert problem.startswith(f"{key} is {shown!r}; expected ")


@pytest.mark.parametrize("key", ["train_vqvae.learning_rate", "train_distil.dropout", "data.train"])
@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_infinite_numbers_are_refused(key: str, value: float) -> None:
    (problem,) = problems_of(nested(key, value))
    assert problem.startswith(f"{key} is {value!r}")


@pytest.mark.parametrize("key", ["train_vqvae.epochs", "train_vqvae.learning_rate", "data.images_per_class"])
def test_true_is_no_number(key: str) -> None:
    """`epochs: yes` is not one epoch."""
    (problem,) = problems_of(nested(key, True))
    assert problem.startswith(f"{key} is True")


@pytest.mark.parametrize("key", ["train_distil.percentages", "reconstruct_masked.percentages"])
def test_an_empty_list_of_percentages_is_refused(key: str) -> None:
    (problem,) = problems_of(nested(key, []))
    assert problem.startswith(key)


def test_every_key_has_a_sentence_of_its_own_for_the_help() -> None:
    """The docstring under the key, not the words of its type."""
    without = [key for key, field in FIELDS if not (field.description or "").endswith(".")]
    assert without == []


def test_the_schema_alone_is_a_valid_config() -> None:
    assert loading.check({}) == Config()


# What the errors say


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"train_vqvae": {"epoch": 3}}, "train_vqvae.epoch is not a setting; did you mean train_vqvae.epochs?"),
        ({"train_vqave": {}}, "train_vqave is not a setting; did you mean train_vqvae?"),
        (
            {"train_distil": {"tune": {"trails": 3}}},
            "train_distil.tune.trails is not a setting; did you mean train_distil.tune.trials?",
        ),
    ],
)
def test_a_misspelt_key_gets_the_nearest(values: dict[str, Any], message: str) -> None:
    assert problems_of(values) == [message]


def test_a_key_like_no_other_gets_the_list_of_keys() -> None:
    (problem,) = problems_of({"run": {"qqqq": 1}})
    assert problem.startswith("run.qqqq is not a setting; expected one of dir, seed, device")


def test_all_problems_are_listed_at_once() -> None:
    problems = problems_of(
        {
            "run": {"sed": 1, "device": "gpu"},
            "data": {"train": 0.5},
            "train_vqvae": {"epochs": 0, "learning_rate": "fast"},
            "train_distil": {"heads": 3},
            "trane": {},
        }
    )
    starts = (
        "run.sed",
        "run.device",
        "data: train",
        "train_vqvae.epochs",
        "train_vqvae.learning",
        "train_distil:",
        "trane",
    )
    assert len(problems) == len(starts)
    assert all(any(problem.startswith(start) for problem in problems) for start in starts)


@pytest.mark.parametrize("values", [{"data": 3}, {"train_vqvae": None}, {"run": []}, {7: 1}, {"run": {7: 1}}])
def test_a_section_that_is_no_section_is_a_config_error(values: dict[Any, Any]) -> None:
    assert len(problems_of(values)) == 1


def test_a_split_that_does_not_sum_to_one_is_refused_with_the_sum() -> None:
    assert problems_of({"data": {"train": 0.8}}) == ["data: train + val + test is 1.1; expected 1"]
    thirds = loading.check({"data": {"train": 0.1 + 0.2, "val": 0.3, "test": 0.4}})
    assert thirds.data.train == pytest.approx(0.3), "rounding is no mistake"


@pytest.mark.parametrize(("size", "stride"), [(30, 4), (36, 8), (40, 16)])
def test_an_image_size_that_the_stride_does_not_divide_is_refused(size: int, stride: int) -> None:
    problems = problems_of({"data": {"image_size": size}, "train_vqvae": {"stride": stride}})
    assert problems == [f"data.image_size {size} is not divisible by train_vqvae.stride {stride}"]
    assert loading.check({"data": {"image_size": 48}, "train_vqvae": {"stride": stride}}).data.image_size == 48


def test_heads_must_divide_dim() -> None:
    problems = problems_of({"train_distil": {"dim": 100, "heads": 8}})
    assert problems == ["train_distil: heads is 8; expected a divisor of dim 100"]


@pytest.mark.parametrize(
    ("told", "found"),
    [
        ({"condition_numbers": ["age"]}, "train_vqvae.condition_numbers is ['age']"),
        ({"condition_classes": ["class", "kind"]}, "train_vqvae.condition_classes is ['class', 'kind']"),
        (
            {"condition_numbers": "age", "condition_classes": "kind"},
            "train_vqvae.condition_numbers is ['age'] and train_vqvae.condition_classes is ['kind']",
        ),
    ],
)
def test_the_strided_stem_can_be_told_no_metadata(told: dict[str, Any], found: str) -> None:
    said = f"{found}; expected none with train_vqvae.stem strided, whose decoder can be told no metadata"
    assert problems_of({"train_vqvae": {"stem": "strided", **told}}) == [said]
    assert problems_of({"train_vqvae": {"tune": {"space": {"stem": ["unshuffle", "strided"]}}, **told}}) == [said]
    assert loading.check({"train_vqvae": told}) and loading.check({"train_vqvae": {"stem": "strided"}})


def test_the_strided_stem_with_metadata_is_one_line_and_status_2(tmp_path: Path, capsys: Any) -> None:
    argv = ["--train_vqvae.stem", "strided", "--train_vqvae.condition_numbers", "age", "--run.dir", str(tmp_path / "r")]
    assert command.stage_main("train_vqvae", train_vqvae.run, "text", argv=argv) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "train_vqvae.condition_numbers is ['age']; expected none with train_vqvae.stem strided" in line
    assert not (tmp_path / "r").exists()


def test_decoders_of_one_study_are_told_the_same() -> None:
    (problem,) = problems_of({"train_vqvae": {"tune": {"space": {"condition_numbers": ["age", "weight"]}}}})
    assert problem.endswith("tune.space has condition_numbers; expected decoders told the same in a study")


# Search spaces


def space(key: str, values: Any, stage: str = "train_vqvae") -> dict[str, Any]:
    return {stage: {"tune": {"space": {key: values}}}}


@pytest.mark.parametrize(
    ("key", "values", "said"),
    [
        ("learning_rat", [1e-3], "did you mean learning_rate?"),
        ("tune", [1], "not a key of this stage"),
        ("learning_rate", [], "is empty"),
        ("learning_rate", [1e-3, -1.0], "-1.0 is not a value of learning_rate"),
        ("learning_rate", {"low": 0.0, "high": 1.0}, "0.0 is not a value of learning_rate"),
        ("learning_rate", {"low": 2e-3, "high": 1e-3}, "are not a range"),
        ("learning_rate", {"low": "low", "high": 1e-3}, "is not a value of learning_rate"),
        ("learning_rate", {"low": None, "high": 1e-3}, "is not a value of learning_rate"),
        ("learning_rate", {"low": [1], "high": 2}, "is not a value of learning_rate"),
        ("learning_rate", {"low": 1e-3}, "expected low, high"),
        ("learning_rate", {"low": 1e-3, "high": 1e-2, "step": 1}, "expected low, high"),
        ("codebook_update", ["ema", "magic"], "'magic' is not a value of codebook_update"),
        ("stride", [4, 5], "5 is not a value of stride"),
        ("batch_size", [1.5], "1.5 is not a value of batch_size"),
    ],
)
def test_a_search_space_names_keys_and_values_of_its_stage(key: str, values: Any, said: str) -> None:
    (problem,) = problems_of(space(key, values))
    assert problem.startswith(f"train_vqvae: tune.space.{key}") and said in problem


def test_a_choice_that_breaks_a_rule_between_keys_is_refused() -> None:
    (problem,) = problems_of(space("heads", [4, 5], "train_distil"))
    assert "5 is not a value of heads" in problem


def test_a_wrong_setting_is_not_said_of_the_space_as_well() -> None:
    (problem,) = problems_of({"train_distil": {"heads": 5, "tune": {"space": {"learning_rate": [1e-3, 2e-3]}}}})
    assert "heads is 5; expected a divisor of dim" in problem and "space" not in problem


def test_all_mistakes_of_a_search_space_are_listed() -> None:
    problems = problems_of({"train_vqvae": {"tune": {"space": {"learning_rat": [1e-3], "epochs": [], "stride": [5]}}}})
    text = "\n".join(problems)
    assert all(key in text for key in ("tune.space.learning_rat", "tune.space.epochs", "tune.space.stride"))


@pytest.mark.parametrize(
    ("key", "values", "stage"),
    [
        ("learning_rate", {"low": 1e-4, "high": 1e-2, "log": True}, "train_vqvae"),
        ("learning_rate", {"low": "1e-4", "high": "1e-2", "log": True}, "train_vqvae"),
        ("codebook_size", {"low": 64, "high": 512, "log": True}, "train_vqvae"),
        ("hidden", [16, 32], "train_vqvae"),
        ("hidden", {"low": 8, "high": 64}, "train_vqvae"),
        ("stride", {"low": 4, "high": 16}, "train_vqvae"),
        ("data_init", {"low": 0, "high": 1}, "train_vqvae"),
        ("batch_size", {"low": 16.0, "high": 64.0}, "train_vqvae"),
        ("batch_size", {"low": "16", "high": "64"}, "train_vqvae"),
        ("weight_decay", {"low": 0, "high": 0.1, "log": True}, "train_vqvae"),
        ("weight_decay", {"low": 0.0, "high": 0.1, "log": True}, "train_vqvae"),
        ("heads", {"low": 2, "high": 8}, "train_distil"),
    ],
)
def test_an_accepted_range_gives_only_values_that_the_stage_accepts(key: str, values: Any, stage: str) -> None:
    """Either the range is refused with the other settings, or no trial meets a value that its stage refuses."""
    try:
        section = getattr(loading.check(space(key, values, stage)), stage)
    except ConfigError:
        return
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(30):
        chosen = suggest(study.ask(), section.tune.space)
        assert getattr(section.replace(chosen), key) == chosen[key]


def test_good_ranges_are_accepted() -> None:
    """So that the test above is not passed by refusing everything."""
    for key, values in (
        ("learning_rate", {"low": 1e-4, "high": 1e-2, "log": True}),
        ("codebook_size", {"low": 64, "high": 512, "log": False}),
        ("hidden", [16, 32]),
        ("codebook_update", ["ema", "gradient"]),
        ("rotation_trick", [True, False]),
    ):
        assert loading.check(space(key, values)).train_vqvae.tune.space[key] == values


def test_choices_that_yaml_reads_as_text_become_numbers() -> None:
    """`[1e-3, 2e-3]` in YAML is text; as text, config.yaml's own 0.001 would not be among the choices."""
    cfg = loading.check(space("learning_rate", yaml.safe_load("[1e-3, 2e-3]")))
    assert cfg.train_vqvae.tune.space["learning_rate"] == [0.001, 0.002]


def test_stride_choices_must_divide_the_image_size() -> None:
    (problem,) = problems_of(space("stride", [4, 16]) | {"data": {"image_size": 40}})
    assert "16" in problem and "40" in problem


# Reading


def write(file: Path, text: str) -> Path:
    file.write_text(text, encoding="utf-8")
    return file


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return write(
        tmp_path / "base.yaml",
        """
        data: {source: base, image_size: 32}
        train_vqvae:
          epochs: 5
          learning_rate: 1e-3
          tune:
            trials: 2
            space:
              learning_rate: {low: 1e-4, high: 1e-2, log: true}
              batch_size: [16, 32]
        """,
    )


def test_overlays_merge_key_by_key_and_later_ones_win(base: Path, tmp_path: Path) -> None:
    first = write(tmp_path / "first.yaml", "train_vqvae: {epochs: 7, batch_size: 8}\ndata: {source: first}")
    second = write(tmp_path / "second.yaml", "train_vqvae: {epochs: 9, tune: {trials: 0}}")
    cfg = loading.load([first, second], {}, base=base)
    assert (cfg.train_vqvae.epochs, cfg.train_vqvae.batch_size, cfg.train_vqvae.tune.trials) == (9, 8, 0)
    assert (cfg.data.source, cfg.data.image_size, cfg.train_vqvae.learning_rate) == ("first", 32, 1e-3)
    assert set(cfg.train_vqvae.tune.space) == {"learning_rate"}, "the batch size that is set is not searched"
    assert loading.load([second, first], {}, base=base).train_vqvae.epochs == 7


def test_an_overlay_replaces_a_search_space_whole(base: Path, tmp_path: Path) -> None:
    """So that a preset can also stop searching a key."""
    overlay = write(tmp_path / "o.yaml", "train_vqvae: {tune: {space: {learning_rate: {low: 2e-3, high: 3e-3}}}}")
    found = loading.load([overlay], {}, base=base).train_vqvae.tune.space
    assert found == {"learning_rate": {"low": 2e-3, "high": 3e-3, "log": False}}


def test_the_command_line_wins_over_every_file(base: Path, tmp_path: Path) -> None:
    overlay = write(tmp_path / "o.yaml", "train_vqvae: {epochs: 7}")
    overrides = {"train_vqvae.epochs": 3, "train_vqvae.tune.trials": 1, "train_vqvae.learning_rate": "5e-4"}
    cfg = loading.load([overlay], overrides, base=base)
    assert (cfg.train_vqvae.epochs, cfg.train_vqvae.tune.trials) == (3, 1)
    assert cfg.train_vqvae.learning_rate == 5e-4


def test_overrides_are_checked_like_files(base: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        loading.load([], {"train_vqvae.epoch": 3, "nowhere": 1, "run.seed": -1}, base=base)
    assert len(caught.value.problems) == 3


def test_1e_3_as_text_becomes_a_number() -> None:
    assert loading.check({"train_vqvae": {"learning_rate": "1e-3"}}).train_vqvae.learning_rate == 0.001


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("run: [1", "is not YAML"),
        ("a: b: c", "is not YAML"),
        ("- run", "holds list; expected sections"),
        ("just words", "holds str; expected sections"),
    ],
)
def test_a_file_that_is_no_config_is_refused_by_name(text: str, said: str, tmp_path: Path) -> None:
    file = write(tmp_path / "odd.yaml", text)
    with pytest.raises(ConfigError) as caught:
        loading.load([], {}, base=file)
    (problem,) = caught.value.problems
    assert str(file) in problem and said in problem and "\n" not in problem


def test_a_file_in_another_encoding_is_refused_by_name(tmp_path: Path) -> None:
    file = tmp_path / "latin.yaml"
    file.write_bytes("run: {dir: café}".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"latin\.yaml"):
        loading.load([], {}, base=file)


@pytest.mark.parametrize("text", ["# only a comment\n", "train_vqvae:\n", "train_vqvae:\n  tune:\n    # trials: 3\n"])
def test_an_empty_file_or_section_changes_nothing(text: str, base: Path, tmp_path: Path) -> None:
    empty = write(tmp_path / "empty.yaml", text)
    assert loading.load([empty], {}, base=base) == loading.load([], {}, base=base)


def test_a_missing_file_is_refused_by_name(base: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.yaml does not exist; in presets/ are:"):
        loading.load([tmp_path / "absent.yaml"], {}, base=base)


def test_a_folder_is_no_file_of_settings(base: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"{tmp_path.name} is a folder; in presets/ are:"):
        loading.load([tmp_path], {}, base=base)


def test_a_preset_is_found_from_any_folder_and_one_that_lies_there_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    preset = Path("presets/imagenette.yaml")
    assert loading.load([preset], {}) == loading.load([ROOT / preset], {})
    (tmp_path / "presets").mkdir()
    write(tmp_path / preset, "run: {seed: 17}\n")
    assert loading.load([preset], {}) == loading.load([], {"run.seed": 17})


def test_changed_keys_are_those_that_differ_from_what_ships(tmp_path: Path) -> None:
    assert loading.changed_keys(loading.load([], {})) == {}
    changed = loading.load([], {"train_vqvae.epochs": 3, "run.seed": 8, "data.image_size": 32})
    assert loading.changed_keys(changed) == {"train_vqvae.epochs": 3, "run.seed": 8}
    edited = write(tmp_path / "config.yaml", "train_vqvae: {epochs: 3}")
    assert loading.changed_keys(loading.load([], {}, base=edited)) == {"train_vqvae.epochs": 3}


def test_a_resolved_config_written_and_read_is_the_same(base: Path, tmp_path: Path) -> None:
    """As stages store it in the run folder."""
    cfg = loading.load([], {"reconstruct_masked.percentages": [10, 50]}, base=base)
    stored = write(tmp_path / "stored.yaml", yaml.safe_dump(cfg.model_dump(mode="json")))
    assert loading.load([], {}, base=stored) == cfg


def test_replacing_values_checks_them() -> None:
    section = Config().train_vqvae
    assert section.replace({"epochs": 3}).epochs == 3 and section.epochs != 3
    with pytest.raises(ValueError, match="epochs"):
        section.replace({"epochs": 0})


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("train_vqvae.stride", "4 | 8 | 16"),
        ("run.device", "auto | cpu | cuda | mps"),
        ("train_vqvae.learning_rate", "number > 0, <= 100"),
        ("train_vqvae.hidden", "whole number >= 8, <= 8192, multiple of 8"),
        ("train_vqvae.restart_share", "number >= 0, < 1"),
        ("data.images_per_class", "whole number >= 1, <= 1,000,000,000 or null"),
        ("data.classes", "whole number >= 2, <= 100,000 or list of text or null"),
        ("reconstruct_masked.percentages", "list of whole number >= 0, <= 100"),
        ("run.mlflow", "true | false"),
        ("train_distil.tune.space", "mapping"),
        ("train_vqvae.tune.study", "text or null"),
    ],
)
def test_ranges_are_described_in_words(key: str, words: str) -> None:
    assert loading.describe_range(dict(FIELDS)[key]) == words


def test_options_are_all_settings_and_nothing_else() -> None:
    assert set(dict(FIELDS)) == set(flatten(Config().model_dump()))


def test_a_study_of_two_kinds_is_refused():
    with pytest.raises(loading.ConfigError, match="expected one kind of prior in a study"):
        loading.check({"train_prior": {"tune": {"space": {"kind": ["gan", "pixelcnn"]}}}})
