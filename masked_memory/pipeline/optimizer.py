"""The optimizer of all fits: Muon for the matrices and kernels of hidden layers, AdamW for all other parameters.

Muon (Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks") moves a matrix by its momentum,
orthogonalised. Its steps are as long as AdamW's (Liu et al. 2025, "Muon is scalable for LLM training", section 2.2), so
that both share learning rate and weight decay.
"""

from collections.abc import Collection
from typing import Any, Literal

import torch
from torch import Tensor, nn

from masked_memory.pipeline.files import InputError

OptimizerKind = Literal["muon", "adamw"]
LEAST_SIDE = 32  # of a matrix for Muon: thinner ones, such as the kernels that see pixels, are left to AdamW


class FitOptimizer:
    """Muon and AdamW as one, with what a checkpoint needs. With kind adamw, AdamW alone.

    AdamW decays kernels and matrices only: not biases, norms, or what is undecayed.
    Raises ValueError for an undecayed parameter that the model does not have.
    """

    def __init__(
        self,
        model: nn.Module,
        kind: OptimizerKind,
        learning_rate: float,
        weight_decay: float,
        undecayed: Collection[str] = (),
    ) -> None:
        named = {name: p for name, p in model.named_parameters() if p.requires_grad}
        unknown = set(undecayed) - set(dict(model.named_parameters()))
        if unknown:
            raise ValueError(f"undecayed names {', '.join(sorted(unknown))}, which the model does not have")
        left_out = {*undecayed, *embeddings_of(model)}
        found = {name: as_matrix(p) for name, p in named.items() if kind == "muon" and name not in left_out}
        #: Each parameter with its values as a matrix, on the same storage.
        self.matrices = [(named[name], nn.Parameter(matrix)) for name, matrix in found.items() if matrix is not None]
        taken = {id(p) for p, _ in self.matrices}
        rest = {name: p for name, p in named.items() if id(p) not in taken}
        decayed = [p for name, p in rest.items() if p.ndim >= 2 and name not in undecayed]
        others = [p for name, p in rest.items() if p.ndim < 2 or name in undecayed]
        groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
        fused = all(p.device.type in ("cuda", "cpu") for p in named.values())
        self.parts: dict[str, torch.optim.Optimizer] = {
            "adamw": torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.98), fused=fused)
        }
        if self.matrices:
            moved = [matrix for _, matrix in self.matrices]
            self.parts["muon"] = torch.optim.Muon(
                moved, lr=learning_rate, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"
            )

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return [group for part in self.parts.values() for group in part.param_groups]

    def zero_grad(self) -> None:
        for part in self.parts.values():
            part.zero_grad(set_to_none=True)
        for parameter, _ in self.matrices:
            parameter.grad = None

    def step(self, learning_rate: float) -> None:
        for group in self.param_groups:
            group["lr"] = learning_rate
        for parameter, matrix in self.matrices:
            matrix.data = _same_values(parameter)  # others may have given the parameter another storage
            matrix.grad = None if parameter.grad is None else like_matrix(parameter.grad, parameter, matrix)
        for part in self.parts.values():
            part.step()

    def tensors(self) -> dict[str, Tensor]:
        """What is remembered of each parameter, `part/number/name` -> tensor."""
        found = {part: optimizer_tensors(optimizer) for part, optimizer in self.parts.items()}
        return {f"{part}/{name}": tensor for part, tensors in found.items() for name, tensor in tensors.items()}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """The way back of `tensors`; the learning rate needs no state, it is a function of the step.

        Raises InputError when they are not of these optimizers.
        """
        odd = {name for name in tensors if name.partition("/")[0] not in self.parts}
        if odd:
            raise InputError(
                f"the checkpoint is of another optimizer than {' and '.join(self.parts)} (it has {min(odd)}); "
                "start the run anew, without --resume"
            )
        for part, optimizer in self.parts.items():
            start = f"{part}/"
            own = {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}
            restore_optimizer(optimizer, own)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """What an optimizer remembers of each parameter, `number/name` -> tensor."""
    states = optimizer.state_dict()["state"].items()
    return {f"{number}/{name}": tensor for number, state in states for name, tensor in state.items()}


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """The way back of `optimizer_tensors`."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        number, _, name = key.partition("/")
        state.setdefault(int(number), {})[name] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    for parameter, moments in optimizer.state.items():  # the fused step wants the parameter's own memory layout
        for name in {"exp_avg", "exp_avg_sq"} & set(moments):
            moments[name] = torch.empty_like(parameter).copy_(moments[name])


def embeddings_of(model: nn.Module) -> set[str]:
    """Names of the parameters of tables in which rows are looked up: each row is a vector of its own."""
    tables = {id(p) for module in model.modules() if isinstance(module, nn.Embedding) for p in module.parameters()}
    return {name for name, p in model.named_parameters() if id(p) in tables}


def as_matrix(parameter: Tensor) -> Tensor | None:
    """A kernel (out, in, height, width) as (out, height * width * in) or (out, in * height * width), as it lies in
    memory, a matrix as it is; without a copy. None for what Muon is not for: vectors, and what is thin or scattered."""
    values = parameter.detach()
    if values.ndim == 4 and values.is_contiguous(memory_format=torch.channels_last):
        values = values.permute(0, 2, 3, 1)
    if values.ndim < 2 or not values.is_contiguous():
        return None
    matrix = values.flatten(1)
    return matrix if min(matrix.shape) >= LEAST_SIDE else None


def _same_values(parameter: Tensor) -> Tensor:
    matrix = as_matrix(parameter)
    assert matrix is not None
    return matrix


def like_matrix(gradient: Tensor, parameter: Tensor, matrix: Tensor) -> Tensor:
    """The gradient of a parameter in the order of `as_matrix(parameter)`."""
    swapped = parameter.ndim == 4 and parameter.is_contiguous(memory_format=torch.channels_last)
    return (gradient.permute(0, 2, 3, 1) if swapped else gradient).reshape(matrix.shape)
