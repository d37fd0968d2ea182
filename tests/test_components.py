"""Component masking, inpainting of components, and a decoder that is told metadata."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_pipeline import draw_classes, newest, tiny

import data_split
import sample
import train_vqvae
import vqvae_reconstruction
from handoff.split import mask_of, open_split
from handoff.vqvae import take_vqvae
from masking import all_but, component_mask, hide_components, masked_probability
from measuring import components
from measuring.components import Painter, component_errors
from models.conditioning import Told, columns_of, drop, fit_columns
from pipeline.engine import Plan, fit
from pipeline.figures import component_rows, show_picture, strips
from pipeline.files import InputError, read_csv, read_json, write_json
from pipeline.metrics import mse, ssim, to_unit
from vqvae import VQVAE, VQVAEConfig, describe_config, load_vqvae

CPU = torch.device("cpu")
TINY = VQVAEConfig(16, 5, 4, 16, 1, codebook_size=12, code_dim=6, data_init=False)
TOLD = replace(TINY, condition_numbers=2, condition_classes=(3, 4))
NAMES = ("a", "b", "c", "d", "e")
MANIFEST = [
    {"path": f"{n}.npy", "row": str(n), "class": "xyz"[n % 3], "age": str(n), "kind": "pq"[n % 2]} for n in range(12)
]


def pictures(batch: int = 4) -> torch.Tensor:
    return torch.rand(batch, 5, 16, 16) * 2 - 1


def told(batch: int = 4) -> Told:
    return Told(torch.randn(batch, 2), torch.randint(3, (batch, 2)), torch.ones(batch, dtype=torch.bool))


def awake(config: VQVAEConfig = TOLD) -> VQVAE:
    """A model whose conditioning does something, as after training."""
    model = VQVAE(config).eval()
    torch.nn.init.normal_(model.conditioning.layers[-1].weight)
    torch.nn.init.normal_(model.conditioning.not_told)
    return model


# --- masks of components ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("probability", [0.0, 0.3, 0.7, 1.0])
def test_masked_rows_keep_exactly_one_component_and_are_as_many_as_asked(probability, draws):
    counts, kept = [], torch.zeros(5)
    for _ in range(200):
        mask = component_mask(31, 5, probability, draws)
        hidden = mask.sum(1)
        assert set(hidden.tolist()) <= {0, 4}
        counts.append(int((hidden == 4).sum()))
        kept += (~mask[hidden == 4]).sum(0)
    assert all(abs(count - 31 * probability) < 1 for count in counts)
    assert np.mean(counts) == pytest.approx(31 * probability, abs=0.15)
    if probability:
        assert (kept / kept.sum() - 0.2).abs().max() < 0.04  # each component equally often


def test_the_same_generator_gives_the_same_masks():
    first, second = (component_mask(9, 3, 0.5, torch.Generator().manual_seed(4)) for _ in range(2))
    assert torch.equal(first, second)


def test_the_share_of_masked_pictures_rises_to_its_highest():
    rising = [masked_probability(epoch, 0.7, 20) for epoch in range(40)]
    assert rising[0] == 0 and rising[10] == pytest.approx(0.35) and rising[20:] == [0.7] * 20
    assert masked_probability(0, 0.7, 0) == 0.7


def test_hidden_components_are_zero_and_the_others_untouched(draws):
    x, mask = pictures(), component_mask(4, 5, 1.0, draws)
    hidden = hide_components(x, mask)
    assert (hidden[mask] == 0).all() and torch.equal(hidden[~mask], x[~mask])
    assert torch.equal(hide_components(x, all_but(5, [2]))[:, 2], x[:, 2])


def test_one_component_cannot_be_masked(draws):
    with pytest.raises(ValueError, match="needs at least 2"):
        component_mask(3, 1, 0.5, draws)


# --- inpainting -------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_inpainting_depends_on_the_shown_components_only():
    model, x = VQVAE(TINY).eval(), pictures()
    other = torch.where(torch.arange(5).view(1, 5, 1, 1) == 1, x, pictures())
    painter, mask = Painter("m", model), mask_of(NAMES, ["b"])
    assert torch.equal(painter.paint(x, mask, None), painter.paint(other, mask, None))
    assert torch.equal(painter.paint(x, mask_of(NAMES, NAMES), None), model(x).reconstruction)


def test_unknown_components_are_refused_with_the_names():
    with pytest.raises(InputError, match="component q, r is unknown; expected some of: a, b, c, d, e"):
        mask_of(NAMES, ["a", "q", "r"])
    with pytest.raises(InputError, match="no component is named"):
        mask_of(NAMES, [])


def test_errors_of_components_are_those_of_each_channel_alone():
    a, b = torch.rand(2, 3, 4, 16, 16)
    errors = component_errors(a, b)
    for place in range(4):
        pair = a[:, place : place + 1], b[:, place : place + 1]
        torch.testing.assert_close(errors["mse"][:, place], mse(*pair))
        torch.testing.assert_close(errors["ssim"][:, place], ssim(*pair))
    assert set(component_errors(a[..., :8, :8], b[..., :8, :8])) == {"mse"}


def test_training_on_one_component_learns_to_paint_the_others(machine):
    """Channels that are copies of each other: what one shows, all can be painted from; a plain fit need not know."""
    base = torch.rand(48, 1, 4, 4, generator=torch.Generator().manual_seed(1)) * 2 - 1
    signs = torch.tensor([1.0, -1.0, 1.0]).view(1, 3, 1, 1)
    x = torch.nn.functional.interpolate(base, scale_factor=4) * signs  # (48, 3, 16, 16)

    class Fit:
        def __init__(self, masked: bool) -> None:
            torch.manual_seed(0)
            self.masked, self.model = masked, VQVAE(VQVAEConfig(16, 3, 4, 16, 1, codebook_size=32, code_dim=8))
            self.count = len(x)

        def step(self, rows, generator):
            mask = component_mask(len(rows), 3, 0.7 if self.masked else 0.0, generator)
            return self.model(hide_components(x[rows], mask), generator, target=x[rows]).losses

        def epoch_metrics(self):
            return {}

        def validate(self):
            return {"loss": 0.0}

    plan = Plan(120, 120, 16, 4e-3, 0.0, 0.05, 1.0, None, "loss", True, 0)
    errors = {}
    for masked in (False, True):
        learner = Fit(masked)
        fit(learner, plan, machine, "copies")
        with torch.no_grad():
            painted = Painter("m", learner.model).paint(x, all_but(3, [0]), None)
        errors[masked] = float(mse(to_unit(painted[:, 1:]), to_unit(x[:, 1:])).mean())
    assert errors[True] < 0.6 * errors[False], errors


# --- metadata ---------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_a_conditioned_decoder_starts_as_one_that_is_told_nothing():
    torch.manual_seed(1)
    plain = VQVAE(TINY).eval()
    torch.manual_seed(1)
    model = VQVAE(TOLD).eval()
    x = pictures()
    assert torch.equal(model(x, told=told()).reconstruction, plain(x).reconstruction)
    assert set(plain.state_dict()) < set(model.state_dict())


@torch.no_grad()
def test_guidance_is_the_formula_and_what_is_not_told_does_not_matter():
    model, metadata, indices = awake(), told(), torch.randint(12, (4, 4, 4))
    codes = model.embed_indices(indices)
    raw = model.decoder(codes, model.conditioning(metadata, 4)), model.decoder(codes, model.conditioning(None, 4))
    expected = (raw[1] + 2.5 * (raw[0] - raw[1])).clamp(-1, 1)
    torch.testing.assert_close(model.decode_indices(indices, metadata, 2.5), expected)
    assert torch.equal(model.decode_indices(indices, metadata, 1.0), raw[0].clamp(-1, 1))
    unknown = metadata._replace(known=torch.zeros(4, dtype=torch.bool))
    for scale in (1.0, 3.0):
        assert torch.equal(model.decode_indices(indices, unknown, scale), model.decode_indices(indices))
    assert not torch.equal(raw[0], raw[1])


def test_gradients_reach_what_is_told_and_what_is_not():
    model = awake().train()
    half = told()._replace(known=torch.tensor([True, False, True, False]))
    model(pictures(), told=half).losses["loss"].backward()
    parts = model.conditioning
    for parameter in (parts.numbers.weight, parts.embeddings[0].weight, parts.not_told, parts.layers[1].weight):
        assert parameter.grad.abs().sum() > 0


def test_telling_a_plain_model_is_an_error():
    with pytest.raises(ValueError, match="trained without conditions"):
        VQVAE(TINY).decode_indices(torch.zeros(1, 4, 4, dtype=torch.long), told(1))


def test_columns_standardise_number_and_round_trip(draws):
    found = fit_columns(MANIFEST, range(8), ["age"], ["kind", "class"])
    values = found.tell(MANIFEST)
    assert float(values.numbers[:8].mean()) == pytest.approx(0, abs=1e-6)
    assert float(values.numbers[:8].std(correction=0)) == pytest.approx(1, abs=1e-6)
    assert values.classes.tolist()[:3] == [[0, 0], [1, 1], [0, 2]]
    assert columns_of(json.loads(json.dumps(found.describe()))) == found
    dropped = drop(Told(*(part.repeat(200, *[1] * (part.ndim - 1)) for part in values)), 0.25, draws)
    assert 0.2 < float((~dropped.known).float().mean()) < 0.3


@pytest.mark.parametrize(
    ("change", "numbers", "classes", "message"),
    [
        ({"age": "old"}, ["age"], [], r"metadata age of 3\.npy is 'old'; expected a number"),
        ({"age": "nan"}, ["age"], [], r"metadata age of 3\.npy is 'nan'; expected a number"),
        ({"kind": ""}, [], ["kind"], r"metadata kind of 3\.npy is empty"),
        ({}, ["size"], [], "there is no metadata size in the manifest; expected one of: class, age, kind"),
    ],
)
def test_metadata_that_cannot_be_told_are_refused(change, numbers, classes, message):
    manifest = [row | change if row["path"] == "3.npy" else row for row in MANIFEST]
    with pytest.raises(InputError, match=message):
        fit_columns(manifest, range(8), numbers, classes)


def test_values_that_training_did_not_have_are_refused():
    found = fit_columns(MANIFEST, range(8), [], ["kind"])
    with pytest.raises(InputError, match="is 'r', which training did not have; expected one of: p, q"):
        found.tell([MANIFEST[0] | {"kind": "r"}])


def test_a_model_of_before_conditions_still_loads(tmp_path: Path):
    from pipeline.files import write_safetensors

    model = VQVAE(TINY)
    stored = describe_config(TINY)
    old = {name: value for name, value in stored.items() if not name.startswith("condition")}
    write_json(tmp_path / "config.json", old)
    write_safetensors(tmp_path / "model.safetensors", model.state_dict())
    assert load_vqvae(tmp_path, CPU).config == TINY
    write_json(tmp_path / "config.json", describe_config(TOLD))
    write_safetensors(tmp_path / "model.safetensors", VQVAE(TOLD).state_dict())
    assert load_vqvae(tmp_path, CPU).config == TOLD


# --- figures ----------------------------------------------------------------------------------------------------------


def test_components_are_shown_as_panels_unless_they_are_colours():
    x = torch.rand(2, 3, 4, 6)
    assert component_rows([("x", x)], ("red", "green", "blue"))[0][1] is x
    panels = component_rows([("x", x)], ("u", "v", "w"))[0][1]
    assert panels.shape == (2, 1, 3 * 5 - 1, 6)
    assert torch.equal(panels[:, 0, 5:9], x[:, 1]) and (panels[:, 0, 4] == 1).all()
    from pipeline.figures import new_figure

    axis = new_figure(2, 2)[1][0, 0]
    show_picture(axis, torch.rand(5, 4, 6))
    assert axis.images[0].get_array().shape == strips(torch.rand(1, 5, 4, 6)).shape[2:]


# --- the stages -------------------------------------------------------------------------------------------------------

SECTION = {
    "epochs": 3, "retrain": False, "tune": {"trials": 0}, "condition_numbers": ["age"], "condition_classes": ["class"],
    "label_drop": 0.3, "component_masking": {"enabled": True, "warmup_epochs": 2},
}  # fmt: skip


def stage_settings(runs: Path, source: Path, **changes: object):
    names = ["a", "b", "c", "d"]
    data = {"channels": 4, "components": names, "metadata": str(source.parent / "notes.csv")}
    return tiny(runs, source, **{"run__mlflow": False, "data": data, "train_vqvae": SECTION, **changes})


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """Stacks with metadata, a VQ-VAE with masks and conditions, and its reconstruction."""
    folder = tmp_path_factory.mktemp("components")
    source, rng = folder / "stacks", np.random.default_rng(0)
    lines = ["path,age"]
    for number in range(36):
        kind = number % 3
        (source / f"class{kind}").mkdir(parents=True, exist_ok=True)
        array = rng.random((4, 16, 16)).astype(np.float32) * 0.3 + kind / 3
        np.save(source / f"class{kind}" / f"{number:02d}.npy", array)
        lines.append(f"class{kind}/{number:02d}.npy,{20 + number}")
    (folder / "notes.csv").write_text("\n".join(lines))
    cfg = stage_settings(folder / "runs", source)
    for stage in (data_split, train_vqvae, vqvae_reconstruction):
        stage.run(cfg)
    return cfg, folder / "runs", source


def first_of(runs: Path, stage: str) -> Path:
    """The run that the fixture made; tests add others."""
    return min((runs / stage).glob("*/config.yaml"), key=lambda path: path.stat().st_mtime_ns).parent


def history(runs: Path) -> list[dict]:
    return [json.loads(line) for line in (first_of(runs, "train_vqvae") / "metrics.jsonl").read_text().splitlines()]


def test_mask_p_is_logged_and_the_model_says_what_it_was_trained_for(ran):
    cfg, runs, _ = ran
    lines = history(runs)
    assert [line["train_mask_p"] for line in lines] == pytest.approx([0, 0.35, 0.7])
    mixed = [0.3 * line["val_loss"] + 0.7 * line["val_kept_loss"] for line in lines]
    assert [line["val_masking_loss"] for line in lines] == pytest.approx(mixed)
    (key, best), *others = read_json(runs / "train_vqvae" / "best.json").items()
    assert key.endswith("-masked components-told age, class") and not others
    assert best["score"] in [pytest.approx(line["val_kept_mse"]) for line in lines]
    handed = take_vqvae(cfg, str(first_of(runs, "train_vqvae")), open_split(cfg), CPU)
    assert handed.component_masking and handed.label_drop == 0.3 and handed.meta["components"] == list("abcd")
    assert [column.name for column in handed.columns.numbers + handed.columns.classes] == ["age", "class"]
    assert "test_mse_not_told" in read_json(handed.folder / "metrics.json")


def test_components_csv_has_every_pair_and_the_right_numbers(ran):
    cfg, runs, _ = ran
    folder = first_of(runs, "vqvae_reconstruction")
    rows = read_csv(folder / "components.csv")
    split = open_split(cfg)
    handed = take_vqvae(cfg, str(first_of(runs, "train_vqvae")), split, CPU)
    pairs = {(row["shown"], row["component"]) for row in rows if row["model"] == handed.folder.name}
    assert pairs == {(shown, name) for shown in (*"abcd", "all") for name in "abcd"}
    test = split.positions("test")
    x = split.pictures(test)
    with torch.no_grad():
        painted = Painter("m", handed.model).paint(x, mask_of(split.components, ["b"]), test)
    expected = component_errors(to_unit(painted), to_unit(x))
    row = next(r for r in rows if r["model"] != "mean" and (r["shown"], r["component"]) == ("b", "c"))
    assert float(row["mse"]) == pytest.approx(float(expected["mse"][:, 2].mean()), rel=1e-4)
    assert float(row["ssim"]) == pytest.approx(float(expected["ssim"][:, 2].mean()), rel=1e-4)
    assert float(row["seconds_per_picture"]) > 0
    assert {"components.png", "component_errors.png"} <= {file.name for file in (folder / "figures").glob("*.png")}


def test_a_rival_stands_beside_it_and_metadata_are_told(ran):
    cfg, runs, source = ran
    first = first_of(runs, "train_vqvae")
    plain = stage_settings(runs, source, train_vqvae={**SECTION, "component_masking": {"enabled": False}, "epochs": 1})
    train_vqvae.run(plain)
    second = newest(runs, "train_vqvae")
    section = {"vqvae": str(first), "rival": str(second), "tell_metadata": True, "guidance_scale": 1.5}
    vqvae_reconstruction.run(stage_settings(runs, source, vqvae_reconstruction=section))
    folder = newest(runs, "vqvae_reconstruction")
    rows = read_csv(folder / "components.csv")
    assert {row["model"] for row in rows} == {"mean", first.name, second.name}
    metrics = read_json(folder / "metrics.json")
    assert metrics["rival_test_inpainting_mse"] > 0 and metrics["test_inpainting_mse"] > 0
    split = open_split(cfg)
    handed = take_vqvae(cfg, str(first), split, CPU)
    positions = np.arange(3)
    metadata = handed.columns.tell(split.manifest).rows(positions)
    with torch.no_grad():
        x = split.pictures(positions)
        painted = handed.model.decode_indices(handed.model.encode_indices(x), metadata, 1.5)
    stored = [float(row["mse"]) for row in read_csv(folder / "pictures.csv")[:3]]
    assert stored == pytest.approx(mse(to_unit(painted), to_unit(x)).tolist(), rel=1e-4)


def test_own_stacks_are_painted_from_the_named_components(ran):
    cfg, runs, source = ran
    file = next((source / "class1").glob("*.npy"))
    for section in ({"components": "a,c"}, {}):
        given = {"vqvae_reconstruction": {"input": str(file), **section}}
        vqvae_reconstruction.run(stage_settings(runs, source, **given))
        folder = newest(runs, "vqvae_reconstruction") / "own"
        painted = np.load(next(folder.glob("*.npz")))
        assert painted.files == list("abcd") and painted["a"].shape == (16, 16)
        low, high = open_split(cfg).stacks.ranges[0]
        assert low - 1e-6 <= painted["a"].min() and painted["a"].max() <= high + 1e-6
        row = read_csv(folder / "pictures.csv")[0]
        assert {"mse", "mse_a", "ssim_d"} <= set(row)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"components": ["a", "z"], "input": "SOURCE"}, "component z is unknown; expected some of: a, b, c, d"),
        ({"components": ["a"]}, "--components needs pictures"),
        ({"guidance_scale": 2.0}, "nothing is told; type --vqvae_reconstruction.tell_metadata true"),
    ],
)
def test_what_cannot_be_shown_or_told_leaves_no_run_folder(ran, section, message):
    _, runs, source = ran
    section = {key: str(source / "class0") if value == "SOURCE" else value for key, value in section.items()}
    before = sorted((runs / "vqvae_reconstruction").iterdir())
    with pytest.raises(InputError, match=message):
        vqvae_reconstruction.run(stage_settings(runs, source, vqvae_reconstruction=section))
    assert sorted((runs / "vqvae_reconstruction").iterdir()) == before


def test_without_label_dropping_there_is_no_guidance_and_no_silence(ran):
    _, runs, source = ran
    train_vqvae.run(stage_settings(runs, source, run__seed=3, train_vqvae={**SECTION, "epochs": 1, "label_drop": 0}))
    model = str(newest(runs, "train_vqvae"))
    guided = {"vqvae": model, "tell_metadata": True, "guidance_scale": 2.0}
    with pytest.raises(InputError, match="without label dropping, so guidance_scale must be 1"):
        vqvae_reconstruction.run(stage_settings(runs, source, vqvae_reconstruction=guided))
    with pytest.raises(InputError, match="without label dropping, so it cannot paint without being told"):
        vqvae_reconstruction.run(stage_settings(runs, source, vqvae_reconstruction={"vqvae": model}))


def test_a_killed_fit_with_masks_resumes_to_the_same_weights(ran, tmp_path, monkeypatch):
    """The share of masked pictures depends on the epoch, which a resumed fit must know."""
    import shutil

    from safetensors.torch import load_file

    _, runs, source = ran
    whole = first_of(runs, "train_vqvae")
    shutil.copytree(runs / "data_split", tmp_path / "runs" / "data_split")
    cfg = stage_settings(tmp_path / "runs", source)
    real = train_vqvae.VQVAELearner.start_epoch

    def dies(learner, epoch):
        if epoch == 2:
            raise KeyboardInterrupt
        real(learner, epoch)

    monkeypatch.setattr(train_vqvae.VQVAELearner, "start_epoch", dies)
    with pytest.raises(KeyboardInterrupt):
        train_vqvae.run(cfg)
    monkeypatch.setattr(train_vqvae.VQVAELearner, "start_epoch", real)
    train_vqvae.run(cfg, resume=True)
    assert [line["train_mask_p"] for line in history(tmp_path / "runs")] == pytest.approx([0, 0.35, 0.7])
    first, second = (
        load_file(folder / "model" / "model.safetensors")
        for folder in (whole, newest(tmp_path / "runs", "train_vqvae"))
    )
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_masking_needs_two_components(ran, tmp_path):
    from PIL import Image

    (tmp_path / "grey").mkdir()
    for number in range(6):
        Image.new("L", (16, 16), 40 * number).save(tmp_path / "grey" / f"{number}.png")
    cfg = tiny(tmp_path / "runs", tmp_path / "grey", run__mlflow=False, data__channels=1, train_vqvae={
        "component_masking": {"enabled": True}, "tune": {"trials": 0}})  # fmt: skip
    data_split.run(cfg)
    with pytest.raises(InputError, match=r"at least 2 components; these have 1 \(grey\)"):
        train_vqvae.run(cfg)
    assert not (tmp_path / "runs" / "train_vqvae").exists()


def test_the_mean_of_pairs_leaves_out_what_was_shown():
    rows = [
        {"model": "m", "shown": "a", "component": "a", "mse": 9.0},
        {"model": "m", "shown": "a", "component": "b", "mse": 1.0},
        {"model": "m", "shown": "b", "component": "a", "mse": 3.0},
        {"model": "m", "shown": "all", "component": "a", "mse": 9.0},
        {"model": "mean", "shown": "none", "component": "a", "mse": 9.0},
    ]
    assert components.mean_of_others(rows, "m", "mse") == 2.0
    assert components.mean_of_others(rows, "m", "ssim") is None


def test_sample_paints_components_by_the_vqvae_alone(ran):
    cfg, runs, _ = ran
    values = {"mode": "inpainting", "components": ["a", "c"], "num_samples": 3}
    assert sample.run(cfg.replace({"sample": cfg.sample.replace(values)})) > 0
    folder = newest_of(runs, "sample")
    rows = read_csv(folder / "samples.csv")
    assert len(rows) == 3 and {f"{measure}_{name}" for measure in ("mse", "ssim") for name in "abcd"} <= set(rows[0])
    assert {"00002.png", "00002.npz"} <= {file.name for file in (folder / "pictures").iterdir()}
    with np.load(folder / "pictures" / "00000.npz") as stack:
        assert sorted(stack.files) == list("abcd") and stack["a"].shape == (16, 16)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mode": "inpainting", "components": ["e"]}, "component e is unknown; expected some of: a, b, c, d"),
        ({"mode": "unconditional", "components": ["a"]}, "--components is for mode inpainting; found unconditional"),
    ],
)
def test_sample_refuses_components_in_one_line(ran, values, message):
    cfg = ran[0]
    with pytest.raises(InputError, match=message):
        sample.run(cfg.replace({"sample": cfg.sample.replace(values)}))


def newest_of(runs: Path, stage: str) -> Path:
    return max((runs / stage).glob("*/config.yaml"), key=lambda path: path.stat().st_mtime_ns).parent


def test_a_rival_of_one_component_and_a_rival_that_is_the_model_itself(tmp_path):
    """One component leaves no others to paint."""
    source = draw_classes(tmp_path / "pictures")
    runs = tmp_path / "runs"
    changes = {"run__mlflow": False, "data__channels": 1}
    data_split.run(tiny(runs, source, **changes))
    for seed in (0, 1):
        train_vqvae.run(tiny(runs, source, **changes, run__seed=seed))
    first, second = sorted((runs / "train_vqvae").glob("2*"), key=lambda path: path.stat().st_mtime_ns)
    named = {"vqvae_reconstruction__vqvae": str(first)}
    vqvae_reconstruction.run(tiny(runs, source, **changes, **named, vqvae_reconstruction__rival=str(second)))
    (folder,) = (runs / "vqvae_reconstruction").glob("2*")
    assert {row["model"] for row in read_csv(folder / "components.csv")} == {"mean", first.name, second.name}
    with pytest.raises(InputError, match="the VQ-VAE itself; name another run folder"):
        vqvae_reconstruction.run(tiny(runs, source, **changes, **named, vqvae_reconstruction__rival=str(first)))
