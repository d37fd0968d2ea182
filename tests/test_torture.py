"""The short form of `make torture`, and that its judges would notice."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from campaigns import bad_settings as campaign
from campaigns.bad_settings import FILES, WORDS, Typed, bad_settings, refused_values, try_settings
from campaigns.outcomes import Outcome, table_of, wrong_of
from campaigns.strange_files import judge_decoded
from sources.pictures import Decoded
from strangers import File

SHORT = 30


@pytest.mark.parametrize(
    "typed", bad_settings(len(FILES) + len(WORDS) + SHORT, seed=1)[-SHORT:], ids=lambda one: one.what[:40]
)
def test_settings_that_a_key_does_not_take_are_refused_with_nothing_left_behind(typed: Typed, tmp_path: Path) -> None:
    outcome = try_settings(typed, tmp_path)
    assert outcome.ending == "refused", outcome


@pytest.mark.parametrize("words", WORDS, ids=" ".join)
def test_words_that_are_no_settings_are_refused(words: tuple[str, ...], tmp_path: Path) -> None:
    outcome = try_settings(Typed("", "train_vqvae", words), tmp_path)
    assert outcome.ending == "refused", outcome


def fails() -> int:
    raise ValueError("not foreseen")


def leaves_a_folder() -> int:
    import sys

    Path(sys.argv[-1]).mkdir()
    print("error: too late", file=sys.stderr)
    return 2


@pytest.mark.parametrize(
    ("main", "why"),
    [
        (fails, "ValueError: not foreseen"),
        (lambda: 0, "status 0"),
        (lambda: 2, "status 2"),
        (leaves_a_folder, "left behind"),
    ],
)
def test_what_is_not_refused_in_a_line_is_wrong(
    main: Callable[[], int], why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(campaign.importlib, "import_module", lambda name: SimpleNamespace(main=main))
    outcome = try_settings(Typed("x", "train_vqvae"), tmp_path)
    assert outcome.ending == "wrong" and why in outcome.said


def test_values_follow_the_words_of_the_help() -> None:
    assert {"0", "1.5", "null", "true", ".nan"} <= set(refused_values("whole number >= 1, <= 1,024"))
    assert "0" in refused_values("number > 0") and "1.5" not in refused_values("number > 0")
    assert "null" not in refused_values("whole number >= 1 or null")
    assert refused_values("text or null") == [] == refused_values("list of text")


def test_a_file_that_became_something_else_is_wrong() -> None:
    grey = np.full((16, 16, 3), 9, np.uint8)
    shown, refused = File("a", b"", grey, 1, None), File("a", b"", None, 0, "is no picture")
    endings = {
        judge_decoded("x", decoded, file).ending
        for decoded, file in (
            (Decoded("", "", grey + 2, None), shown), (Decoded("", "", None, "is no picture"), shown),
            (Decoded("", "", grey, None), refused), (Decoded("", "", None, "other"), refused),
            (Decoded("", "", None, "is no picture,\nas"), refused),
        )
    }  # fmt: skip
    assert endings == {"wrong"}
    assert judge_decoded("x", Decoded("", "", grey + 1, None), shown).ending == "survived"
    assert judge_decoded("x", Decoded("", "", None, "it is no picture"), refused).ending == "refused"


def test_the_table_counts_each_campaign_and_all() -> None:
    outcomes = [Outcome("a", "1", "survived"), Outcome("a", "2", "wrong", "why"), Outcome("b", "3", "refused")]
    assert table_of(outcomes) == [["a", 2, 1, 0, 1], ["b", 1, 0, 1, 0], ["all", 3, 1, 1, 1]]
    assert wrong_of(outcomes) == [outcomes[1]] and table_of([]) == []
