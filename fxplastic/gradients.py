"""Gradients as they are scored: dense, unscaled, in float32 at least, known to be finite or not."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.amp import GradScaler

from fxplastic.errors import ScoreError
from fxplastic.sharded import here


def dense_gradient(parameter: nn.Parameter) -> Tensor | None:
    """The gradient as a dense tensor, if there is one."""
    return dense(parameter.grad)


def dense(grad: Tensor | None) -> Tensor | None:
    """A gradient without a graph, strided; of a sharded one, the part that is here."""
    if grad is None:
        return None
    return here(grad if grad.layout == torch.strided else grad.to_dense()).detach()


def one_of_many() -> bool:
    """Whether this is one of several processes that train together."""
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return False
    return torch.distributed.get_world_size() > 1


def check_own_loss(loss: object, averaged: bool, sharded: bool) -> None:
    """Raise ScoreError unless gradients of a loss of its own can be scored.

    Args:
        loss: what was given.
        averaged: whether scores of several processes are averaged.
        sharded: whether parameters are sharded over processes.
    """
    if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.requires_grad:
        raise ScoreError(
            "update_from takes a scalar loss before its backward(), with a graph; it got "
            f"{_described(loss)}"
        )
    if sharded:
        raise ScoreError(
            "update_from cannot see gradients of sharded parameters, which a backward of the "
            "step itself brings together; score with update(), after the step's backward"
        )
    if one_of_many() and not averaged:
        raise ScoreError(
            "update_from sees the gradients of this process alone, and the processes would "
            "make different plans; score with update(), after a backward that averages them "
            "(or let Plasticity average the scores: by any criterion but 'net')"
        )


def _described(value: object) -> str:
    """What was given in place of a loss."""
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}"
    graph = "a graph" if value.requires_grad else "no graph"
    return f"a tensor of shape {tuple(value.shape)} with {graph}"


def wide(tensor: Tensor) -> Tensor:
    """In float32, or float64 where it is."""
    return tensor.to(torch.float64 if tensor.dtype == torch.float64 else torch.float32)


def unscaling(scaler: GradScaler | None) -> Tensor | None:
    """What gradients are to be multiplied by; on the scaler's device."""
    if scaler is None or not scaler.is_enabled() or scaler._scale is None:
        return None
    return scaler._scale.double().reciprocal().float()


def all_finite(sums: list[Tensor]) -> Tensor:
    """Whether all of a batch's sums are finite, as a tensor on the first one's device."""
    flags = [row.isfinite().all() for row in sums]
    if not flags:
        return torch.ones((), dtype=torch.bool)
    return torch.stack([flag.to(flags[0].device) for flag in flags]).all()
