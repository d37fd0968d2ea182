"""The one form in which a trained model is handed on, and how its folder is found and checked."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from masked_memory.handoff.split import make_again, mend
from masked_memory.pipeline.files import InputError, check_digests, read_json
from masked_memory.pipeline.runs import check_handed, run_settings
from masked_memory.settings.config import Config

Model = TypeVar("Model", covariant=True)


@dataclass(frozen=True)
class Handed(Generic[Model]):
    """A trained model as a later stage takes it. `meta`: meta.json, what it was made for."""

    stage: str
    folder: Path  # its run folder
    model: Model
    meta: dict[str, Any]

    @property
    def saw_validation(self) -> bool:
        """Whether it was trained again on train + validation in the end."""
        return bool(run_settings(self.folder).get(self.stage, {}).get("retrain"))


def checked_meta(folder: Path, stage: str, expected: dict[str, Any], command: str) -> dict[str, Any]:
    """meta.json of the model in a run folder. Raises InputError when there is none, when it was made for other things,
    and when its files are damaged."""
    file = folder / "model" / "meta.json"
    if not file.is_file():
        raise InputError(f"{folder} has no model ({file} is missing); type: {command}")
    meta: dict[str, Any] = read_json(file)
    check_handed(file, meta, {"stage": stage, **expected}, command)
    check_digests(file.parent, meta.get("files", {}), make_again(folder, stage))
    return meta


def lacks_label_drop(folder: Path, consequence: str, remedy: str) -> InputError:
    """The error of a model that was always told something in training. remedy: what to type or name."""
    return InputError(f"{folder} was trained without label dropping, so {consequence}; {remedy}")


def check_unseen(models: list[Handed[Any]], part: str, cfg: Config) -> None:
    """A model must not be measured on pictures that it was trained on. Raises InputError for one that would be."""
    for handed in models:
        if part != "test" and handed.saw_validation:
            raise InputError(
                f"{handed.folder} was trained again on train + validation (retrain), so reconstruct_masked.part {part} "
                "would measure its own training pictures; type --reconstruct_masked.part test, or: "
                f"{mend(handed.stage, cfg)} --{handed.stage}.retrain false"
            )
