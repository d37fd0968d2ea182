"""Run folders and the hand-off between stages."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from masked_memory.pipeline import files, runs
from masked_memory.pipeline.files import InputError, read_json, write_json
from masked_memory.pipeline.processes import this_process
from masked_memory.pipeline.runs import RunFolder, Sought, bury_gone, check_handed, named_run, read_best, resolve_run
from toys import ROOT

MEND = "python train_vqvae.py"


def made(runs: Path, stage: str = "train_vqvae", digest: str = "d1", status: str = "running") -> RunFolder:
    folder = RunFolder.create(runs, stage, "run:\n  seed: 0\n", digest)
    folder.update(status=status)
    return folder


def finished(runs: Path, key: str = "split a", score: float | None = 0.1, lower: bool = True) -> RunFolder:
    folder = made(runs)
    folder.finish(key, score, "mse", lower)
    return folder


def best_of(runs: Path) -> dict[str, str]:
    """key -> name of the best run, which best.json says as well."""
    best = read_best(runs, "train_vqvae")
    assert read_json(runs / "train_vqvae" / "best.json") == best
    return {key: entry["run"] for key, entry in best.items()}


def said(error: pytest.ExceptionInfo[InputError]) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


# Run folders


def test_a_run_folder_holds_its_settings_and_its_state(tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path, "train_vqvae", "run:\n  seed: 3\n", "d1")
    assert folder.path.parent == tmp_path / "train_vqvae"
    assert (folder.path / "config.yaml").read_text(encoding="utf-8") == "run:\n  seed: 3\n"
    running = {"stage": "train_vqvae", "status": "running", "digest": "d1", "process": this_process()}
    assert folder.record() == running
    folder.update(status="finished", score=0.5)
    assert folder.record() == running | {"status": "finished", "score": 0.5}
    folder.write_metrics({"psnr": 20.5})
    assert read_json(folder.path / "metrics.json") == {"psnr": 20.5}


def test_runs_started_in_the_same_second_have_folders_of_their_own(tmp_path: Path) -> None:
    assert len({made(tmp_path).path for _ in range(5)}) == 5


def test_history_written_again_has_no_line_twice(tmp_path: Path) -> None:
    folder = made(tmp_path)
    folder.write_history([{"epoch": 1, "val_loss": 0.5}])
    folder.write_history([{"epoch": 1, "val_loss": 0.5}, {"epoch": 2, "val_loss": 0.4}])
    lines = (folder.path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2]


def test_only_an_unfinished_run_with_the_same_settings_is_found(tmp_path: Path) -> None:
    assert RunFolder.take_unfinished(tmp_path, "train_vqvae", "d1") is None
    made(tmp_path, status="finished")
    made(tmp_path, digest="d2")
    made(tmp_path, "train_distil", status="finished")
    assert RunFolder.take_unfinished(tmp_path, "train_vqvae", "d1") is None
    killed = made(tmp_path)
    assert RunFolder.take_unfinished(tmp_path, "train_vqvae", "d1") == killed
    killed.update(status="failed")
    assert RunFolder.take_unfinished(tmp_path, "train_vqvae", "d1") == killed
    killed.update(status="finished")
    assert RunFolder.take_unfinished(tmp_path, "train_vqvae", "d1") is None


def of_process(folder: RunFolder, pid: int) -> RunFolder:
    folder.update(process={"host": this_process()["host"], "pid": pid})
    return folder


def test_a_run_that_another_process_is_at_is_not_taken_from_it(tmp_path: Path) -> None:
    other = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    folder = of_process(made(tmp_path), other.pid)
    with pytest.raises(InputError, match=f"is being run by process {other.pid}; wait until it ends"):
        RunFolder.take_unfinished(tmp_path, "train_vqvae", "d1")
    assert folder.record()["process"]["pid"] == other.pid
    other.communicate()
    assert RunFolder.take_unfinished(tmp_path, "train_vqvae", "d1") == folder
    assert folder.record()["process"] == this_process()


def test_runs_whose_process_is_gone_are_noted_as_killed_and_others_are_left(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    gone, tracked = (of_process(made(tmp_path), ended.pid) for _ in range(2))
    (gone.path / "config.yaml").write_text("run: {mlflow: false}", encoding="utf-8")
    finished = of_process(made(tmp_path, status="finished"), ended.pid)
    elsewhere = made(tmp_path)
    elsewhere.update(process={"host": "another machine", "pid": ended.pid})
    of_0_1 = made(tmp_path)
    of_0_1.update(process={})
    (gone.path / ".fit.safetensors.0123abcd.safetensors").write_text("half")
    (made(tmp_path).path / "run.json").write_text("torn {")
    before = [each.record() for each in (finished, elsewhere, of_0_1, tracked)]
    assert bury_gone(tmp_path, "train_vqvae", tracked=False) == [gone]
    assert (gone.record()["status"], gone.record()["error"]) == ("killed", "its process ended without a word")
    assert not list(gone.path.glob(".fit*"))
    assert [each.record() for each in (finished, elsewhere, of_0_1, tracked)] == before
    assert bury_gone(tmp_path, "train_vqvae", tracked=True) == [tracked]
    assert bury_gone(tmp_path, "train_vqvae", tracked=True) == []


@pytest.mark.parametrize("content", [b"run: null", b"run: 3", b"[1, 2]", b"run: {mlflow", b"\xff\xfe\x00"])
def test_a_gone_run_with_damaged_settings_may_be_known_to_mlflow(content: bytes, tmp_path: Path) -> None:
    """And fails nobody."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    gone = of_process(made(tmp_path), ended.pid)
    (gone.path / "config.yaml").write_bytes(content)
    assert bury_gone(tmp_path, "train_vqvae", tracked=False) == []
    assert bury_gone(tmp_path, "train_vqvae", tracked=True) == [gone]


