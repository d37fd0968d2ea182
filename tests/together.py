"""What the tests of several processes run in each: torchrun tests/together.py RUNS SOURCE BATCH CHECK.

Trains, reconstructs and studies the tiny pictures in RUNS. CHECK is a file for what the first process found; there is
none with `-`.
"""

import sys
from pathlib import Path

import torch
from torch import nn

from masked_memory.models.shared_norm import share_statistics
from masked_memory.pipeline.engine import draws_of
from masked_memory.pipeline.files import write_json
from masked_memory.pipeline.machine import generator, prepare_machine
from masked_memory.pipeline.world import World, leave_world
from masked_memory.rivals import train_mae
from masked_memory.settings.config import Config
from masked_memory.stages import (
    reconstruct_masked,
    train_classifier,
    train_distil,
    train_prior,
    train_vqvae,
    vqvae_reconstruction,
)
from toys import tiny

TRAINED = ("train_vqvae", "train_classifier", "train_distil", "train_mae", "train_prior")


def settings(runs: Path, source: Path, batch: int) -> Config:
    """AdamW, as rounding grows in Muon's orthogonalisation; no dropout, which processes draw for themselves."""
    each = {f"{stage}__batch_size": batch for stage in TRAINED} | {f"{stage}__optimizer": "adamw" for stage in TRAINED}
    each |= {f"{stage}__dropout": 0.0 for stage in ("train_classifier", "train_distil", "train_prior")}
    each["train_classifier__least_steps"] = 0  # the longer a fit, the further rounding carries
    space = {"learning_rate": {"low": 1e-3, "high": 2e-3}}
    each["train_vqvae__tune"] = {"trials": 2, "epochs": 1, "space": space}
    return tiny(runs, source, run__mlflow=False, run__precision="fp32", run__threads=1, **each)


def run_stages(cfg: Config) -> None:
    for stage in (train_vqvae, vqvae_reconstruction, train_classifier, train_distil, train_mae, train_prior):
        stage.run(cfg)
    unlike = cfg.model_copy(update={"train_classifier": cfg.train_classifier.replace({"degrade": False})})
    train_classifier.run(unlike)
    reconstruct_masked.run(cfg)


def normalised(norm: nn.Module, x: torch.Tensor, slope: torch.Tensor) -> list[torch.Tensor]:
    """What comes out, the gradient of the input, and the running statistics."""
    x = x.clone().requires_grad_()
    out = norm(x)
    (out * slope).sum().backward()
    assert x.grad is not None
    return [out.detach(), x.grad, norm.running_mean, norm.running_var]


def check_norm(world: World) -> float:
    """The largest difference between a batch normalised in parts and as a whole."""
    draws = torch.Generator().manual_seed(0)
    x, slope = torch.randn(2, 4 * world.size, 6, 5, 5, generator=draws)
    shared = share_statistics(nn.Sequential(nn.BatchNorm2d(6)), world)[0]
    own = slice(4 * world.rank, 4 * world.rank + 4)
    parts, whole = normalised(shared, x[own], slope[own]), normalised(nn.BatchNorm2d(6), x, slope)
    whole = [full[own] if full.ndim == 4 else full for full in whole]
    differences = [(part - full).abs().max() for part, full in zip(parts, whole, strict=True)]
    return float(world.sum(torch.stack(differences).max()))


def check_world(world: World) -> dict[str, object]:
    draws = draws_of(world, generator(0))
    from masked_memory.models.augmentation import augment

    pictures = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 1, 4, 4)[2 * world.rank : 2 * world.rank + 2]
    shifted = world.rows(augment(pictures.contiguous(), "shift", draws).contiguous())
    return {
        "sum": world.sum(torch.tensor(world.rank + 1.0)).item(),
        "same": world.same(f"from {world.rank}"),
        "map": list(world.map(lambda item: (item, world.rank), range(5))),
        "shifted": shifted.tolist(),
        "norm": check_norm(world),
    }


def main() -> int:
    runs, source, batch, check = sys.argv[1:]
    cfg = settings(Path(runs), Path(source), int(batch))
    machine = prepare_machine(cfg.run)
    found = check_world(machine.world)
    run_stages(cfg)
    if machine.world.rank == 0:
        write_json(Path(check), found)
    return leave_world(0)


if __name__ == "__main__":
    sys.exit(main())
