"""The command line: every mistake is one line and exit status 2, with nothing half-written."""

import errno
import importlib
import os
import subprocess
import sys

import pytest
import torch

from masked_memory.pipeline.commands import module_of
from masked_memory.pipeline.files import InputError
from masked_memory.settings import command, loading
from masked_memory.settings.config import Config
from masked_memory.settings.helping import CHANGED_MOST
from masked_memory.settings.reconstruct_masked import OwnPicture
from masked_memory.stages import data_split, reconstruct_masked, train_vqvae
from toys import ROOT


def stage(argv, run=train_vqvae.run, name="train_vqvae"):
    return command.stage_main(name, run, "text", argv=[str(word) for word in argv])


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--config", "nowhere.yaml"], ["nowhere.yaml does not exist", "in presets/ are:", " imagenette.yaml"]),
        (["--train_vqvae.learning_rate", "-1"], ["train_vqvae.learning_rate is -1; expected number > 0"]),
        (["--train_vqvae.epochs", "many"], ["train_vqvae.epochs is 'many'; expected whole number"]),
        (["--train_vqvae.epochs", ""], ["train_vqvae.epochs is ''; expected whole number"]),
        (["--data.train", "0.9"], ["train + val + test is 1.2; expected 1"]),
        (["--data.image_size", "36", "--train_vqvae.stride", "8"], ["36 is not divisible by train_vqvae.stride 8"]),
        (["--train_vqvae.reconstruction_loss", "l1"], ["expected mse | bce"]),
        (["--train_vqvae.tune.space", "{epoks: [1]}"], ["tune.space.epoks", "did you mean epochs"]),
    ],
)
def test_bad_setting_is_one_line_and_status_2(tmp_path, capsys, argv, words):
    assert stage([*argv, "--run.dir", tmp_path / "runs"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and all(word in lines[0] for word in words), lines
    assert not (tmp_path / "runs").exists()


def test_misspelt_key_in_an_overlay_names_the_right_one(tmp_path, capsys):
    (tmp_path / "mine.yaml").write_text("train_vqvae: {codebok_size: 64, epochs: 0}\n")
    assert stage(["--config", tmp_path / "mine.yaml"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert "train_vqvae.codebok_size is not a setting; did you mean train_vqvae.codebook_size?" in "".join(lines)
    assert any("train_vqvae.epochs is 0; expected whole number >= 1" in line for line in lines)  # all at once


def test_misspelt_options_are_all_named_with_the_right_ones(capsys):
    assert stage(["--train_vqvae.epochz", "3", "--data.clases=4", "--train_vqvae.hidden", "7"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert "error: train_vqvae.epochz is not a setting; did you mean train_vqvae.epochs?" in lines
    assert "error: data.clases is not a setting; did you mean data.classes?" in lines
    assert len(lines) == 3 and any("train_vqvae.hidden is 7" in line for line in lines)


def test_option_without_its_section_names_it(capsys):
    assert stage(["--epochs", "3", "--nonsense"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "error: --epochs is not an option; did you mean --train_vqvae.epochs?"
    assert lines[1].startswith("error: --nonsense is not an option; expected --section.key VALUE")


@pytest.mark.parametrize(
    ("typed", "meant"), [("--dryrun", "--dry-run"), ("--resum", "--resume"), ("--confg", "--config")]
)
def test_misspelt_options_that_are_no_settings_are_named_too(capsys, typed, meant):
    assert stage([typed]) == 2
    assert capsys.readouterr().err == f"error: {typed} is not an option; did you mean {meant}?\n"


@pytest.mark.system
@pytest.mark.parametrize("lines", [1, 100_000])
def test_a_reader_that_goes_away_ends_the_program_in_a_line(lines):
    """Short outputs fail at the end of the process, long ones within the run. As in `python STAGE.py | head -1`."""
    program = (
        "import sys; from masked_memory.settings import command\n"
        f"run = lambda cfg, resume: print('\\n'.join(['a line'] * {lines}))\n"
        "sys.exit(command.stage_main('summary', run, 'text', argv=[], resumable=False))"
    )
    ended = subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    ended.stdout.close()
    assert ended.stderr.read() == "what read the output is gone\n"
    assert ended.wait() == 141


def test_both_streams_may_lose_their_reader(tmp_path):
    """As in `python STAGE.py 2>&1 | head -1`."""
    program = (
        "import sys; from masked_memory.settings import command\n"
        "run = lambda cfg, resume: print('\\n'.join(['a line'] * 100_000))\n"
        "status = command.stage_main('summary', run, 'text', argv=[], resumable=False)\n"
        f"open({str(tmp_path / 'status')!r}, 'w').write(str(status))"
    )
    ended = subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    ended.stdout.close()
    assert ended.wait() == 0 and (tmp_path / "status").read_text() == "141"


def test_another_broken_pipe_is_not_taken_for_the_output():
    program = (
        "import sys; from masked_memory.settings import command\n"
        "def run(cfg, resume): raise BrokenPipeError('of a worker')\n"
        "sys.exit(command.stage_main('summary', run, 'text', argv=[], resumable=False))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "of a worker" in done.stderr


def test_a_dry_run_of_what_makes_no_run_is_refused(capsys):
    """Or it would be done, by someone who asked for nothing to be done."""
    ran = []
    argv = ["--run.dry_run", "true"]
    status = command.stage_main("summary", lambda cfg, resume: ran.append(1), "text", resumable=False, argv=argv)
    assert status == 2 and not ran
    assert "summary makes no run of a stage; type --run.dry_run false" in capsys.readouterr().err


def test_one_entry_of_a_search_space_can_be_set(capsys):
    seen = []

    def run(cfg, resume):
        seen.append(cfg.train_vqvae.tune.space)

    assert stage(["--train_vqvae.tune.space.code_dim", "[8]"], run) == 0
    shipped = loading.load([], {}).train_vqvae.tune.space
    assert seen == [shipped | {"code_dim": [8]}]


def test_a_refused_source_leaves_nothing_behind(tmp_path, capsys):
    argv = ["--run.dir", tmp_path / "runs", "--data.source", tmp_path / "nowhere"]
    assert stage(argv, data_split.run, "data_split") == 2
    assert "is not a folder; type --data.source" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_missing_stage_output_is_status_2_and_names_the_command(tmp_path, capsys):
    assert stage(["--run.dir", tmp_path / "runs"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: no finished run of data_split")
    assert error.endswith(f"type: python data_split.py --run.dir {tmp_path / 'runs'}")  # as it can be typed
    assert not (tmp_path / "runs").exists()


def test_absent_gpu_is_status_2(tmp_path, capsys):

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    assert stage(["--run.dir", tmp_path, "--run.device", "cuda"]) == 2
    assert "run.device is cuda, but this machine has: cpu" in capsys.readouterr().err


def test_unwritable_folder_is_status_2(tmp_path, capsys):
    """A file stands where the runs folder should be."""
    (tmp_path / "runs").write_text("in the way")
    argv = ["--run.dir", tmp_path / "runs", "--data.images_per_class", "5"]
    assert stage(argv, data_split.run, "data_split") == 2
    assert "cannot write" in capsys.readouterr().err
    assert (tmp_path / "runs").read_text() == "in the way"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EFBIG, errno.EACCES])
@pytest.mark.parametrize("named", [True, False])
def test_a_disk_that_takes_no_more_is_status_2(capsys, number, named):
    """Also where a library wrote, and where the error does not say to which file."""

    def full(cfg, resume):
        raise OSError(number, os.strerror(number), *(["some/file"] if named else []))

    assert stage([], full) == 2
    place = "some/file" if named else "runs"
    expected = f"error: cannot write {place}: {os.strerror(number)}; make room or name another folder with --run.dir\n"
    assert capsys.readouterr().err == expected


def test_other_errors_of_the_system_are_not_taken_for_a_full_disk():
    def broken(cfg, resume):
        raise ConnectionResetError(errno.ECONNRESET, "reset")

    with pytest.raises(ConnectionResetError):
        stage([], broken)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 9.31 TiB"),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried"),
    ],
)
def test_memory_that_is_refused_is_status_2(capsys, error):
    def large(cfg, resume):
        raise error

    assert stage([], large) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: out of memory; take fewer pictures at once (batch_size") and said.count("\n") == 1


def test_interrupt_says_how_to_go_on(capsys):
    def interrupted(cfg, resume):
        raise KeyboardInterrupt

    assert stage([], interrupted) == 130
    assert "--resume" in capsys.readouterr().err


def test_interrupted_what_cannot_be_resumed_does_not_name_resume(capsys):
    def interrupted(cfg, resume):
        raise KeyboardInterrupt

    assert command.stage_main("summary", interrupted, "", argv=[], resumable=False) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_values_that_differ_from_the_shipped_ones_are_shown(capsys):
    def refuses(cfg, resume):
        raise InputError("enough")

    stage(["--train_vqvae.epochs", "3"], refuses)
    assert "train_vqvae.epochs = 3" in capsys.readouterr().out


def test_a_stage_runs_with_this_machine_named_as_one_without_a_proxy(monkeypatch):
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "corp.example")
    seen = []
    assert stage([], lambda cfg, resume: seen.extend(os.environ[name] for name in ("no_proxy", "NO_PROXY"))) == 0
    assert seen == ["corp.example,127.0.0.1,localhost,::1"] * 2


def test_help_explains_every_key_with_range_and_default(capsys):
    for section in list(Config.model_fields)[2:]:
        with pytest.raises(SystemExit) as exit_:
            stage(["--help-all"], name=section)
        assert exit_.value.code == 0
        text = " ".join(capsys.readouterr().out.split())
        for name, field in loading.options(Config):
            mine = name.split(".")[0] in (section, "run", "data")
            assert (f"--{name} VALUE" in text) == mine
            assert not mine or " ".join(field.description.split()) in text
        assert "[true | false; default true]" in text
        assert section != "train_vqvae" or "number > 0, <= 100; default 0.01" in text


STAGES_WITH_HELP = [name for name in Config.model_fields if name not in ("run", "data")]


@pytest.mark.parametrize("section", STAGES_WITH_HELP)
def test_help_fits_a_screen_with_what_is_changed_most_first_and_every_key_named(capsys, section):
    module = importlib.import_module(module_of(section))
    with pytest.raises(SystemExit) as exit_:
        command.stage_main(section, module.run, module.__doc__, getattr(module, "SHORTCUTS", None), ["--help"])
    assert exit_.value.code == 0
    text = capsys.readouterr().out
    assert len(text.splitlines()) <= 50 and max(map(len, text.splitlines())) <= 120
    most, _, rest = text.partition("changed most:")[2].partition("all keys;")
    assert most.count("\n  --") == len(CHANGED_MOST[section]) <= 5
    for name, _ in loading.options(Config):
        part, _, key = name.partition(".")
        assert part not in (section, "run", "data") or f" {key}" in rest


def test_what_is_changed_most_are_keys():
    keys = dict(loading.options(Config))
    for name, most in CHANGED_MOST.items():
        assert all(key in keys or f"{name}.{key}" in keys for key in most)


def test_shortcut_stands_for_its_key():
    seen = []

    def run(cfg, resume):
        seen.append((cfg.vqvae_reconstruction.input, resume))

    options = {"--input": "vqvae_reconstruction.input"}
    assert command.stage_main("vqvae_reconstruction", run, "", options, ["--input", "a.png", "--resume"]) == 0
    assert seen == [("a.png", True)]


@pytest.mark.parametrize("name", ["01", "1_000", "3.10", "true", "2024-01-01", "0x1F", "[a]"])
def test_names_that_yaml_reads_as_something_else_stay_as_typed(name):
    """A class folder 01 is no number 1."""
    seen = []

    def run(cfg, resume):
        seen.append((cfg.reconstruct_masked.own.label, cfg.run.dir))

    argv = ["--class", name, "--run.dir", name]
    assert command.stage_main("reconstruct_masked", run, "", {"--class": "reconstruct_masked.own.label"}, argv) == 0
    assert seen == [(name, name)]


@pytest.mark.parametrize(("typed", "meant"), [("null", None), ("'01'", "01"), ("n01440764", "n01440764")])
def test_text_can_be_null_or_quoted_as_in_yaml(typed, meant):
    """What config.as_typed writes, is read back."""
    seen = []
    argv = ["--reconstruct_masked.own.label", typed]
    assert stage(argv, lambda cfg, resume: seen.append(cfg.reconstruct_masked.own.label), "reconstruct_masked") == 0
    assert seen == [meant]
    assert stage([argv[0], loading.as_typed(meant)], lambda cfg, resume: seen.append(cfg), "reconstruct_masked") == 0
    assert seen[1].reconstruct_masked.own.label == meant


def test_every_shortcut_of_recall_stands_for_a_key_of_its_own_picture(capsys):
    keys = [meant if isinstance(meant, str) else meant[0] for meant in reconstruct_masked.SHORTCUTS.values()]
    known = {name for name, _ in loading.options(Config)}
    assert set(keys) <= known and len(set(keys)) == len(keys)
    with pytest.raises(SystemExit):
        command.stage_main("reconstruct_masked", data_split.run, "", reconstruct_masked.SHORTCUTS, ["--help-all"])
    text = " ".join(capsys.readouterr().out.split())
    assert all(f"{option} VALUE" in text for option in reconstruct_masked.SHORTCUTS)
    assert all(f"short for --{key}" in text for key in keys)


# The command line


def options(argv: list[str]) -> tuple[int, list[OwnPicture]]:
    seen = []
    shortcuts = {
        "--image": "reconstruct_masked.own.image",
        "--box": ("reconstruct_masked.own.box", 4),
        "--percent": "reconstruct_masked.own.percent",
    }
    status = command.stage_main(
        "reconstruct_masked", lambda cfg, resume: seen.append(cfg.reconstruct_masked.own), "", shortcuts, argv
    )
    return status, seen


def test_an_option_can_take_four_values(capsys: object) -> None:
    status, seen = options(["--image", "a.jpg", "--box", "3", "4", "20", "24", "--percent", "12.5"])
    assert (status, seen[0].image, seen[0].box, seen[0].percent) == (0, "a.jpg", [3, 4, 20, 24], 12.5)
    status, seen = options(["--reconstruct_masked.own.box", "[3, 4, 20, 24]"])
    assert (status, seen[0].box) == (0, [3, 4, 20, 24])
    capsys.readouterr()
    assert options(["--box", "3", "4", "-1", "x"])[0] == 2
    assert all("reconstruct_masked.own.box is" in line for line in capsys.readouterr().err.splitlines())
    with pytest.raises(SystemExit) as ended:
        options(["--box", "3", "4"])
    assert ended.value.code == 2 and "--box" in capsys.readouterr().err.splitlines()[-1]
