"""The one definition of every number that is shown. Pictures here are float (B, C, H, W) in [0, 1]."""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

SSIM_WINDOW = 11
SSIM_SIGMA = 1.5
WINDOWS_AT_ONCE = 24  # along a side: takes least time on a CPU, for sides of 32 to 256


def to_unit(pictures: Tensor) -> Tensor:
    """[-1, 1] -> [0, 1], clamped."""
    return ((pictures + 1) / 2).clamp(0, 1)


def mse(a: Tensor, b: Tensor) -> Tensor:
    """(B,) mean squared error per picture, in units of the [0, 1] pixel range."""
    return (a - b).square().flatten(1).mean(1)


def psnr(errors: Tensor) -> Tensor:
    """Mean squared errors in [0, 1] pixel units -> dB. Identical pictures give 100 dB instead of infinity."""
    return -10 * errors.clamp(min=1e-10).log10()


def ssim(a: Tensor, b: Tensor, data_range: float = 1.0) -> Tensor:
    """(B,) structural similarity of Wang et al. 2004: Gaussian 11x11, sigma 1.5, data range 1, borders cropped (only
    windows wholly inside the picture count), mean over channels.

    data_range: 1 is right for pictures in [0, 1]; a larger one gives higher numbers for the same pictures
    (`measuring/brain.py` shows by how much). Differentiable. Raises ValueError for pictures smaller than the window.
    """
    return ssim_map(a, b, data_range).flatten(1).mean(1)


def ssim_map(a: Tensor, b: Tensor, data_range: float = 1.0) -> Tensor:
    """(B, H-10, W-10): the similarity of each window that fits, mean over channels; see `ssim`."""
    if min(a.shape[-2:]) < SSIM_WINDOW:
        raise ValueError(f"SSIM needs pictures of at least {SSIM_WINDOW} pixels a side; got {tuple(a.shape[-2:])}")
    with torch.autocast(a.device.type, enabled=False):  # variances are small differences: half precision spoils them
        a, b = a.float(), b.float()
        c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
        mean_a, mean_b, square_a, square_b, product = _blur(torch.stack([a, b, a * a, b * b, a * b]))
        var_a, var_b, covariance = square_a - mean_a**2, square_b - mean_b**2, product - mean_a * mean_b
        similarity = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
        similarity = similarity / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
    return similarity.mean(1)


def _blur(x: Tensor) -> Tensor:
    """(..., H, W) -> (..., H-10, W-10): the Gaussian window wherever it fits, as matrix products with a few windows
    each; a product with all of them would take time with the square of the side."""
    windows = _window_matrix(WINDOWS_AT_ONCE, x.device)
    rows = [window @ x[..., pixels, :] for window, pixels in _parts(windows, x.shape[-2])]
    x = torch.cat(rows, -2)
    return torch.cat([x[..., pixels] @ window.T for window, pixels in _parts(windows, x.shape[-1])], -1)


def _parts(windows: Tensor, side: int) -> Iterator[tuple[Tensor, slice]]:
    """Some windows, and the pixels that they lie over, one part of a side after the other."""
    for start in range(0, side - SSIM_WINDOW + 1, WINDOWS_AT_ONCE):
        count = min(WINDOWS_AT_ONCE, side - SSIM_WINDOW + 1 - start)
        yield windows[:count, : count + SSIM_WINDOW - 1], slice(start, start + count + SSIM_WINDOW - 1)


def _window_matrix(count: int, device: torch.device) -> Tensor:
    """(count, count + 10): row i holds the window that starts at pixel i."""
    offsets = torch.arange(SSIM_WINDOW, device=device) - SSIM_WINDOW // 2
    window = torch.exp(-(offsets**2) / (2 * SSIM_SIGMA**2))
    matrix = torch.zeros(count, count + SSIM_WINDOW - 1, device=device)
    for row in range(count):
        matrix[row, row : row + SSIM_WINDOW] = window / window.sum()
    return matrix


def picture_errors(a: Tensor, b: Tensor) -> dict[str, Tensor]:
    """mse, psnr and ssim of each picture, (B,) each; SSIM is left out below its window's size."""
    errors = mse(a, b)
    scores = {"mse": errors, "psnr": psnr(errors)}
    if min(a.shape[-2:]) >= SSIM_WINDOW:
        scores["ssim"] = ssim(a, b)
    return scores


