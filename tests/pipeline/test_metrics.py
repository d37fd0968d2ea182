"""The numbers that are shown: known answers and agreement with scikit-image. Pictures are float in [0, 1]."""

import math

import pytest
import torch
from skimage.metrics import structural_similarity
from torch import Tensor

from masked_memory.pipeline.metrics import (
    Bootstrap,
    bootstrap_interval,
    calibration_error,
    errors_within,
    mse,
    perplexity,
    picture_errors,
    psnr,
    share_used,
    ssim,
    ssim_map,
    to_unit,
)
from toys import heads, seeded

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


def test_ssim_is_computed_in_full_precision_under_autocast():
    a = heads(2)
    b = (a + 0.01 * torch.randn_like(a)).clamp(0, 1)
    with torch.autocast("cpu", torch.bfloat16):
        half = ssim(a, b)
    assert torch.equal(half, ssim(a, b))


def ssim_of_skimage(a: Tensor, b: Tensor) -> list[float]:
    """Wang et al. 2004 as scikit-image computes it, picture by picture."""
    return [
        structural_similarity(
            x.permute(1, 2, 0).double().numpy(),
            y.permute(1, 2, 0).double().numpy(),
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            data_range=1,
            channel_axis=-1,
        )
        for x, y in zip(a, b, strict=True)
    ]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(11, 11), (32, 32), (24, 40), (40, 13)])
def test_ssim_is_that_of_skimage(channels: int, size: tuple[int, int]) -> None:
    a = torch.rand(4, channels, *size)
    noise = torch.tensor([0.02, 0.1, 0.3, 1.0]).view(4, 1, 1, 1)
    b = (a + noise * torch.randn_like(a)).clamp(0, 1)
    found = ssim(a, b)
    assert found.shape == (4,)
    torch.testing.assert_close(found.double(), torch.tensor(ssim_of_skimage(a, b)), atol=1e-5, rtol=0)
    assert found[0] > found[3] + 0.2


def test_ssim_is_that_of_skimage_on_flat_bright_pictures() -> None:
    """Where variances are differences of nearly equal numbers, rounding would show first."""
    a = (0.95 + 0.002 * torch.randn(4, 3, 32, 32)).clamp(0, 1)
    b = (0.95 + 0.002 * torch.randn(4, 3, 32, 32)).clamp(0, 1)
    torch.testing.assert_close(ssim(a, b).double(), torch.tensor(ssim_of_skimage(a, b)), atol=1e-4, rtol=0)


def test_ssim_of_identical_pictures_is_one_and_it_is_symmetric() -> None:
    a, b = torch.rand(3, 3, 20, 20), torch.rand(3, 3, 20, 20)
    torch.testing.assert_close(ssim(a, a), torch.ones(3))
    torch.testing.assert_close(ssim(a, b), ssim(b, a))


def test_ssim_of_two_flat_pictures_is_the_luminance_term() -> None:
    """Without variance only (2 a b + c1) / (a^2 + b^2 + c1) is left."""
    a, b = torch.full((1, 1, 16, 16), 0.2), torch.full((1, 1, 16, 16), 0.6)
    expected = (2 * 0.2 * 0.6 + 1e-4) / (0.2**2 + 0.6**2 + 1e-4)
    assert float(ssim(a, b)) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("size", [(10, 32), (32, 10), (8, 8)])
def test_ssim_refuses_pictures_smaller_than_its_window(size: tuple[int, int]) -> None:
    pictures = torch.rand(1, 3, *size)
    with pytest.raises(ValueError, match="at least 11 pixels"):
        ssim(pictures, pictures)
    assert set(picture_errors(pictures, pictures)) == {"mse", "psnr"}


def test_the_ssim_map_has_each_window_at_its_place() -> None:
    """Each number is the SSIM of the 11x11 pixels from there on, and the mean of all is that of the picture."""
    a, b = torch.rand(2, 3, 13, 15), torch.rand(2, 3, 13, 15)
    found = ssim_map(a, b)
    assert found.shape == (2, 3, 5)
    for row, column in ((0, 0), (1, 3), (2, 4)):
        window = (..., slice(row, row + 11), slice(column, column + 11))
        torch.testing.assert_close(found[:, row, column], ssim(a[window], b[window]), atol=1e-5, rtol=0)
    torch.testing.assert_close(found.mean((1, 2)), ssim(a, b))


