"""The short form of `make torture`, and that its judges would notice."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from campaigns import bad_settings as campaign
from campaigns import late_settings
from campaigns.bad_settings import FILES, WORDS, Typed, bad_settings, refused_values, try_settings
from campaigns.late_settings import Taken, World, ends_of, judge_ended, taken_settings, try_taken
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


@pytest.mark.parametrize(
    ("takes", "ends"),
    [
        ("whole number >= 1, <= 1,000,000", ["1", "1000000"]),
        ("whole number >= 0, < 2,147,483,648 or null", ["0", "2147483647"]),
        ("number > 0, <= 100", ["1e-300", "100.0"]),
        ("number >= 0, < 1", ["0.0", "0.999999999"]),
        ("list of whole number >= 1, <= 99", ["[1]", "[99]"]),
        ("true | false", []),
        ("text or null", []),
    ],
)
def test_ends_are_those_that_the_help_names(takes: str, ends: list[str]) -> None:
    assert ends_of(takes) == ends


@pytest.mark.parametrize(
    ("status", "text", "lasting", "ending"),
    [
        (0, "runs/train_vqvae/x", False, "survived"),
        (2, "error: batch_size 9 needs 8 GB", False, "refused"),
        (1, "error: the loss is not finite at step 3", False, "survived"),
        (None, "", True, "survived"),
        (None, "", False, "wrong"),
        (2, "", False, "wrong"),
        (-9, "", False, "wrong"),
        (1, "error: something else", False, "wrong"),
        (2, "Traceback (most recent call last)\nerror: x", False, "wrong"),
    ],
)
def test_how_a_try_ended_is_judged(status: int | None, text: str, lasting: bool, ending: str) -> None:
    assert judge_ended(status, text, lasting)[0] == ending


def test_all_numbers_of_all_stages_are_tried_at_their_ends() -> None:
    every = {(taken.stage, *taken.words) for taken in taken_settings(10**6)}
    assert ("train_vqvae", "--train_vqvae.hidden", "8192") in every
    assert ("reconstruct_masked", "--reconstruct_masked.temperature", "0.001") in every
    assert len(every) > 350
    assert len(taken_settings(20, seed=3)) == 20 and taken_settings(20, seed=3) == taken_settings(20, seed=3)


def forked(tmp_path: Path, main: Callable[[], int]) -> Outcome:
    (tmp_path / "world").mkdir()
    world = World(tmp_path / "world", tmp_path, tmp_path / "little.yaml")
    return try_taken(Taken("train_vqvae", ()), world, tmp_path, {"train_vqvae": main})


def takes_all_memory() -> int:
    return len(bytearray(8 * 10**9))


def leaves_a_run_and_refuses() -> int:
    import sys

    folder = Path(sys.argv[4]) / "train_vqvae" / "x"
    folder.mkdir(parents=True)
    (folder / "run.json").write_text("{}")
    return leaves_nothing_and_refuses()


def leaves_nothing_and_refuses() -> int:
    import sys

    print("error: found that, expected this", file=sys.stderr)
    return 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes cannot be forked on this system")
@pytest.mark.parametrize(
    ("main", "ending", "said"),
    [
        (lambda: 0, "survived", ""),
        (leaves_nothing_and_refuses, "refused", "found that, expected this"),
        (leaves_a_run_and_refuses, "wrong", "a run folder was left"),
        (fails, "wrong", "ValueError: not foreseen"),
        (takes_all_memory, "wrong", "MemoryError"),
        (lambda: time.sleep(60), "wrong", "not done after 1 s"),
    ],
)
def test_a_forked_try_is_seen_as_it_ended(
    main: Callable[[], int], ending: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(late_settings, "SECONDS", 1.0)
    outcome = forked(tmp_path, main)
    assert outcome.ending == ending and said in outcome.said


def test_the_table_counts_each_campaign_and_all() -> None:
    outcomes = [Outcome("a", "1", "survived"), Outcome("a", "2", "wrong", "why"), Outcome("b", "3", "refused")]
    assert table_of(outcomes) == [["a", 2, 1, 0, 1], ["b", 1, 0, 1, 0], ["all", 3, 1, 1, 1]]
    assert wrong_of(outcomes) == [outcomes[1]] and table_of([]) == []
