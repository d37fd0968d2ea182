"""The short form of `make torture`, and that its judges would notice."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from campaigns import bad_settings as campaign
from campaigns import faults as fault_tries
from campaigns import late_settings
from campaigns.bad_settings import FILES, WORDS, Typed, bad_settings, refused_values, try_settings
from campaigns.faults import Fault, digests, disk_with, faults, longest_file, mounts, try_fault, try_two_at_once
from campaigns.forked import Ended, World, make_little_world
from campaigns.kills import not_said
from campaigns.late_settings import Taken, ends_of, judge_late, taken_settings, try_taken
from campaigns.outcomes import Outcome, table_of, wrong_of
from campaigns.strange_files import judge_decoded
from campaigns.torn_files import HARMS, Harm, cut, emptied, flipped, try_torn, whole_run
from masked_memory.pipeline.files import write_json
from masked_memory.sources.pictures import Decoded
from strangers import File

pytestmark = pytest.mark.system

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
    assert judge_late(Ended(status, text, 1.0), lasting)[0] == ending


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


# --- disks, databases and torn files ----------------------------------------------------------------------------------

FORKS = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes cannot be forked on this system")


@pytest.fixture(scope="module")
def little(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_little_world(tmp_path_factory.mktemp("little"), tracked=True)


@FORKS
@pytest.mark.parametrize(
    "what",
    [
        "train_vqvae: a disk with 20,000 bytes left", "vqvae_reconstruction: a disk that takes no writing",
        "data_split: files of at most 1,000 bytes", "vqvae_reconstruction: mlflow.db garbage",
        "vqvae_reconstruction: mlflow.db locked", "train_vqvae: optuna.db holed", "sample: clock set back",
    ],
)  # fmt: skip
def test_a_fault_is_survived_or_said_in_a_line(what: str, little: World, tmp_path: Path) -> None:
    found = [fault for fault in faults() if f"{fault.stage}: {fault.what}" == what]
    if not found and "disk" in what and not mounts():
        pytest.skip("this process may not mount file systems")
    (fault,) = found
    outcome = try_fault(fault, little, tmp_path)
    assert outcome.ending in fault.may, outcome


@FORKS
@pytest.mark.parametrize(
    ("stage", "pattern", "harm", "ending"),
    [
        ("train_vqvae", "data_split/*/images.npy", flipped, "refused"),
        ("sample", "train_vqvae/*/model/model.safetensors", cut, "refused"),
        ("vqvae_reconstruction", "train_vqvae/best.json", emptied, "survived"),
        ("vqvae_reconstruction", "train_distil/*/metrics.jsonl", emptied, "survived"),
    ],
)
def test_a_torn_file_is_refused_or_makes_no_difference(
    stage: str, pattern: str, harm: Callable[..., None], ending: str, little: World, tmp_path: Path
) -> None:
    for name in ("whole", "torn"):
        (tmp_path / name).mkdir()
    (file,) = little.runs.glob(pattern)
    name = file.relative_to(little.runs)
    whole = whole_run(stage, little, tmp_path / "whole")
    outcome = try_torn(stage, name, Harm(harm, 1), little, whole, tmp_path / "torn")
    assert outcome.ending == ending, outcome


def bare_world(folder: Path) -> World:
    (folder / "world").mkdir(parents=True)
    (folder / "world" / "old.txt").write_text("old")
    return World(folder / "world", folder, folder / "little.yaml")


def overwrites() -> int:
    import sys

    (Path(sys.argv[4]) / "old.txt").write_text("new")
    return 0


@FORKS
@pytest.mark.parametrize(
    ("main", "may", "ending"),
    [
        (lambda: 0, ("survived",), "survived"),
        (lambda: 0, ("refused",), "wrong"),
        (leaves_nothing_and_refuses, ("survived",), "wrong"),
        (leaves_nothing_and_refuses, ("survived", "refused"), "refused"),
        (overwrites, ("survived",), "wrong"),
        (fails, ("survived", "refused"), "wrong"),
    ],
)
def test_what_a_fault_may_lead_to_is_judged(
    main: Callable[[], int], may: tuple[str, ...], ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fault_tries.importlib, "import_module", lambda name: SimpleNamespace(main=main))
    outcome = try_fault(Fault("x", "train_vqvae", may=may), bare_world(tmp_path), tmp_path)
    assert outcome.ending == ending, outcome


def says_one_folder() -> int:
    print("runs/train_vqvae/x")
    return 0


@FORKS
def test_two_at_once_have_folders_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fault_tries.importlib, "import_module", lambda name: SimpleNamespace(main=says_one_folder))
    outcome = try_two_at_once("train_vqvae", bare_world(tmp_path), tmp_path)
    assert outcome.ending == "wrong" and "one run folder" in outcome.said


def writes_much() -> int:
    import sys

    (Path(sys.argv[4]) / "new.txt").write_bytes(bytes(5000))
    return 0


@FORKS
def test_limits_of_files_and_disks_are_met(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A try that could write would prove nothing."""
    monkeypatch.setattr(fault_tries.importlib, "import_module", lambda name: SimpleNamespace(main=writes_much))
    tries = [(Fault("x", "s", limit=longest_file(4000)), "File too large")]
    tries += [(Fault("x", "s", limit=longest_file(9000)), "")]
    if mounts():
        tries += [(Fault("x", "s", lambda runs: disk_with(0, runs)), "No space left")]
        tries += [(Fault("x", "s", lambda runs: disk_with(None, runs)), "Read-only")]
        tries += [(Fault("x", "s", lambda runs: disk_with(20_000, runs)), "")]
    for number, (fault, said) in enumerate(tries):
        own = tmp_path / str(number)
        outcome = try_fault(fault, bare_world(own), own)
        assert outcome.ending == ("wrong" if said else "survived") and said in outcome.said, outcome


