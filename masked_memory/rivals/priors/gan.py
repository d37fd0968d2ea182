"""A GAN over grids of codes: noise in, a grid out, all codes at once.

Letters: B batch, h w grid, N = h*w tokens, K codes, D code dimension, F facts told about a picture, W width, Z noise
dimension. Code vectors are standardised: less the mean, divided by one spread, so that the nearest code is the same.

Generator and discriminator are small relatives of DCGAN (Radford et al. 2016). The generator makes a vector at each
token; a grid is the nearest codes. The discriminator judges the vectors as they are, beside real code vectors, both
blurred by instance noise (Sonderby et al. 2017): else it would know real ones by lying exactly on codes. A commitment
loss draws the vectors to their codes. The discriminator has spectral normalisation (Miyato et al. 2018) and a
projection of what is told (Miyato and Koyama 2018), a gradient penalty (Mescheder et al. 2018), and sees how varied
the features of the batch are (Karras et al. 2018), so that grids that are all alike give themselves away; hinge losses
(Lim and Ye 2017).
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from masked_memory.models.pretrained import Pretrained
from masked_memory.rivals.priors.pixelcnn import Telling

SMALLEST = 4  # side of the grid that the noise becomes first


@dataclass(frozen=True)
class LatentGANConfig:
    """Everything needed to build the generator again; it travels with the weights."""

    codebook_size: int  # K
    grid: int  # h = w
    code_dim: int  # D
    width: int = 64  # W, channels at the grid
    noise_dim: int = 64  # Z
    facts: int = 0  # F; 0: nothing can be told

    @property
    def sides(self) -> list[int]:
        """Sides of the feature maps from the grid down to the smallest: 32 16 8 4, 7 4, 3."""
        sides = [self.grid]
        while sides[-1] > SMALLEST:
            sides.append((sides[-1] + 1) // 2)
        return sides

    @property
    def widths(self) -> list[int]:
        """Channels at those sides; they double up to four times the width."""
        return [self.width * min(4, 2**n) for n in range(len(self.sides))]


class Generated(NamedTuple):
    """What the generator makes. `vectors` carries the gradient."""

    vectors: Tensor  # (B, D, h, w), near standardised code vectors
    indices: Tensor  # (B, h, w) long, the nearest codes
    commitment_loss: Tensor  # scalar: mean squared distance of the vectors from their codes


class Generator(Pretrained):
    """Noise (B, Z) -> grids of codes."""

    config_class, kind, made_by = LatentGANConfig, "GAN's generator", "train_prior"

    codebook: Tensor

    def __init__(self, config: LatentGANConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("codebook", torch.zeros(config.codebook_size, config.code_dim))  # standardised
        self.telling = Telling(config.facts, config.width) if config.facts else None
        sides, widths = config.sides[::-1], config.widths[::-1]
        inputs = config.noise_dim + (config.width if config.facts else 0)
        self.start = nn.Linear(inputs, widths[0] * sides[0] ** 2)
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for width in widths)
        self.grow = nn.ModuleList(
            nn.ConvTranspose2d(narrow, wide, 4, stride=2, padding=1) for narrow, wide in pairwise(widths)
        )
        self.output = nn.Conv2d(widths[-1], config.code_dim, 3, padding=1)

    @torch.no_grad()
    def start_from(self, codebook: Tensor, tokens: Tensor) -> None:
        """Take the code vectors (K, D), standardised by how often each stands in the training grids `tokens`."""
        shares = torch.bincount(tokens.flatten(), minlength=len(codebook)).float()
        shares = (shares / shares.sum()).unsqueeze(1).to(codebook)
        mean = (shares * codebook).sum(0)
        spread = (shares * (codebook - mean).square()).sum(0).mean().sqrt()
        self.codebook.copy_((codebook - mean) / spread.clamp(min=1e-8))

    def embed(self, tokens: Tensor) -> Tensor:
        """(B, N) indices -> standardised code vectors (B, D, h, w)."""
        side = self.config.grid
        return F.embedding(tokens, self.codebook).transpose(1, 2).unflatten(2, (side, side))

    def forward(self, noise: Tensor, facts: Tensor | None = None, told: Tensor | None = None) -> Generated:
        """facts: (B, F), None tells nothing; told: (B,) bool, of whom. Raises ValueError for facts on a generator that
        was trained without."""
        if facts is not None and self.telling is None:
            raise ValueError("facts given to a prior that was trained without")
        if self.telling is not None:
            noise = torch.cat([noise, self.telling(len(noise), facts, told)], dim=1)
        sides = self.config.sides[::-1]
        x = self.start(noise).view(len(noise), -1, sides[0], sides[0])
        for number, norm in enumerate(self.norms):
            if number:
                x = self.grow[number - 1](x)[..., : sides[number], : sides[number]]
            x = F.relu(norm(x))
        vectors = self.output(x)
        flat = vectors.permute(0, 2, 3, 1).flatten(0, 2)  # (B N, D)
        with torch.no_grad():
            indices = (self.codebook.square().sum(1) - 2 * flat @ self.codebook.T).argmin(1).view(len(noise), -1)
        commitment_loss = F.mse_loss(vectors, self.embed(indices))
        side = self.config.grid
        return Generated(vectors, indices.view(-1, side, side), commitment_loss)


class Discriminator(nn.Module):
    """Standardised code vectors (B, D, h, w) -> (B,): above zero for what it takes for real."""

    def __init__(self, config: LatentGANConfig) -> None:
        super().__init__()
        sides, widths = config.sides, config.widths
        layers: list[nn.Module] = [spectral_norm(nn.Conv2d(config.code_dim, widths[0], 3, padding=1))]
        for wide, narrow in pairwise(widths):
            layers += [nn.LeakyReLU(0.2), spectral_norm(nn.Conv2d(wide, narrow, 3, stride=2, padding=1))]
        layers += [nn.LeakyReLU(0.2), spectral_norm(nn.Conv2d(widths[-1], widths[-1], 3, padding=1)), nn.LeakyReLU(0.2)]
        self.body = nn.Sequential(*layers)
        features = widths[-1] * sides[-1] ** 2
        self.score = spectral_norm(nn.Linear(features + 1, 1))  # and one for how varied the batch is
        self.telling = Telling(config.facts, widths[-1]) if config.facts else None

    def forward(self, codes: Tensor, facts: Tensor | None = None, told: Tensor | None = None) -> Tensor:
        features = self.body(codes)
        varied = features.std(0, correction=0).mean().expand(len(features), 1)
        scores = self.score(torch.cat([features.flatten(1), varied], dim=1)).squeeze(1)
        if self.telling is not None:
            scores = scores + (features.mean((2, 3)) * self.telling(len(codes), facts, told)).sum(1)
        return scores


def discriminator_loss(real: Tensor, made: Tensor) -> Tensor:
    """Hinge loss of scores (B,) of real and of generated grids."""
    return F.relu(1 - real).mean() + F.relu(1 + made).mean()


def gradient_penalty(real: Tensor, seen: Tensor) -> Tensor:
    """R1 of Mescheder et al. 2018, equation 9 without its weight: half the squared slope of the scores (B,) of real
    grids in what the discriminator saw (B, D, h, w), which requires a gradient; mean over the batch. Without it the
    discriminator soon tells all apart, and the generator collapses."""
    (slope,) = torch.autograd.grad(real.sum(), seen, create_graph=True)
    return slope.square().flatten(1).sum(1).mean() / 2


@torch.no_grad()
def generate(model: Generator, count: int, generator: torch.Generator, facts: Tensor | None = None) -> Tensor:
    """`count` grids, (B, N) long. facts: (B, F). The model should be in evaluation mode."""
    noise = torch.randn(count, model.config.noise_dim, generator=generator).to(model.codebook.device)
    return model(noise, facts).indices.flatten(1)


@torch.no_grad()
def fill_from_pool(model: Generator, tokens: Tensor, mask: Tensor, pool: Tensor) -> Tensor:
    """Inpainting with grids that were generated beforehand: (B, N) tokens, masked ones from the grid of `pool` (P, N)
    whose code vectors at the known tokens lie nearest. Nothing known: the first grid of the pool.

    A GAN has no way to be asked for one part given the others; this searches what it makes (cf. Yeh et al. 2017).
    """
    vectors = F.embedding(pool, model.codebook)  # (P, N, D)
    rows = []
    for known, hidden in zip(tokens, mask, strict=True):
        apart = (vectors - F.embedding(known, model.codebook)).square().sum(2)  # (P, N)
        best = pool[apart.masked_fill(hidden, 0).sum(1).argmin()]
        rows.append(torch.where(hidden, best, known))
    return torch.stack(rows)
