"""The priors as the training loop sees them.

Letters: B batch, N = h*w tokens, F facts told about a picture (see `models/conditioning.py`). Tokens are long (B, N).
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from masked_memory.models.codes import Filling
from masked_memory.models.sizes import completing_bytes
from masked_memory.pipeline.draws import Draws, for_rows, whole
from masked_memory.pipeline.from_settings import configured
from masked_memory.pipeline.machine import Machine, Stream, generator
from masked_memory.pipeline.optimizer import optimizer_tensors, restore_optimizer
from masked_memory.rivals.priors.gan import (
    Discriminator,
    Generator,
    LatentGANConfig,
    discriminator_loss,
    generate,
    gradient_penalty,
)
from masked_memory.rivals.priors.grids import energy_distance, pairwise_distance
from masked_memory.rivals.priors.pixelcnn import PixelCNN, PixelCNNConfig, code_losses, draw
from masked_memory.settings.train_prior import TrainPriorSection
from masked_memory.sources.splitting import spread

MOST_JUDGED = 500  # grids that a GAN is judged by on validation


@dataclass(frozen=True)
class PriorData:
    """Grids to learn from, and what is told about each; all on the CPU."""

    train: Tensor  # (pictures, N)
    val: Tensor
    train_facts: Tensor | None  # (pictures, F), None: nothing is told
    val_facts: Tensor | None
    codebook: Tensor  # (K, D)

    @property
    def facts(self) -> int:
        """F."""
        return 0 if self.train_facts is None else self.train_facts.shape[1]

    @property
    def grid(self) -> int:
        return math.isqrt(self.train.shape[1])


class PriorLearner:
    """What the two have in common: which grids, what is told of them in a step."""

    def __init__(self, section: TrainPriorSection, data: PriorData, machine: Machine) -> None:
        self.section, self.data, self.machine = section, data, machine

    @property
    def count(self) -> int:
        return len(self.data.train)

    def epoch_metrics(self) -> dict[str, float]:
        return {}

    def told(self, rows: Tensor, draws: Draws) -> tuple[Tensor | None, Tensor | None]:
        """Facts (B, F) of the rows and of whom they are told this time (B,); None, None without facts."""
        if self.data.train_facts is None:
            return None, None
        kept = for_rows(len(rows), draws, lambda n, g: torch.rand(n, generator=g) >= self.section.label_drop)
        return self.data.train_facts[rows].to(self.machine.device), kept.to(self.machine.device)


class PixelCNNLearner(PriorLearner):
    """Minimises the cross-entropy of the next code."""

    def __init__(self, section: TrainPriorSection, data: PriorData, machine: Machine) -> None:
        super().__init__(section, data, machine)
        size, dim = data.codebook.shape
        grids = {"codebook_size": size, "grid": data.grid, "code_dim": dim}
        self.model = PixelCNN(configured(PixelCNNConfig, section, **grids, facts=data.facts))
        self.model.start_from(data.codebook)
        self.model.to(machine.device)

    def step(self, rows: Tensor, generator: Draws) -> dict[str, Tensor]:
        facts, told = self.told(rows, generator)
        loss = code_losses(self.model, self.data.train[rows].to(self.machine.device), facts, told).mean()
        return {"loss": loss, "bits_per_code": loss / math.log(2)}

    @property
    def validation_passes(self) -> int:
        return 2 if self.data.val_facts is not None and self.section.label_drop > 0 else 1

    def validate(self, most: int | None = None) -> dict[str, float]:
        """Bits per code, given all that can be told; and with nothing told, if the model has learnt to do without."""
        rows = spread(np.arange(len(self.data.val)), most)
        return self.bits(self.data.val[rows], None if self.data.val_facts is None else self.data.val_facts[rows])

    @torch.no_grad()
    def bits(self, tokens: Tensor, facts: Tensor | None) -> dict[str, float]:
        """bits_per_code, and untold_bits_per_code where that makes sense."""
        values = {"bits_per_code": self._mean_bits(tokens, facts)}
        if facts is not None and self.section.label_drop > 0:
            values["untold_bits_per_code"] = self._mean_bits(tokens, None)
        return values

    def _mean_bits(self, tokens: Tensor, facts: Tensor | None) -> float:
        self.model.eval()
        device, config = self.machine.device, self.model.config
        batch_size = self.machine.at_once(completing_bytes(tokens.shape[1], config.codebook_size, config.width))

        def of_batch(start: int) -> float:
            rows = slice(start, start + batch_size)
            told = None if facts is None else facts[rows].to(device)
            return float(code_losses(self.model, tokens[rows].to(device), told).double().sum())

        total = sum(self.machine.world.map(of_batch, range(0, len(tokens), batch_size)))
        return total / tokens.numel() / math.log(2)

    def sample(self, count: int, facts: Tensor | None, draws: torch.Generator, batch_size: int = 250) -> Tensor:
        """(count, N) on the CPU. facts: (count, F) or None."""
        self.model.eval()
        blank = torch.zeros(count, self.data.train.shape[1], dtype=torch.long, device=self.machine.device)
        told = None if facts is None else facts.to(self.machine.device)
        parts = []
        for start in range(0, count, batch_size):
            rows = slice(start, start + batch_size)
            some = None if told is None else told[rows]
            masked = torch.ones_like(blank[rows], dtype=torch.bool)
            parts.append(draw(self.model, blank[rows], masked, Filling(temperature=1.0), draws, some).cpu())
        return torch.cat(parts)


class GANLearner(PriorLearner):
    """The engine trains the generator; each step trains the discriminator first, with an optimizer of its own.

    Discriminator and optimizer are state beside the model (`engine.HasExtraState`), so that a resumed fit is exact.
    """

    def __init__(self, section: TrainPriorSection, data: PriorData, machine: Machine, seed: int) -> None:
        super().__init__(section, data, machine)
        size, dim = data.codebook.shape
        grids = {"codebook_size": size, "grid": data.grid, "code_dim": dim}
        config = configured(LatentGANConfig, section, **grids, facts=data.facts)
        self.model = Generator(config)
        self.model.start_from(data.codebook, data.train)
        self.model.to(machine.device)
        self.critic = Discriminator(config).to(machine.device)
        rate = section.discriminator_learning_rate
        self.critic_optimizer = torch.optim.AdamW(self.critic.parameters(), lr=rate, betas=(0.5, 0.99), weight_decay=0)
        self.seed = seed

    def step(self, rows: Tensor, generator: Draws) -> dict[str, Tensor]:
        device = self.machine.device
        facts, told = self.told(rows, generator)
        noise = torch.randn(len(rows), self.section.noise_dim, generator=whole(generator)).to(device)
        real = self.model.embed(self.data.train[rows].to(device))
        blur = torch.randn(3, *real.shape, generator=whole(generator)).to(device) * self.section.instance_noise
        with torch.autocast(device.type, enabled=False):
            made = self.model(noise, facts, told)
            seen = (real + blur[0]).requires_grad_()
            real_scores = self.critic(seen, facts, told)
            made_scores = self.critic(made.vectors.detach() + blur[1], facts, told)
            critic_loss = discriminator_loss(real_scores, made_scores)
            self.critic_optimizer.zero_grad(set_to_none=True)
            penalty = gradient_penalty(real_scores, seen)
            (critic_loss + self.section.gradient_penalty * penalty).backward()
            self.critic_optimizer.step()
            self.critic.requires_grad_(False)
            adversarial = -self.critic(made.vectors + blur[2], facts, told).mean()
            self.critic.requires_grad_(True)
            loss = adversarial + self.section.commitment_weight * made.commitment_loss
        return {
            "loss": loss,
            "adversarial_loss": adversarial,
            "commitment_loss": made.commitment_loss,
            "discriminator_loss": critic_loss.detach(),
            "gradient_penalty": penalty.detach(),
            "real_taken_for_real": (real_scores > 0).float().mean(),
            "made_taken_for_real": (made_scores > 0).float().mean(),
        }

    @property
    def validation_passes(self) -> int:
        return 1

    def validate(self, most: int | None = None) -> dict[str, float]:
        """Energy distance of generated grids (the same noise each time) to validation grids; how varied they are."""
        most = MOST_JUDGED if most is None else min(most, MOST_JUDGED)
        rows = torch.from_numpy(spread(np.arange(len(self.data.val)), most))  # pictures lie class by class
        real = self.data.val[rows]
        facts = None if self.data.val_facts is None else self.data.val_facts[rows]
        made = self.sample(len(real), facts, generator(self.seed, Stream.VALIDATION))
        vectors = [self.model.embed(tokens.to(self.machine.device)).flatten(1) for tokens in (real, made)]
        return {"energy_distance": energy_distance(*vectors), "pairwise_distance": pairwise_distance(made)}

    @torch.no_grad()
    def sample(self, count: int, facts: Tensor | None, draws: torch.Generator) -> Tensor:
        """(count, N) on the CPU. facts: (count, F) or None."""
        self.model.eval()
        told = None if facts is None else facts.to(self.machine.device)
        return generate(self.model, count, draws, told).cpu()

    def extra_state(self) -> dict[str, Tensor]:
        return {f"critic/{name}": tensor for name, tensor in self.critic.state_dict().items()} | {
            f"optimizer/{name}": tensor for name, tensor in optimizer_tensors(self.critic_optimizer).items()
        }

    def load_extra_state(self, tensors: dict[str, Tensor]) -> None:
        self.critic.load_state_dict(_part(tensors, "critic/"))
        restore_optimizer(self.critic_optimizer, _part(tensors, "optimizer/"))


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def build_learner(
    section: TrainPriorSection, data: PriorData, machine: Machine, seed: int
) -> PixelCNNLearner | GANLearner:
    """The learner of the section's kind."""
    if section.kind == "gan":
        return GANLearner(section, data, machine, seed)
    return PixelCNNLearner(section, data, machine)
