"""--dry-run: what would be used and made is said, and nothing is made."""

from pathlib import Path

import pytest

from masked_memory.pipeline.files import read_json, write_json
from masked_memory.pipeline.runs import duration
from masked_memory.stages import data_split
from toys import STAGES, copied, newest


def files_of(runs: Path) -> dict[str, int]:
    return {str(path.relative_to(runs)): path.stat().st_mtime_ns for path in runs.rglob("*")}


@pytest.mark.parametrize("stage", list(STAGES))
def test_it_names_what_is_used_and_made_and_makes_nothing(ran, typed, tmp_path, stage):
    runs = copied(ran.runs, tmp_path / "runs", *STAGES)
    before = files_of(runs)
    status, out, err = typed(stage, runs, ran.source, "--dry-run")
    assert status == 0, err
    assert files_of(runs) == before
    for role, folder in read_json(ran.folders[stage] / "run.json")["inputs"].items():
        assert f"would use {role}: {runs / role / Path(folder).name}" in out
    assert f"would make {runs / stage}/TIME-ID" in out
    seconds = read_json(newest(runs, stage) / "metrics.json")["seconds"]
    assert f"settings and inputs it last took {duration(seconds)}: {newest(runs, stage)}" in out
    assert "run.dry_run" not in out  # it was typed, and changes no setting of a run


def test_without_earlier_runs_it_says_so(ran, typed, tmp_path):
    status, out, err = typed("data_split", tmp_path / "runs", ran.source, "--dry-run")
    assert status == 0, err
    assert "no earlier run tells how long it takes" in out and not (tmp_path / "runs").exists()


@pytest.mark.system
def test_a_run_to_go_on_with_is_named(ran, typed, tmp_path):
    runs = copied(ran.runs, tmp_path / "runs", *list(STAGES)[:2])
    status, _, err = typed("train_vqvae", runs, ran.source)
    assert status == 0, err
    record = newest(runs, "train_vqvae") / "run.json"
    took = duration(read_json(record.parent / "metrics.json")["seconds"])
    finished = typed("train_vqvae", runs, ran.source, "--dry-run")[1]
    assert f"with these settings and inputs it last took {took}: {record.parent}" in finished
    assert "--resume" not in finished
    write_json(record, read_json(record) | {"status": "killed"})
    before = files_of(runs)
    plain = typed("train_vqvae", runs, ran.source, "--dry-run")[1]
    assert f"with --resume it would go on with {record.parent}" in plain and "would make" in plain
    resumed = typed("train_vqvae", runs, ran.source, "--dry-run", "--resume")[1]
    assert f"would go on with {record.parent}" in resumed and "would make" not in resumed
    assert files_of(runs) == before


def test_what_is_missing_is_refused_as_without_it(ran, typed, tmp_path):
    status, _, err = typed("train_vqvae", tmp_path / "runs", ran.source, "--dry-run")
    assert status == 2 and "no finished run of data_split" in err


def test_the_time_is_of_a_run_that_finished(ran, typed, tmp_path):
    """Of other settings when none had these, and never of one that was killed."""
    runs = copied(ran.runs, tmp_path / "runs", *list(STAGES)[:2])
    folder = newest(runs, "train_vqvae")
    took = duration(read_json(folder / "metrics.json")["seconds"])
    out = typed("train_vqvae", runs, ran.source, "--dry-run", "--train_vqvae.learning_rate", "1.0e-4")[1]
    assert f"with other settings and inputs it last took {took}: {folder}" in out
    write_json(folder / "run.json", read_json(folder / "run.json") | {"status": "killed"})
    assert "no earlier run tells how long it takes" in typed("train_vqvae", runs, ran.source, "--dry-run")[1]


def test_pictures_that_would_be_downloaded_are_not(typed, tmp_path, monkeypatch):
    monkeypatch.setattr(data_split, "imagenette_folder", lambda folder: pytest.fail("was asked for"))
    asked = ("--data.source", "imagenette", "--data.download_dir", str(tmp_path / "there"), "--dry-run")
    status, out, err = typed("data_split", tmp_path / "runs", "imagenette", *asked)
    assert status == 0, err
    assert f"would download Imagenette to {tmp_path / 'there' / 'imagenette2-160'}, about 100 MB" in out
    assert not (tmp_path / "there").exists() and not (tmp_path / "runs").exists()