@pytest.mark.parametrize("harm", HARMS, ids=lambda harm: harm.__name__)
def test_a_harm_changes_a_file_and_the_same_seed_the_same_way(harm: Callable[..., None], tmp_path: Path) -> None:
    left = []
    for number in range(2):
        file = tmp_path / str(number)
        file.write_bytes(bytes(range(200)))
        Harm(harm, 3)(file)
        left.append(file.read_bytes() if file.is_file() else file.is_dir())
    assert left[0] == left[1] != bytes(range(200))


def test_databases_and_lists_that_grow_do_not_count_as_changed(tmp_path: Path) -> None:
    for name in ("mlflow.db", "mlflow.db-wal", "best.json", "run.json"):
        (tmp_path / name).write_text("x")
    assert list(digests(tmp_path)) == ["run.json"]


ASKED = "trial 1 of 4\ninterrupted; to go on, type: python train_vqvae.py --resume\n"


@pytest.mark.parametrize(
    ("sent", "status", "noted", "said", "wrong"),
    [
        ("SIGTERM", 143, "killed", ASKED, []),
        ("SIGINT", 130, "killed", ASKED, []),
        ("SIGKILL", -9, "running", "", []),
        ("SIGINT", 0, "finished", "", []),
        ("SIGTERM", -15, None, "", []),
        ("SIGTERM", -15, "finished", "", []),
        ("SIGTERM", -15, "running", ASKED, ["run.json says running", "status -15, not 143"]),
        ("SIGINT", 130, "killed", f"Exception ignored\nTraceback\n{ASKED}", ["said"]),
        ("SIGINT", 130, "killed", "KeyboardInterrupt\n", ["said"]),
    ],
    ids=["TERM", "INT", "KILL", "ended before", "no run yet", "just ended", "not noted", "traceback", "not told"],
)
def test_how_a_run_that_was_asked_to_end_has_ended_is_judged(
    sent: str, status: int, noted: str | None, said: str, wrong: list[str], tmp_path: Path
) -> None:
    """Before there is a run, and after it, nothing is judged."""
    if noted:
        (tmp_path / "a run").mkdir()
        write_json(tmp_path / "a run" / "run.json", {"status": noted})
    found = not_said(tmp_path, sent, status, said)
    assert len(found) == len(wrong) and all(each.startswith(start) for each, start in zip(found, wrong, strict=True))


def test_the_table_counts_each_campaign_and_all() -> None:
    outcomes = [Outcome("a", "1", "survived"), Outcome("a", "2", "wrong", "why"), Outcome("b", "3", "refused")]
    assert table_of(outcomes) == [["a", 2, 1, 0, 1], ["b", 1, 0, 1, 0], ["all", 3, 1, 1, 1]]
    assert wrong_of(outcomes) == [outcomes[1]] and table_of([]) == []