def test_the_newest_unfinished_run_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = []
    for second in (2, 9, 5):
        monkeypatch.setattr(runs.time, "strftime", lambda form, s=second: f"20300101-00000{s}")
        folders.append(made(tmp_path))
    assert RunFolder.take_unfinished(tmp_path, "train_vqvae", "d1") == folders[1]


# The best run


@pytest.mark.parametrize("lower_is_better", [True, False])
def test_the_better_score_stays_in_either_direction(lower_is_better: bool, tmp_path: Path) -> None:
    good, bad = (1.0, 2.0) if lower_is_better else (2.0, 1.0)
    runs = [finished(tmp_path, score=score, lower=lower_is_better) for score in (bad, good, bad)]
    assert best_of(tmp_path) == {"split a": runs[1].name}
    entry = read_best(tmp_path, "train_vqvae")["split a"]
    assert (entry["score"], entry["metric"], entry["lower_is_better"]) == (good, "mse", lower_is_better)


def test_each_key_has_a_best_run_of_its_own(tmp_path: Path) -> None:
    first, second = finished(tmp_path), finished(tmp_path, "split b", 9.9)
    assert best_of(tmp_path) == {"split a": first.name, "split b": second.name}


def test_of_equal_scores_and_without_a_score_the_newest_run_is_the_best(tmp_path: Path) -> None:
    """The one that ended last, whatever its name."""
    for score in (None, 0.1):
        _, second = (finished(tmp_path, f"split {score}", score) for _ in range(2))
        assert best_of(tmp_path)[f"split {score}"] == second.name