def test_errors_within_a_half_are_those_of_that_half() -> None:
    a, b = torch.rand(3, 3, 16, 24), torch.rand(3, 3, 16, 24)
    left = torch.zeros(3, 16, 24, dtype=torch.bool)
    left[:, :, :12] = True
    found = errors_within(a, b, left)
    errors = mse(a[..., :12], b[..., :12])
    torch.testing.assert_close(found["mse"], errors)
    torch.testing.assert_close(found["psnr"], psnr(errors))
    other = b.clone()
    other[..., 12:] = 0
    torch.testing.assert_close(errors_within(a, other, left)["mse"], errors)


def test_ssim_within_counts_the_windows_whose_centre_is_there() -> None:
    """Pixel (7, 9) is the centre of the window that starts at (2, 4); all pixels give the SSIM of the picture."""
    a, b = torch.rand(2, 3, 16, 20), torch.rand(2, 3, 16, 20)
    pixels = torch.zeros(2, 16, 20, dtype=torch.bool)
    pixels[0, 7, 9] = True
    pixels[1] = True
    found = errors_within(a, b, pixels)["ssim"]
    torch.testing.assert_close(found, torch.stack([ssim_map(a, b)[0, 2, 4], ssim(a, b)[1]]))


def test_errors_within_nothing_are_no_numbers() -> None:
    """Nor is SSIM at the rim, where no window has its centre; other pictures of the batch keep theirs."""
    a, b = torch.rand(3, 1, 16, 16), torch.rand(3, 1, 16, 16)
    pixels = torch.ones(3, 16, 16, dtype=torch.bool)
    pixels[0] = False
    pixels[1, :, 5:] = False
    found = errors_within(a, b, pixels)
    assert found["mse"].isnan().tolist() == found["psnr"].isnan().tolist() == [True, False, False]
    assert found["ssim"].isnan().tolist() == [True, True, False]
    small = errors_within(a[..., :8, :8], b[..., :8, :8], pixels[:, :8, :8])
    assert set(small) == {"mse", "psnr"}


def test_picture_errors_are_per_picture() -> None:
    a, b = torch.rand(5, 3, 16, 16), torch.rand(5, 3, 16, 16)
    together = picture_errors(a, b)
    assert set(together) == {"mse", "psnr", "ssim"}
    for name, values in together.items():
        alone = torch.cat([picture_errors(a[i : i + 1], b[i : i + 1])[name] for i in range(5)])
        torch.testing.assert_close(values, alone, msg=name)


def test_mse_and_psnr_have_their_known_values() -> None:
    """A difference of 0.1 everywhere is an MSE of 0.01 and 20 dB; black against white is 0 dB; equal is 100 dB."""
    a = torch.zeros(3, 1, 2, 2)
    b = torch.stack([torch.full((1, 2, 2), level) for level in (0.1, 1.0, 0.0)])
    errors = mse(a, b)
    torch.testing.assert_close(errors, torch.tensor([0.01, 1.0, 0.0]))
    torch.testing.assert_close(psnr(errors), torch.tensor([20.0, 0.0, 100.0]))


def test_to_unit_maps_model_range_to_metric_range() -> None:
    torch.testing.assert_close(
        to_unit(torch.tensor([-1.0, 0.0, 1.0, 1.5, -2.0])), torch.tensor([0.0, 0.5, 1.0, 1.0, 0])
    )


@pytest.mark.parametrize("codes", [2, 7, 256])
def test_perplexity_counts_the_codes_that_are_used_equally(codes: int) -> None:
    """All K used equally: K; one only: 1; half of them equally: K / 2 at any number of counts."""
    assert perplexity(torch.full((codes,), 9)) == pytest.approx(codes)
    assert perplexity(torch.eye(codes)[0] * 1000) == pytest.approx(1)
    half = torch.zeros(2 * codes, dtype=torch.long)
    half[::2] = 3
    assert perplexity(half) == pytest.approx(codes)


def test_perplexity_of_an_uneven_use_lies_between() -> None:
    """Shares 1/2, 1/4, 1/4: entropy 1.5 bits."""
    assert perplexity(torch.tensor([2, 1, 1])) == pytest.approx(2**1.5)


