"""What all training stages share: epochs, optimizer, and the search space of Optuna."""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, ClassVar, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, ValidationError, model_validator

from masked_memory.settings.kinds import Only, Real, Section, Whole, flatten, nearest


class Tune(Section):
    """An Optuna study. `space`: key of the stage -> list of choices, or {low, high, log}."""

    trials: Annotated[Whole, Field(ge=0, le=100_000)] = 3
    """How many settings to try before the final fit; 0 skips tuning."""
    epochs: Annotated[Whole, Field(ge=1, le=1_000_000), Only("trials")] = 3
    """Epochs of a trial."""
    share: Annotated[Real, Field(gt=0, le=1), Only("trials")] = 1.0
    """Share of the training and validation pictures that a trial sees, evenly spread over the classes."""
    patience: Annotated[Whole, Field(ge=1, le=1_000_000), Only("trials")] = 3
    """Epochs without a better validation score after which a trial stops."""
    startup_trials: Annotated[Whole, Field(ge=0, le=100_000), Only("trials")] = 2
    """Trials before bad ones are pruned."""
    study: Annotated[str | None, Only("trials")] = None
    """Name of a study to continue and add to; null starts one for this run."""
    storage: Annotated[str | None, Only("trials")] = None
    """Database of the study, such as postgresql://user@host/optuna; null: optuna.db in run.dir. The password comes from
    the environment (PGPASSWORD)."""
    space: Annotated[dict[str, list[int | float | str | bool] | dict[str, Any]], Only("trials")] = {}
    """What is searched: KEY: [choices] or KEY: {low: x, high: y, log: true}."""

    @model_validator(mode="after")
    def _storage_without_password(self) -> Self:
        """Settings are written to run folders and logged, so a password must not be among them."""
        if self.storage is not None and "://" not in self.storage:
            raise ValueError(
                f"tune.storage is {self.storage}; expected a database URL such as postgresql://user@host/optuna"
            )
        if self.storage is not None and urlsplit(self.storage).password is not None:
            raise ValueError("tune.storage holds a password; set it in the environment instead, such as PGPASSWORD")
        return self


class Training(Section):
    """What all training stages have.

    SHAPE: keys that decide what the model is; runs of the same shape are compared first. KIND: keys that say which kind
    of model is trained, which later stages ask for in settings of their own. TAKEN_AS: the setting with which a later
    stage names a run.
    """

    SHAPE: ClassVar[tuple[str, ...]] = ()
    KIND: ClassVar[tuple[str, ...]] = ()
    TAKEN_AS: ClassVar[str] = ""

    epochs: Annotated[Whole, Field(ge=1, le=1_000_000)] = 12
    """Epochs of the final fit at most."""
    least_steps: Annotated[Whole, Field(ge=0, le=10**9)] = 0
    """Steps that all epochs together have at least: with few pictures an epoch is then several passes over them."""
    batch_size: Annotated[Whole, Field(ge=1, le=100_000)] = 32
    """Pictures per step."""
    optimizer: Literal["muon", "adamw"] = "muon"
    """muon: Muon for hidden matrices and kernels, AdamW for the rest; adamw: AdamW for all."""
    learning_rate: Annotated[Real, Field(gt=0, le=100)] = 1e-3
    """Peak of the learning rate: linear warm-up, then cosine to zero."""
    weight_decay: Annotated[Real, Field(ge=0, le=100)] = 1e-4
    """On matrices and kernels only."""
    warmup: Annotated[Real, Field(ge=0, lt=1)] = 0.05
    """Share of the steps over which the learning rate rises."""
    clip_norm: Annotated[Real, Field(gt=0, le=1e9)] = 1.0
    """Largest norm of the gradient."""
    patience: Annotated[Whole, Field(ge=1, le=1_000_000)] = 5
    """Epochs without a better validation score after which training stops."""
    retrain: bool = False
    """After the fit, train afresh on train + validation for the best number of epochs."""
    tune: Tune = Tune()
    """The search before the final fit."""

    @model_validator(mode="after")
    def _space_fits(self) -> Self:
        """Every value the search may try is one that the stage takes; text such as 1e-3 becomes the number it is."""
        checked, problems = {}, []
        if self.tune.space and not self._alone_is_valid():
            return self  # its own error says what is wrong
        for key, values in self.tune.space.items():
            try:
                checked[key] = _checked_entry(self, key, values)
            except ValueError as error:
                problems.append(str(error))
        if problems:
            raise ValueError("\n".join(problems))
        self.tune.space.update(checked)
        return self

    def unlike(self, used: Mapping[str, Any], keys: Iterable[str]) -> dict[str, tuple[Any, Any]]:
        """key -> (in `used`, here) of the keys in which a run was made otherwise: with another value, which is not one
        that is searched either. used: its section, dotted key -> value; keys that it lacks are passed over."""
        mine, space = flatten(self.model_dump(mode="json")), self.tune.space if self.tune.trials else {}
        return {
            key: (used[key], mine[key])
            for key in keys
            if key in used and used[key] != mine[key] and not within(used[key], space.get(key, []))
        }

    def _alone_is_valid(self) -> bool:
        """Whether the section would be without its search."""
        try:
            self.replace({"tune": Tune().model_dump()})
        except ValidationError:
            return False
        return True


def within(value: Any, entry: Any) -> bool:
    """Whether a value is one of those that an entry of a search space stands for."""
    if isinstance(entry, list):
        return value in entry
    return isinstance(value, int | float) and float(entry["low"]) <= value <= float(entry["high"])


NOT_SEARCHED = ("patience", "retrain")
MOST_CHECKED = 5000  # whole numbers of a range that are tried one by one


def _checked_entry(section: Training, key: str, values: Any) -> Any:
    """One entry of a search space, its values as the key itself would take them.

    Raises ValueError for unknown keys, values out of range, and ranges that are none.
    """
    known = [name for name in type(section).model_fields if name != "tune"]
    if key not in known:
        raise ValueError(f"tune.space.{key} is not a key of this stage{nearest(key, known)}")
    if key in NOT_SEARCHED or (key == "epochs" and not section.least_steps):
        raise ValueError(
            f"tune.space.{key} would change no trial: trials have tune.epochs, tune.patience and no retrain"
        )
    if isinstance(values, list):
        if not values:
            raise ValueError(f"tune.space.{key} is empty; expected at least one choice")
        return [_checked_candidate(section, key, value) for value in values]
    if set(values) - {"low", "high", "log"} or not {"low", "high"} <= set(values):
        raise ValueError(f"tune.space.{key} is {values}; expected low, high and optionally log, or a list")
    low, high = (_checked_candidate(section, key, values[end]) for end in ("low", "high"))
    log = values.get("log", False)
    if isinstance(low, bool) or not isinstance(low, int | float):
        raise ValueError(f"tune.space.{key}: {key} takes no numbers; expected a list of choices")
    if low > high or not isinstance(log, bool) or (log and low <= 0):
        raise ValueError(f"tune.space.{key}: low {low}, high {high}, log {log} are not a range")
    if isinstance(low, int):
        for value in range(low, min(high, low + MOST_CHECKED) + 1):
            _checked_candidate(section, key, value)
    return {"low": low, "high": high, "log": log}


def _checked_candidate(section: Training, key: str, value: Any) -> Any:
    try:
        return getattr(section.replace({key: value, "tune": Tune().model_dump()}), key)
    except ValidationError as error:
        message = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise ValueError(f"tune.space.{key}: {value!r} is not a value of {key} ({message})") from None
