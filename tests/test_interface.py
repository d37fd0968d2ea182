"""The interface for Python: what is asked for comes back in the shape that is promised, and what cannot be used is
refused in the words of the project."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import masked_memory as mm
from masked_memory.interface.results import tiled
from masked_memory.recall.choosing import ORDERS
from masked_memory.settings import loading
from masked_memory.settings.strategies import STRATEGIES
from masked_memory.try_it import main as try_it
from toys import ROOT, Ran, words_of

SIDE, GRID, CODES = 32, 8, 256  # of the shipped models


@pytest.fixture(scope="module")
def memory() -> mm.ImageMemory:
    return mm.load("shipped", device="cpu")


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    return mm.examples()[0][:4]


@pytest.fixture
def own() -> Iterator[None]:
    """Strategies that a test registers are gone after it."""
    before = set(STRATEGIES)
    yield
    for name in set(STRATEGIES) - before:
        del STRATEGIES[name], ORDERS[name]


# --- importing --------------------------------------------------------------------------------------------------------


@pytest.mark.system
def test_importing_is_quick_and_changes_nobodys_path(tmp_path: Path) -> None:
    code = (
        f"import sys, time; sys.path.insert(0, {str(ROOT)!r}); before = list(sys.path); start = time.perf_counter()\n"
        "import masked_memory; took = time.perf_counter() - start\n"
        "assert took < 0.5 and 'torch' not in sys.modules and sys.path == before, took\n"
        "assert set(masked_memory.__all__) <= set(dir(masked_memory))\n"
        "[getattr(masked_memory, name) for name in masked_memory.__all__]\n"
        "assert sys.path == before and not any(name in sys.modules for name in ('vqvae', 'masking', 'models'))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr, list(tmp_path.iterdir())) == (0, "", [])


def test_a_name_that_there_is_not_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"has no attribute 'laod'; it has .*load"):
        mm.laod  # noqa: B018


# --- loading ----------------------------------------------------------------------------------------------------------


def test_the_shipped_models_are_there_before_anything_was_trained(
    memory: mm.ImageMemory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert mm.load(device="cpu").folders == memory.folders
    assert (memory.side, memory.channels, memory.grid, len(memory.classes)) == (SIDE, 3, GRID, 10)
    assert "8x8 tokens, K 256" in repr(memory) and list(tmp_path.iterdir()) == []


def test_a_folder_of_runs_is_taken_where_one_stands_and_by_name(ran: Ran, monkeypatch: pytest.MonkeyPatch) -> None:
    overlay = Path(words_of("train_vqvae", ran.runs, ran.source)[2])
    given = {"data.source": str(ran.source), "run.mlflow": False}
    monkeypatch.chdir(ran.runs.parent)
    for runs in (None, ran.runs, "runs"):
        found = mm.load(runs, data=overlay, settings=given, device="cpu")
        assert found.folders["train_vqvae"].resolve() == ran.folders["train_vqvae"].resolve()
    assert found.recall(ran.source / "class0" / "00.png", forget=0.5, strategy="random").pictures.shape[0] == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"runs": "nowhere"}, "nowhere is no folder; expected one of runs"),
        ({"runs": "."}, r"no finished run of data_split.*type: .*data_split"),
        ({"data": "absent.yaml"}, "config file absent.yaml does not exist"),
        ({"settings": {"train_vqvae.epoch": 3}}, "train_vqvae.epoch is not a setting; did you mean train_vqvae.epochs"),
        ({"device": "tpu"}, "run.device is tpu"),
    ],
)
def test_what_cannot_be_loaded_is_refused(
    call: dict, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(mm.InputError, match=message):
        mm.load(**{"device": "cpu", **call})
    assert list(tmp_path.iterdir()) == []


# --- pictures and tokens ----------------------------------------------------------------------------------------------


def test_pictures_come_in_many_forms_and_mean_the_same(
    memory: mm.ImageMemory, pictures: np.ndarray, tmp_path: Path
) -> None:
    one, expected = pictures[0], memory.encode(pictures[:1])
    Image.fromarray(one).save(tmp_path / "one.png")
    tensor = torch.from_numpy(one).permute(2, 0, 1)
    transparent = np.concatenate([one, np.full_like(one[..., :1], 255)], axis=2)
    forms = [one, one / 255, Image.fromarray(one), tensor, tensor / 255, tensor[None], str(tmp_path / "one.png"),
             tmp_path / "one.png", [one], (Image.fromarray(one),), transparent, tensor.float() / 255]  # fmt: skip
    for form in forms:
        assert torch.equal(memory.encode(form), expected)
    several = [one, Image.fromarray(pictures[1]), tmp_path / "one.png"]
    assert torch.equal(memory.encode(several), memory.encode(pictures[[0, 1, 0]]))


def test_grey_pictures_and_other_sizes_are_fitted(memory: mm.ImageMemory, pictures: np.ndarray) -> None:
    grey = pictures[0].mean(2).astype(np.uint8)
    assert torch.equal(memory.encode(grey), memory.encode(np.stack([grey] * 3, axis=2)))
    large = Image.fromarray(pictures[0]).resize((64, 48))
    assert memory.recall([large, grey], strategy="half").originals.shape == (2, SIDE, SIDE, 3)


def test_tokens_are_painted_and_pictures_judged(memory: mm.ImageMemory) -> None:
    pictures, classes = mm.examples()
    tokens = memory.encode(pictures[:10])
    assert tokens.shape == (10, GRID, GRID) and tokens.dtype == torch.long and 0 <= tokens.min() <= tokens.max() < CODES
    painted = memory.paint(tokens)
    assert painted.shape == (10, SIDE, SIDE, 3) and painted.dtype == np.uint8
    assert np.array_equal(memory.paint(tokens[0].numpy()), painted[:1])
    error = (painted / 255 - pictures[:10] / 255) ** 2
    assert error.mean() < 0.01
    judged = memory.judge(pictures[:10])
    assert [ranked[0][0] for ranked in judged] == classes[:10] == [str(digit) for digit in range(10)]
    assert all(abs(sum(share for _, share in ranked) - 1) < 1e-4 for ranked in judged)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["absent.png"], "picture absent.png does not exist"),
        ([], "no pictures are given"),
        (np.zeros((0, 32, 32, 3), np.uint8), r"no pictures are given|shape \(0, 32"),
        (np.zeros((32, 0, 3), np.uint8), r"shape \(32, 0, 3\)"),
        (np.zeros((32, 32, 2), np.uint8), "has 2 channels; expected 3"),
        (torch.zeros(5, 32, 32), "has 5 channels; expected 3"),
        (np.zeros(32, np.uint8), r"shape \(32,\)"),
        (np.full((32, 32, 3), np.nan), "not finite"),
        (np.full((32, 32, 3), -1.0), "floats from -1 to -1; expected from 0 to 1"),
        (np.full((32, 32, 3), 255.0), "floats from 255 to 255"),
        (np.zeros((32, 32, 3), np.int64), "holds int64"),
        (np.array([["a"]]), "holds <U1"),
        (None, "is a NoneType; expected a path"),
        (3, "is a int; expected a path"),
        (Image.fromarray(np.full((8, 8), 2.0, np.float32)), "has floats from 2 to 2"),
    ],
    ids=range(15),
)
def test_what_is_no_picture_is_refused(memory: mm.ImageMemory, given: object, message: str) -> None:
    for ask in (memory.encode, memory.recall, memory.judge, memory.study):
        with pytest.raises(mm.InputError, match=message):
            ask(given)


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (torch.zeros(1, 4, 4, dtype=torch.long), r"shape \(1, 4, 4\); expected \(B, 8, 8\)"),
        (torch.zeros(8, 8), "torch.float32; expected whole numbers"),
        (torch.full((8, 8), CODES), "from 256 to 256; expected from 0 to 255"),
        (torch.full((8, 8), -1), "from -1 to -1"),
        (torch.zeros(0, 8, 8, dtype=torch.long), r"shape \(0, 8, 8\)"),
        ("words", "tokens are str"),
        (None, "tokens are NoneType"),
    ],
)
def test_what_are_no_tokens_is_refused(memory: mm.ImageMemory, tokens: object, message: str) -> None:
    with pytest.raises(mm.InputError, match=message):
        memory.paint(tokens)


# --- recalling --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_keeps_what_is_asked_for_and_fills_in_the_rest(
    memory: mm.ImageMemory, pictures: np.ndarray, strategy: str
) -> None:
    found = memory.recall(pictures[:2], forget=0.75, strategy=strategy, decoding="argmax")
    assert found.kept.shape == found.tokens.shape == found.filled.shape == (2, GRID, GRID)
    assert (found.kept.flatten(1).sum(1) == 16).all()
    assert torch.equal(found.filled[found.kept], found.tokens[found.kept])
    assert torch.equal(found.tokens, memory.encode(pictures[:2]))
    assert np.array_equal(found.pictures, memory.paint(found.filled)), "argmax paints the codes that were filled in"
    assert np.array_equal(found.originals, pictures[:2]) and np.array_equal(found.whole, memory.paint(found.tokens))
    codes = 16 * np.log2(CODES)
    assert found.bits == codes if STRATEGIES[strategy].free or STRATEGIES[strategy].replayed else found.bits > codes
    expected = ((found.pictures / 255.0 - found.whole / 255.0) ** 2).mean((1, 2, 3))
    assert np.allclose(found.error, expected, atol=2e-4)
    assert [len(ranked) for ranked in found.seen_as] == [10, 10]


def test_nothing_forgotten_is_the_whole_and_everything_needs_no_bits(
    memory: mm.ImageMemory, pictures: np.ndarray
) -> None:
    whole, none = memory.recall(pictures, forget=0), memory.recall(pictures, forget=1)
    assert whole.kept.all() and np.array_equal(whole.pictures, whole.whole) and (whole.error == 0).all()
    assert not none.kept.any() and none.bits == 0 and (none.error > 0).all()
    assert np.array_equal(none.pictures[0], none.pictures[1]), "nothing is known of either"


def test_the_same_seed_gives_the_same_and_another_one_another(memory: mm.ImageMemory, pictures: np.ndarray) -> None:
    first, again, other = (
        memory.recall(pictures, strategy="random", decoding="sample", seed=seed) for seed in (3, 3, 4)
    )
    assert torch.equal(first.kept, again.kept) and np.array_equal(first.pictures, again.pictures)
    assert not torch.equal(first.kept, other.kept)


def test_what_was_found_can_be_looked_at(memory: mm.ImageMemory, pictures: np.ndarray) -> None:
    found = memory.recall(pictures, forget=0.5)
    masked = found.masked()
    gone = ~found.kept.repeat_interleave(4, 1).repeat_interleave(4, 2).numpy()
    assert (masked[gone] == 128).all() and np.array_equal(masked[~gone], pictures[~gone])
    assert found.show().size == (4 + 4 * (96 + 4), 4 + 3 * (96 + 4)) and found._repr_png_().startswith(b"\x89PNG")
    assert tiled([np.zeros((1, 200, 100, 5), np.uint8)]).size == (108, 208), "components are shown as grey"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"forget": 75}, "forget is 75; expected a share from 0 to 1"),
        ({"forget": -0.1}, "forget is -0.1"),
        ({"forget": float("nan")}, "forget is nan"),
        ({"forget": True}, "forget is True"),
        ({"forget": "half"}, "forget is 'half'"),
        ({"strategy": "best"}, "strategy is 'best'; expected one of: random, "),
        ({"decoding": "mean"}, "decoding is 'mean'; expected one of: argmax, sample, expected"),
    ],
)
def test_what_cannot_be_recalled_is_refused(
    memory: mm.ImageMemory, pictures: np.ndarray, call: dict, message: str
) -> None:
    with pytest.raises(mm.InputError, match=message):
        memory.recall(pictures, **call)


# --- completing -------------------------------------------------------------------------------------------------------


def test_a_part_that_is_missing_is_completed_and_the_rest_stays(
    memory: mm.ImageMemory, pictures: np.ndarray, tmp_path: Path
) -> None:
    picture = Image.fromarray(pictures[0]).resize((40, 24))
    missing = np.zeros((24, 40), bool)
    missing[8:16, 10:30] = True
    Image.fromarray(missing).save(tmp_path / "mask.png")
    found = memory.complete(picture, mask=missing, samples=2)
    before, after = np.asarray(found.original), np.asarray(found.picture)
    assert found.picture.size == (40, 24) and np.array_equal(found.missing, missing) and len(found.samples) == 2
    assert np.array_equal(before[~missing], after[~missing]) and (before[missing] != after[missing]).any()
    assert (np.asarray(found.masked)[missing] == 128).all() and found.diversity.shape == (24, 40)
    assert (found.diversity[~missing] == 0).all() and found.note and len(found.seen_as) == 10
    same = [torch.from_numpy(missing), Image.fromarray(missing), tmp_path / "mask.png", str(tmp_path / "mask.png")]
    for form in same:
        assert np.array_equal(np.asarray(memory.complete(picture, mask=form).picture), after)
    assert np.array_equal(np.asarray(memory.complete(picture, mask=[10, 8, 30, 16]).picture), after)
    assert found.show().size[0] > 5 * 40


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"mask": None}, "holds object; expected bool"),
        ({"mask": np.ones((32, 32), bool)}, "everything is missing"),
        ({"mask": np.zeros((32, 32), bool)}, "nothing is missing"),
        ({"mask": np.ones((16, 32), bool)}, r"shape \(16, 32\); expected \(32, 32\)"),
        ({"mask": np.ones((32, 32))}, "holds float64; expected bool"),
        ({"mask": "absent.png"}, "absent.png does not exist"),
        ({"mask": Image.new("L", (5, 4), 255)}, "mask is 5x4; expected 32x32"),
        ({"mask": [0, 0, 40, 4]}, "reaches outside the picture"),
        ({"mask": [0, 0, 4]}, "holds int64; expected bool .* or x0 y0 x1 y1"),
        ({"mask": [0, 0, 4, 4], "samples": -1}, "samples is -1"),
        ({"mask": [0, 0, 4, 4], "decoding": "mean"}, "decoding is 'mean'"),
        ({"mask": [0, 0, 4, 4], "fit": "crop"}, "fit is 'crop'"),
        ({"mask": [0, 0, 4, 4], "label": "3"}, "was trained without classes"),
    ],
)
def test_what_cannot_be_completed_is_refused(
    memory: mm.ImageMemory, pictures: np.ndarray, call: dict, message: str
) -> None:
    with pytest.raises(mm.InputError, match=message):
        memory.complete(pictures[0], **call)


def test_one_picture_is_completed_at_a_time(memory: mm.ImageMemory, pictures: np.ndarray) -> None:
    for several in (pictures, list(pictures)):
        with pytest.raises(mm.InputError, match="several pictures are given; expected one"):
            memory.complete(several, mask=[0, 0, 4, 4])
    with pytest.raises(mm.InputError, match="is a NoneType"):
        memory.complete([], mask=[0, 0, 4, 4])


# --- a strategy of one's own ------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("own")
def test_a_strategy_of_ones_own_stands_beside_the_others(memory: mm.ImageMemory) -> None:
    pictures, classes = mm.examples()

    @mm.strategy("upper")
    def upper(memory, tokens, draws):
        """the upper rows"""
        return -torch.arange(memory.tokens).expand(len(tokens), -1)

    assert mm.strategies()["upper"] == "the upper rows"
    found = memory.recall(pictures[:3], forget=0.5, strategy="upper")
    assert found.kept[:, :4].all() and not found.kept[:, 4:].any()
    assert found.bits > memory.recall(pictures[:1], 0.5, "half").bits, "others cannot know which are kept"
    studied = memory.study(pictures[:6], classes[:6], ["upper", "half"], [50, 100])
    means = studied.means()
    assert means["upper"] == means["half"] and set(means["upper"]) == {50, 100}, "it is what half keeps"
    assert studied.figure().axes[0].get_lines()[0].get_label() == "upper"


@pytest.mark.usefixtures("own")
def test_a_strategy_can_be_registered_again_but_none_of_the_projects(memory: mm.ImageMemory) -> None:
    for value in (1, 2):
        mm.strategy("mine", says=f"try {value}", free=True)(lambda memory, tokens, draws: torch.zeros(tokens.shape))
    assert mm.strategies()["mine"] == "try 2"
    for name, message in (("random", "comes with the project"), ("my one", "cannot be called"), ("any", "cannot be")):
        with pytest.raises(mm.InputError, match=message):
            mm.strategy(name)


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (lambda tokens: torch.zeros(len(tokens)), r"of shape \(2,\); expected \(2, 64\)"),
        (lambda tokens: torch.full(tokens.shape, torch.nan), "not finite"),
    ],
)
def test_what_a_strategy_returns_is_looked_at(
    memory: mm.ImageMemory, pictures: np.ndarray, returned, message: str
) -> None:
    mm.strategy("odd")(lambda memory, tokens, draws: returned(tokens))
    with pytest.raises(mm.InputError, match=f"strategy odd returned numbers.*{message}"):
        memory.recall(pictures[:2], strategy="odd")


MINE = """
import masked_memory as mm
import torch


