"""Brain slices: the mask of a made-up head, the measures by hand, the trivial copy, the wrong range, and the stage."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.metrics import structural_similarity
from torch import Tensor

import data_split
import train_vqvae
import vqvae_reconstruction
from measuring import brain
from measuring.brain import brain_mask, brain_masks, half_and_back, slice_errors, write_gif, write_mri_csv
from pipeline.files import read_csv, read_json
from pipeline.metrics import ssim, ssim_map
from settings import loading
from settings.config import Config
from train_vqvae import augment, with_ssim
from vqvae import VQVAE, VQVAEConfig

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data" / "mri_oasis_layout" / "keras_png_slices_test"


def head(size: int = 64, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A made-up slice (size, size) in [0, 1]: a textured disc with a dark ventricle inside, a bright speck outside, on
    a faintly noisy background; and the disc with the ventricle as the true mask."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:size, :size] - (size - 1) / 2
    disc = np.hypot(rows, columns) < 0.36 * size
    ventricle = np.hypot(rows, columns * 2) < 0.1 * size
    picture = rng.uniform(0, 0.05, (size, size))
    picture[disc] = rng.uniform(0.5, 0.9, int(disc.sum()))
    picture[ventricle] = 0.05
    picture[2:5, 2:5] = 1.0
    return picture, disc


def heads(count: int = 3, size: int = 64) -> Tensor:
    """(B, 1, H, W) in [0, 1]."""
    return torch.from_numpy(np.stack([head(size, seed)[0] for seed in range(count)])).float()[:, None]


# --- the mask ---------------------------------------------------------------------------------------------------------


def test_the_mask_is_the_largest_part_with_its_holes_filled():
    picture, disc = head()
    assert (brain_mask(picture) == disc).all()


def test_the_mask_does_not_depend_on_brightness_and_contrast():
    picture, disc = head()
    assert (brain_mask(0.1 + 0.4 * picture) == disc).all()


@pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
def test_a_picture_of_one_value_has_no_brain(level):
    assert not brain_mask(np.full((16, 16), level)).any()


def test_masks_of_a_batch_are_those_of_its_pictures_in_any_number_of_channels():
    pictures = heads()
    together = brain_masks(pictures.expand(-1, 3, -1, -1))
    assert together.dtype == torch.bool and together.shape == (3, 64, 64)
    for mask, picture in zip(together, pictures, strict=True):
        assert (mask.numpy() == brain_mask(picture[0].double().numpy())).all()


# --- the measures -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data_range", [1.0, 2.0])
def test_ssim_with_a_range_is_that_of_skimage(data_range):
    a = heads(1)
    b = (a + 0.1 * torch.randn_like(a)).clamp(0, 1)
    expected = structural_similarity(
        a[0, 0].double().numpy(), b[0, 0].double().numpy(),
        gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=data_range,
    )  # fmt: skip
    assert float(ssim(a, b, data_range)) == pytest.approx(expected, abs=1e-5)


def test_the_wrong_range_of_two_flat_pictures_is_the_luminance_term_with_four_times_the_constant():
    a, b = torch.full((1, 1, 16, 16), 0.1), torch.full((1, 1, 16, 16), 0.3)
    expected = (2 * 0.1 * 0.3 + 4e-4) / (0.1**2 + 0.3**2 + 4e-4)
    assert float(ssim(a, b, 2.0)) == pytest.approx(expected, abs=1e-4)


def test_the_wrong_range_makes_every_picture_look_better():
    truth = heads(4)
    painted = (truth + 0.08 * torch.randn_like(truth)).clamp(0, 1)
    found = slice_errors(painted, truth)
    assert (found["ssim_wrong_range"] > ssim(painted, truth) + 0.02).all()
    assert (found["copy_ssim_wrong_range"] > found["copy_ssim"]).all()


def test_brain_only_counts_the_windows_whose_centre_is_brain():
    truth = heads(1)
    painted = (truth + 0.1 * torch.randn_like(truth)).clamp(0, 1)
    mask = torch.from_numpy(brain_mask(truth[0, 0].double().numpy()))[5:-5, 5:-5]
    by_hand = ssim_map(painted, truth)[0][mask].mean()
    assert float(slice_errors(painted, truth)["ssim_brain"]) == pytest.approx(float(by_hand), abs=1e-6)


def test_errors_in_the_background_do_not_count_in_the_brain():
    truth = heads(1)
    painted = truth.clone()
    painted[..., 57:, 57:] = 1.0  # a corner that no window with its centre in the disc reaches
    found = slice_errors(painted, truth)
    assert float(found["ssim_brain"]) == pytest.approx(1, abs=1e-5) and float(ssim(painted, truth)) < 0.99


def test_a_perfect_picture_scores_one_and_the_copy_less():
    truth = heads(2)
    found = slice_errors(truth, truth)
    for name in ("ssim_brain", "ssim_wrong_range"):
        torch.testing.assert_close(found[name], torch.ones(2))
    assert (found["copy_ssim_brain"] < found["copy_ssim"]).all() and (found["copy_ssim"] < 1).all()
    expected = torch.tensor([brain_mask(t[0].double().numpy()).mean() for t in truth]).float()
    torch.testing.assert_close(found["brain_share"], expected)


def test_the_copy_keeps_what_is_smooth_and_loses_what_is_fine():
    ramp = torch.linspace(0.2, 0.8, 32).expand(1, 1, 32, 32)
    torch.testing.assert_close(half_and_back(ramp)[..., 4:-4], ramp[..., 4:-4], atol=3e-3, rtol=0)
    board = torch.zeros(1, 1, 32, 32)
    board[..., ::2, ::2] = board[..., 1::2, 1::2] = 1
    torch.testing.assert_close(half_and_back(board), torch.full_like(board, 0.5), atol=0.1, rtol=0)
    assert half_and_back(torch.rand(2, 3, 15, 17)).shape == (2, 3, 15, 17)


def test_pictures_without_brain_are_left_out_of_brain_only(tmp_path):
    truth = torch.cat([heads(2), torch.zeros(1, 1, 64, 64)])
    painted = (truth + 0.05).clamp(0, 1)
    tensors = slice_errors(painted, truth) | {"mse": torch.rand(3), "psnr": torch.rand(3), "ssim": ssim(painted, truth)}
    errors = {name: values.double().numpy() for name, values in tensors.items()}
    assert np.isnan(errors["ssim_brain"]).tolist() == [False, False, True]
    parts = {"val": np.array([2]), "test": np.array([0, 1, 2])}
    write_mri_csv(tmp_path / "mri.csv", errors, parts, 200, torch.Generator().manual_seed(0))
    rows = {(row["split"], row["way"], row["measure"]): row for row in read_csv(tmp_path / "mri.csv")}
    assert {key[1] for key in rows} == {"vqvae", "copy"} and {key[2] for key in rows} == set(brain.MEASURES)
    assert ("val", "vqvae", "ssim_brain") not in rows
    in_brain, everywhere = rows["test", "vqvae", "ssim_brain"], rows["test", "vqvae", "ssim"]
    assert (in_brain["pictures"], everywhere["pictures"]) == ("2", "3")
    assert float(in_brain["mean"]) == pytest.approx(errors["ssim_brain"][:2].mean(), rel=1e-5)
    assert all(float(row["low"]) <= float(row["mean"]) <= float(row["high"]) for row in rows.values())


def test_the_gif_shows_input_codes_and_output_of_every_picture(tmp_path):
    pictures, painted = heads(3), heads(3).flip(3)
    write_gif(tmp_path / "a.gif", pictures, np.arange(3 * 256).reshape(3, 16, 16) % 12, painted, 12)
    with Image.open(tmp_path / "a.gif") as gif:
        assert gif.n_frames == 3 and gif.size == (3 * 128, 128)
        first = np.asarray(gif.convert("L")).astype(int)
    assert abs(first[::2, :128:2] / 255 - pictures[0, 0].numpy()).mean() < 0.03
    assert abs(first[::2, 256::2] / 255 - painted[0, 0].numpy()).mean() < 0.03


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"{SHARED} is not on this machine")
def test_real_slices_have_a_head_and_flatter_the_copy():
    files = sorted(SHARED.glob("*.png"))[:8]
    pixels = np.stack([np.asarray(Image.open(file).convert("L").resize((128, 128))) for file in files])
    truth = torch.from_numpy(pixels).float()[:, None] / 255
    found = slice_errors(truth, truth)
    assert ((found["brain_share"] > 0.1) & (found["brain_share"] < 0.9)).all()
    assert found["copy_ssim_brain"].mean() < found["copy_ssim"].mean() < found["copy_ssim_wrong_range"].mean()


# --- what training has for it -----------------------------------------------------------------------------------------


def test_the_ssim_term_adds_its_weight_times_one_minus_ssim_and_has_a_gradient():
    truth = heads(2, 32)
    painted = (truth * 0.8 + 0.1).requires_grad_()
    losses = {"loss": torch.tensor(1.5)}
    assert with_ssim(losses, painted, truth, 0.0) is losses
    found = with_ssim(losses, painted, truth, 3.0)
    assert float(found["loss"]) == pytest.approx(1.5 + 3 * (1 - float(ssim(painted, truth).mean())), rel=1e-5)
    found["loss"].backward()
    better = (painted - 0.05 * painted.grad / painted.grad.abs().max()).detach()
    assert ssim(better, truth).mean() > ssim(painted, truth).mean()


def test_ssim_is_computed_in_full_precision_under_autocast():
    a = heads(2)
    b = (a + 0.01 * torch.randn_like(a)).clamp(0, 1)
    with torch.autocast("cpu", torch.bfloat16):
        half = ssim(a, b)
    assert torch.equal(half, ssim(a, b))


@pytest.mark.parametrize(("kind", "ways"), [("none", 1), ("flip", 2), ("dihedral", 8)])
def test_augmentation_shows_each_way_about_equally_often(kind, ways, draws):
    x = torch.arange(16.0).view(1, 1, 4, 4).repeat(800, 1, 1, 1)
    before = draws.get_state()
    found = augment(x, kind, draws)
    assert found.shape == x.shape and (found.sum((1, 2, 3)) == x.sum((1, 2, 3))).all()
    _, counts = torch.unique(found.flatten(1), dim=0, return_counts=True)
    assert len(counts) == ways and counts.min() > 0.6 * 800 / ways
    assert (kind == "none") == torch.equal(before, draws.get_state()), "none must leave other draws as they were"


def test_shifted_pictures_are_windows_of_the_picture_with_its_border_repeated(draws):
    x = torch.rand(1, 2, 32, 32).repeat(400, 1, 1, 1)
    found = augment(x, "shift", draws)
    assert found.shape == x.shape and found.is_contiguous(memory_format=torch.channels_last)
    most, index = 2, torch.arange(32)  # a sixteenth of the side
    ways = {}
    for down in range(-most, most + 1):
        for across in range(-most, most + 1):
            for mirrored, picture in ((False, x[0]), (True, x[0].flip(2))):
                window = picture[:, (index + down).clamp(0, 31)][:, :, (index + across).clamp(0, 31)]
                ways[down, across, mirrored] = int((found == window).all((1, 2, 3)).sum())
    assert sum(ways.values()) == 400 and len(ways) == 50
    assert min(ways.values()) > 0 and max(ways.values()) < 30, "each way about equally often"


def test_pictures_smaller_than_sixteen_pixels_can_be_shifted(draws):
    assert augment(torch.rand(3, 1, 8, 8), "shift", draws).shape == (3, 1, 8, 8)


# --- the plain rival --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stride", [4, 8])
def test_the_plain_vqvae_keeps_the_contract(stride):
    settings = VQVAEConfig(image_size=32, channels=1, stride=stride, hidden=16, codebook_size=12, code_dim=6,
                           stem="strided", codebook_update="gradient", codebook_start="uniform", data_init=False,
                           restart_share=0.0)  # fmt: skip
    model = VQVAE(settings).eval()
    assert float(model.codebook_vectors().abs().max()) <= 1 / 12
    x = torch.rand(3, 1, 32, 32) * 2 - 1
    with torch.no_grad():
        output, indices = model(x), model.encode_indices(x)
        painted = model.decode_indices(indices)
    assert indices.shape == (3, 32 // stride, 32 // stride) and torch.equal(indices, output.indices)
    torch.testing.assert_close(painted, output.reconstruction, atol=1e-5, rtol=0)
    strided = [m for m in model.modules() if getattr(m, "stride", (1, 1)) == (2, 2)]
    assert len(strided) == 2 * (stride.bit_length() - 1) and all(m.kernel_size == (4, 4) for m in strided)
    assert not any(isinstance(m, torch.nn.GroupNorm) for m in model.modules())
    losses = model.train()(x).losses
    losses["loss"].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_unknown_stems_and_starts_are_refused():
    with pytest.raises(ValueError, match=r"stem is 'conv'; expected one of .*; codebook_start is 'zero'; expected"):
        VQVAEConfig(stem="conv", codebook_start="zero")


# --- the stages -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def slices(tmp_path_factory):
    """Made-up heads in the OASIS layout, one validation picture black."""
    root = tmp_path_factory.mktemp("slices")
    for first, (part, count) in enumerate({"train": 10, "validate": 3, "test": 4}.items()):
        folder = root / f"keras_png_slices_{part}"
        folder.mkdir()
        for number in range(count):
            picture = head(48, 100 * first + number)[0] if (part, number) != ("validate", 0) else np.zeros((48, 48))
            name = f"case_{100 * first + number:03d}_slice_0.nii.png"
            Image.fromarray((picture * 255).astype(np.uint8)).save(folder / name)
    return root


def settings_for(runs: Path, source: Path, preset: str, **data: object) -> Config:
    """The preset, with pictures and model made tiny."""
    small = {"run.dir": str(runs), "run.mlflow": False, "run.threads": 1, "run.precision": "fp32"}
    small |= {"data.source": str(source), "data.image_size": 32, "train_vqvae.epochs": 2, "train_vqvae.hidden": 16}
    small |= {"train_vqvae.batch_size": 5, "train_vqvae.codebook_size": 16}
    overlays = [Path(loading.BASE_FILE).parent / "presets" / f"{name}.yaml" for name in ("oasis", preset)]
    return loading.load(overlays, small | {key.replace("__", "."): value for key, value in data.items()})


@pytest.mark.parametrize("preset", ["oasis", "oasis_plain"])
def test_the_presets_run_and_leave_the_brain_report(tmp_path, slices, preset, capsys):
    cfg = settings_for(tmp_path, slices, preset)
    for stage in (data_split, train_vqvae, vqvae_reconstruction):
        assert np.isfinite(stage.run(cfg))
    history = (next((tmp_path / "train_vqvae").glob("2*")) / "metrics.jsonl").read_text()
    assert ("val_ssim_loss" in history) == (cfg.train_vqvae.ssim_weight > 0)
    folder = next((tmp_path / "vqvae_reconstruction").glob("2*"))
    metrics, rows = read_json(folder / "metrics.json"), read_csv(folder / "mri.csv")
    assert all(np.isfinite(value) for value in metrics.values())
    for row in rows:
        name = f"{row['split']}_{'' if row['way'] == 'vqvae' else 'copy_'}{row['measure']}"
        assert metrics[name] == pytest.approx(float(row["mean"]), rel=1e-4)
    assert {row["pictures"] for row in rows if row["split"] == "val" and row["measure"] == "ssim_brain"} == {"2"}
    pictures = read_csv(folder / "pictures.csv")
    assert np.mean([float(row["ssim_brain"]) for row in pictures if row["split"] == "test"]) == pytest.approx(
        metrics["test_ssim_brain"], rel=1e-4
    )
    assert (folder / "figures" / "brain.png").is_file() and (folder / "figures" / "brain.gif").is_file()
    printed = capsys.readouterr().out
    assert "test, VQ-VAE: SSIM" in printed and "test, 2x bicubic copy: SSIM" in printed


def test_without_the_setting_there_is_no_brain_report(tmp_path, slices):
    cfg = settings_for(tmp_path, slices, "oasis", vqvae_reconstruction__brain=False)
    for stage in (data_split, train_vqvae, vqvae_reconstruction):
        stage.run(cfg)
    folder = next((tmp_path / "vqvae_reconstruction").glob("2*"))
    assert not (folder / "mri.csv").exists() and not list((folder / "figures").glob("brain*"))
    assert "test_copy_ssim" not in read_json(folder / "metrics.json")


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"train_vqvae": {"ssim_weight": 0.5}}, "train_vqvae.ssim_weight"),
        ({"vqvae_reconstruction": {"brain": True}}, "vqvae_reconstruction.brain"),
    ],
)
def test_pictures_smaller_than_the_window_of_ssim_are_refused(values, key):
    with pytest.raises(loading.ConfigError) as caught:
        loading.check({"data": {"image_size": 8}, **values})
    assert caught.value.problems == [f"{key} needs data.image_size of at least 11, the window of SSIM; found 8"]