def errors_within(a: Tensor, b: Tensor, pixels: Tensor) -> dict[str, Tensor]:
    """mse, psnr and ssim of each picture, (B,) each, over the True ones of `pixels` (B, H, W) only; of SSIM the windows
    whose centre is one. Not a number for a picture without any."""
    return errors_and_within(a, b, pixels)[1]


def errors_and_within(a: Tensor, b: Tensor, pixels: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What `picture_errors` and `errors_within` give, from one computation."""
    squared = (a - b).square().mean(1)  # (B, H, W)
    errors, within = squared.flatten(1).mean(1), _mean_where(squared, pixels)
    scores, within_scores = ({"mse": each, "psnr": psnr(each)} for each in (errors, within))
    if min(a.shape[-2:]) >= SSIM_WINDOW:
        edge = SSIM_WINDOW // 2
        similarity = ssim_map(a, b)
        scores["ssim"] = similarity.flatten(1).mean(1)
        within_scores["ssim"] = _mean_where(similarity, pixels[:, edge:-edge, edge:-edge])
    return scores, within_scores


def _mean_where(values: Tensor, chosen: Tensor) -> Tensor:
    """(B, h, w), bool (B, h, w) -> (B,)."""
    return (values * chosen).flatten(1).sum(1) / chosen.flatten(1).sum(1)


def calibration_error(confidence: Tensor, right: Tensor, bins: int = 15) -> float:
    """Expected calibration error (Guo et al. 2017): mean gap between confidence and accuracy over equally wide bins of
    confidence, weighted by how many answers are in each. Both (M,), confidence in [0, 1]."""
    return float(calibration_gaps(confidence, right, bins).abs().sum() / max(1, len(confidence)))


def calibration_gaps(confidence: Tensor, right: Tensor, bins: int) -> Tensor:
    """(bins,) float64: the sum of right - confidence over the answers in each bin; sums over batches add up."""
    places = (confidence * bins).long().clamp(max=bins - 1)
    gaps = torch.zeros(bins, dtype=torch.float64, device=confidence.device)
    return gaps.index_add_(0, places, right.double() - confidence.double())


def perplexity(counts: Tensor) -> float:
    """exp of the entropy of how often each code is used: how many codes would do as much if used equally."""
    shares = counts.double() / counts.sum()
    return math.exp(-float((shares * shares.clamp(min=1e-12).log()).sum()))


def share_used(counts: Tensor) -> float:
    """Share of the codes that occur at all."""
    return float((counts > 0).float().mean())


class Bootstrap:
    """95 % percentile intervals of means over pictures (Efron 1979). All measures of as many pictures get the same
    resamples, so that they can be compared.

    new_generator: gives a generator in the same state each time.
    """

    def __init__(self, resamples: int, new_generator: Callable[[], torch.Generator]) -> None:
        self.resamples, self.new_generator = resamples, new_generator
        self._times: dict[int, Tensor] = {}  # by number of pictures: (resamples, B), how often each is in a resample

    def interval(self, values: Tensor) -> tuple[float, float]:
        """values: (B,) finite."""
        if len(values) not in self._times:
            self._times[len(values)] = resample_times(len(values), self.resamples, self.new_generator())
        return _interval(values, self._times[len(values)])


def bootstrap_interval(values: Tensor, resamples: int, generator: torch.Generator) -> tuple[float, float]:
    """95 % percentile interval of the mean over pictures. values: (B,) finite."""
    return _interval(values, resample_times(len(values), resamples, generator))


def resample_times(count: int, resamples: int, generator: torch.Generator) -> Tensor:
    """(resamples, count) float64: how often each of `count` pictures is drawn, with replacement."""
    picks = torch.randint(count, (resamples, count), generator=generator)
    return torch.zeros(resamples, count, dtype=torch.float64).scatter_add_(1, picks, torch.ones_like(picks).double())


def _interval(values: Tensor, times: Tensor) -> tuple[float, float]:
    means = times @ values.double() / len(values)
    low, high = torch.quantile(means, torch.tensor([0.025, 0.975], dtype=means.dtype))
    return float(low), float(high)
