"""Brain slices: the mask of a made-up head, the measures by hand, the trivial copy, the wrong range."""

import numpy as np
import pytest
import torch
from PIL import Image

from masked_memory.measuring import brain
from masked_memory.measuring.brain import brain_mask, brain_masks, half_and_back, slice_errors, write_gif, write_mri_csv
from masked_memory.pipeline.files import read_csv
from masked_memory.pipeline.metrics import ssim, ssim_map
from toys import draw_slices, head, heads

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
    assert {key[1] for key in rows} == {"vqvae", "copy"} and {key[2] for key in rows} == set(brain.SLICE_MEASURES)
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


def test_slices_of_files_have_a_head_and_flatter_the_copy(tmp_path):
    files = sorted(draw_slices(tmp_path, {"test": 8}, size=96).rglob("*.png"))
    pixels = np.stack([np.asarray(Image.open(file).convert("L").resize((128, 128))) for file in files])
    truth = torch.from_numpy(pixels).float()[:, None] / 255
    found = slice_errors(truth, truth)
    assert ((found["brain_share"] > 0.1) & (found["brain_share"] < 0.9)).all()
    assert found["copy_ssim_brain"].mean() < found["copy_ssim"].mean() < found["copy_ssim_wrong_range"].mean()