@mm.strategy("left-first", says="the left columns", free=True)
def left_first(memory, tokens, draws):
    return -torch.arange(memory.side).repeat(memory.side).expand(len(tokens), -1)
"""


@pytest.mark.system
def test_a_module_that_the_settings_name_brings_a_strategy_into_the_study(ran: Ran, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    words = words_of("reconstruct_masked", ran.runs, ran.source, "--run.modules", "mine.py",
                     "--reconstruct_masked.strategies", "[left-first, random]")  # fmt: skip
    done = subprocess.run([sys.executable, *words], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    folder = Path(done.stdout.splitlines()[-1])
    assert "left-first" in (folder / "curves.csv").read_text() and (folder / "paired.csv").read_text().count(
        "left-first"
    )


@pytest.mark.parametrize(
    ("content", "named", "message"),
    [
        (None, "absent.py", "neither a Python file here nor a module"),
        (None, "absent_module", "neither a Python file here nor a module"),
        ("import absent_package", "odd.py", r"ends with ModuleNotFoundError in line 1 of .*odd\.py"),
        ("x = 1\n1 / 0", "odd.py", r"ends with ZeroDivisionError in line 2 of .*odd\.py: division by zero"),
        ("def (", "odd.py", "ends with SyntaxError"),
    ],
)
def test_a_module_that_cannot_be_imported_is_one_error(
    content: str | None, named: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if content is not None:
        (tmp_path / named).write_text(content)
    with pytest.raises(loading.ConfigError, match=rf"^run\.modules names {named}, which .*{message}"):
        loading.load([], {"run.modules": [named]})


@pytest.mark.usefixtures("own")
def test_a_module_is_imported_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "once.py").write_text("with open('seen', 'a') as file: file.write('x')\n" + MINE)
    for _ in range(2):
        settings = {"run.modules": "once.py", "reconstruct_masked.strategies": ["left-first"]}
        assert loading.load([], settings).reconstruct_masked.strategies == ["left-first"]
    assert (tmp_path / "seen").read_text() == "x"


# --- a small study, and a first look ----------------------------------------------------------------------------------


def test_a_study_of_given_pictures_is_the_study_of_the_stage(memory: mm.ImageMemory) -> None:
    pictures, classes = mm.examples()
    studied = memory.study(pictures[:8], classes[:8], ["random", "distortion"], [50, 90], ["argmax", "expected"])
    assert {(row["strategy"], row["percent"]) for row in studied.rows} == {
        (strategy, percent) for strategy in ("random", "distortion") for percent in (50, 90)
    }
    assert studied.means()["distortion"][90] < studied.means()["random"][90]
    alone = memory.recall(pictures[:8], 0.9, "distortion")
    assert studied.means()["distortion"][90] == pytest.approx(float(alone.error.mean()), rel=1e-4)
    assert "classification_error" in studied.measures() and studied.means("cross_entropy")["random"][50] > 0
    unlabelled = memory.study(pictures[:4], None, ["half"], [50])
    assert "classification_error" not in unlabelled.measures() and "disagreement" in unlabelled.measures()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({"strategies": ["best"]}, "strategy is 'best'"),
        ({"strategies": []}, "must each name at least one"),
        ({"percentages": [0.5]}, "percentages has 0.5; expected whole numbers"),
        ({"percentages": [101]}, "percentages has 101"),
        ({"decodings": ["mean"]}, "decoding is 'mean'"),
        ({"labels": ["1"]}, "1 labels for 4 pictures"),
        ({"labels": ["a", "1", "2", "3"]}, "'a' is not a class of the data; expected one of: 0, 1"),
    ],
)
def test_what_cannot_be_studied_is_refused(
    memory: mm.ImageMemory, pictures: np.ndarray, call: dict, message: str
) -> None:
    with pytest.raises(mm.InputError, match=message):
        memory.study(pictures, **call)


def test_a_measure_that_was_not_measured_is_refused(memory: mm.ImageMemory, pictures: np.ndarray) -> None:
    studied = memory.study(pictures[:2], None, ["half"], [50])
    for ask in (studied.means, studied.figure):
        with pytest.raises(mm.InputError, match="mse was not measured; expected one of: mse_to_picture"):
            ask("mse")


def test_a_first_look_writes_one_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    start = time.perf_counter()
    assert try_it([]) == 0
    assert time.perf_counter() - start < 30 and [file.name for file in tmp_path.iterdir()] == ["recalled.png"]
    assert "kept of each picture: 16 of 64 tokens" in capsys.readouterr().out
    assert Image.open(tmp_path / "recalled.png").size == (804, 304)
    assert try_it(["recalled.png", "--forget", "2"]) == 2
    assert capsys.readouterr().err == "error: forget is 2.0; expected a share from 0 to 1, such as 0.75\n"