def test_the_best_is_found_again_when_best_json_is_gone_or_damaged_and_runs_are_deleted_or_renamed(
    tmp_path: Path,
) -> None:
    file = tmp_path / "train_vqvae" / "best.json"
    first, second = finished(tmp_path, score=0.1), finished(tmp_path, score=0.9)
    file.unlink()
    assert resolve(tmp_path) == first.path
    file.write_text("{", encoding="utf-8")
    assert resolve(tmp_path) == first.path and best_of(tmp_path) == {"split a": first.name}
    moved = renamed(first, "my best one")
    assert resolve(tmp_path) == moved and best_of(tmp_path) == {"split a": moved.name}
    shutil.rmtree(moved)
    assert resolve(tmp_path) == second.path
    third = finished(tmp_path, score=0.95)
    assert resolve(tmp_path) == second.path and best_of(tmp_path) == {"split a": second.name} != third.name


def test_runs_of_before_scores_had_a_direction_and_a_time_count_as_well(tmp_path: Path) -> None:
    """As c5e1d6a wrote run.json."""
    for score in (0.5, 0.2):
        made(tmp_path).update(status="finished", key="split a", score=score, metric="mse")
    assert read_best(tmp_path, "train_vqvae")["split a"]["score"] == 0.2


def test_runs_that_cannot_be_read_or_have_not_ended_well_are_never_the_best(tmp_path: Path) -> None:
    good = finished(tmp_path, score=0.5)
    for content in ("{", "[]", "{}", '{"status": "finished"}'):
        (made(tmp_path).path / "run.json").write_text(content, encoding="utf-8")
    made(tmp_path).update(key="split a", score=0.1, metric="mse")
    assert resolve(tmp_path) == good.path


def test_run_json_that_says_something_else_is_passed_over(tmp_path: Path) -> None:
    kept = made(tmp_path)
    for content in ("{}", "[1]", "3"):
        (made(tmp_path).path / "run.json").write_text(content, encoding="utf-8")
    assert RunFolder.take_unfinished(tmp_path, "train_vqvae", "d1") == kept


@pytest.mark.parametrize("lower_is_better", [True, False])
def test_a_score_that_is_no_number_is_never_the_best(lower_is_better: bool, tmp_path: Path) -> None:
    first = finished(tmp_path, score=0.5, lower=lower_is_better)
    finished(tmp_path, score=float("nan"), lower=lower_is_better)
    assert best_of(tmp_path) == {"split a": first.name}


def test_runs_that_are_alike_come_before_better_ones_and_others_where_there_are_none(tmp_path: Path) -> None:
    good, better = finished(tmp_path, score=0.5), finished(tmp_path, score=0.2)

    def taken(like: Callable[[Path], bool]) -> Path:
        return resolve_run(tmp_path, "best", Sought("train_vqvae", "split a", "", MEND), like=like)

    assert taken(lambda folder: folder == good.path) == good.path
    assert taken(lambda folder: False) == better.path


# Finding a run


def resolve(runs: Path, asked: str = "best", key: str = "split a") -> Path:
    return resolve_run(runs, asked, Sought("train_vqvae", key, "split a (32 pixels)", MEND))


def test_best_is_the_best_run_of_the_key(tmp_path: Path) -> None:
    runs = [finished(tmp_path, score=score) for score in (0.5, 0.2, 0.9)]
    assert resolve(tmp_path) == runs[1].path


def test_a_named_run_folder_is_taken_even_from_elsewhere(tmp_path: Path) -> None:
    folder = made(tmp_path / "other runs", status="finished")
    assert resolve(tmp_path, str(folder.path)) == folder.path


def renamed(folder: RunFolder, name: str) -> Path:
    return folder.path.rename(folder.path.with_name(name))


def test_runs_are_named_by_path_name_or_a_part(tmp_path: Path) -> None:
    one = renamed(made(tmp_path, status="finished"), "20200101-000000-aaaa")
    for word in (str(one), f"{one}/", one.name, "aaaa", "20200101"):
        assert named_run(tmp_path, word) == resolve(tmp_path, word) == one
    other = renamed(made(tmp_path, "train_distil", status="finished"), "20200101-000000-bbbb")
    assert resolve(tmp_path, "20200101") == one  # the other is of another stage
    with pytest.raises(InputError, match=r"20200101 stands for 2 runs: .*bbbb, .*aaaa; type one of them whole"):
        named_run(tmp_path, "20200101")
    assert named_run(tmp_path, "20200101", "train_distil") == other