def test_share_used_is_the_share_of_codes_that_occur() -> None:
    assert share_used(torch.tensor([5, 0, 1, 0])) == 0.5
    assert share_used(torch.tensor([1, 1])) == 1.0


def test_the_interval_holds_the_mean_and_repeats_with_the_same_generator() -> None:
    values = torch.rand(80)
    low, high = bootstrap_interval(values, 500, seeded(0))
    assert low < float(values.mean()) < high
    assert bootstrap_interval(values, 500, seeded(0)) == (low, high)
    assert bootstrap_interval(values, 500, seeded(1)) != (low, high)


def test_a_bootstrap_gives_all_measures_of_as_many_pictures_the_same_resamples() -> None:
    values = torch.rand(40, generator=seeded(0))
    bootstrap = Bootstrap(300, lambda: seeded(7))
    low, high = bootstrap.interval(values)
    shifted = bootstrap.interval(values + 1)
    assert shifted == pytest.approx((low + 1, high + 1), abs=1e-6)
    assert (low, high) == bootstrap_interval(values, 300, seeded(7))
    assert bootstrap.interval(values[:20]) == bootstrap_interval(values[:20], 300, seeded(7))


def test_the_interval_narrows_with_the_square_root_of_the_number_of_pictures() -> None:
    def width(count: int) -> float:
        low, high = bootstrap_interval(torch.randn(count, generator=seeded(3)), 1000, seeded(0))
        return high - low

    assert width(100) == pytest.approx(2 * 1.96 / 10, rel=0.25)
    assert width(400) / width(100) == pytest.approx(0.5, rel=0.25)
    assert width(1600) / width(400) == pytest.approx(0.5, rel=0.25)


def test_the_interval_of_equal_values_is_a_point() -> None:
    low, high = bootstrap_interval(torch.full((20,), 0.25), 200, seeded(0))
    assert low == pytest.approx(0.25) and high == pytest.approx(0.25)


def test_the_interval_covers_the_true_mean_in_about_95_of_100_cases() -> None:
    """400 samples of 60 pictures: 95 % would be 380, with a standard deviation of 4.4."""
    hits = 0
    for case in range(400):
        low, high = bootstrap_interval(torch.randn(60, generator=seeded(1000 + case)), 300, seeded(case))
        hits += low <= 0 <= high
    assert 360 <= hits <= 394


@pytest.mark.parametrize("confidence", [0.0, 0.31, 0.5, 1.0])
def test_calibration_of_one_confidence_is_its_distance_to_the_accuracy(confidence: float) -> None:
    """One answer of four is right."""
    right = torch.tensor([True, False, False, False])
    found = calibration_error(torch.full((4,), confidence), right)
    assert found == pytest.approx(abs(confidence - 0.25))


def test_the_best_and_the_worst_calibration_are_0_and_1() -> None:
    sure = torch.ones(5)
    assert calibration_error(sure, torch.ones(5, dtype=torch.bool)) == 0
    assert calibration_error(sure, torch.zeros(5, dtype=torch.bool)) == 1
    as_sure_as_right = torch.tensor([0.2] * 5 + [0.8] * 5)
    right = torch.tensor([True] + [False] * 4 + [True] * 4 + [False])
    assert calibration_error(as_sure_as_right, right) == pytest.approx(0, abs=1e-6)


def test_gaps_of_opposite_sign_cancel_within_a_bin_and_not_between_bins() -> None:
    """Confidence 0.1 and always right, 0.9 and always wrong: off by 0.9 each. In one bin they are off by nothing."""
    confidence, right = torch.tensor([0.1, 0.9]), torch.tensor([True, False])
    assert calibration_error(confidence, right) == pytest.approx(0.9)
    assert calibration_error(confidence, right, bins=1) == pytest.approx(0, abs=1e-6)


def test_bins_weigh_by_how_many_answers_they_have() -> None:
    """Three answers off by 0.1 and one off by 0.5: (3 * 0.1 + 0.5) / 4."""
    confidence, right = torch.tensor([0.9, 0.9, 0.9, 0.5]), torch.tensor([True, True, True, False])
    assert calibration_error(confidence, right) == pytest.approx(0.2)


def test_calibration_of_no_answers_is_a_number() -> None:
    assert not math.isnan(calibration_error(torch.zeros(0), torch.zeros(0, dtype=torch.bool)))