@pytest.mark.parametrize(
    ("word", "start"),
    [
        ("cccc", "cccc is neither a run folder nor the name of a run in"),
        ("", "'' is neither a run folder nor"),
        ("a b", "'a b' is neither"),
    ],
)
def test_what_is_no_run_is_said_as_it_was_typed(word: str, start: str, tmp_path: Path) -> None:
    made(tmp_path)
    with pytest.raises(InputError) as caught:
        resolve(tmp_path, word)
    assert said(caught).startswith(start) and said(caught).endswith("ab12, or best")


def test_a_folder_without_a_run_is_said_to_have_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no run\.json in it"):
        named_run(tmp_path, str(tmp_path))


def test_a_run_that_was_ended_too_early_is_not_read(tmp_path: Path) -> None:
    """One that has its model can be: it was ended while it was measured."""
    folder = made(tmp_path)
    folder.update(status="killed")
    with pytest.raises(InputError) as caught:
        resolve(tmp_path, folder.name)
    assert "run.json says killed" in str(caught.value) and "python train_vqvae.py --resume" in str(caught.value)
    write_json(folder.model / "meta.json", {})
    assert resolve(tmp_path, folder.name) == folder.path


def test_a_missing_run_says_for_what_and_what_to_type(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        resolve(tmp_path)
    message = said(caught)
    assert "train_vqvae for split a (32 pixels)" in message and message.endswith(f"type: {MEND}")
    finished(tmp_path, "split b")
    with pytest.raises(InputError, match=r"1 for others"):
        resolve(tmp_path)


def test_a_folder_that_is_no_run_is_refused_with_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        resolve(tmp_path, str(tmp_path / "nowhere"))
    assert "nowhere" in said(caught) and said(caught).endswith("ab12, or best")


def test_a_hand_off_that_fits_passes_and_one_that_does_not_names_both_values() -> None:
    file = Path("runs") / "x" / "meta.json"
    check_handed(file, {"codebook_size": 256, "split": "abc", "more": 1}, {"codebook_size": 256, "split": "abc"}, MEND)
    with pytest.raises(InputError) as caught:
        check_handed(file, {"codebook_size": 256, "split": "abc"}, {"split": "abc", "codebook_size": 128}, MEND)
    assert said(caught) == f"{file}: codebook_size is 256, but 128 is needed here; type: {MEND}"
    with pytest.raises(InputError, match="split is None, but abc is needed"):
        check_handed(file, {}, {"split": "abc"}, MEND)


FINISHES = """
import sys
from collections.abc import Callable
from pathlib import Path
from masked_memory.pipeline.runs import RunFolder
runs, worker = Path(sys.argv[1]), int(sys.argv[2])
for number in range(25):
    RunFolder.create(runs, "stage", "", "").finish("all", 1.0 - (25 * worker + number) / 1000, "mse", True)
"""


def test_a_hundred_runs_that_finish_at_once_are_all_entered(tmp_path: Path) -> None:
    call = [sys.executable, "-c", FINISHES, str(tmp_path)]
    workers = [subprocess.Popen([*call, str(number)], cwd=ROOT) for number in range(4)]
    assert [worker.wait(timeout=120) for worker in workers] == [0] * 4
    best = read_json(tmp_path / "stage" / "best.json")
    assert set(best) == {"all"} and best["all"]["score"] == pytest.approx(1.0 - 99 / 1000)
    assert len(list((tmp_path / "stage").glob("*/run.json"))) == 100


def test_a_file_that_stays_locked_is_said_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "LOCK_SECONDS", 0.1)
    with (
        files.alone(tmp_path / "best.json"),
        pytest.raises(InputError, match=r"best\.json has been locked for 0\.1 s by another process"),
        files.alone(tmp_path / "best.json"),
    ):
        pass
