"""Index vectors and scales along the axes of a tensor, and how they are applied to one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fxplastic.sharded import whole


@dataclass(frozen=True, eq=False)
class AxisMap:
    """What happens along one axis of a tensor.

    Attributes:
        axis: the axis.
        index: int64 old position of each new one, ``[length]``, or ``[rows, length]`` where rows
            of axis 0 differ (the input axis of a grouped convolution).
        produced: share of the neuron that a position is a producer of, in the shape of `index`;
            `None` for all ones. Gradients are scaled by it, values are not.
        consumed: share of the neuron that a position is a consumer of, likewise. Values are scaled
            by it, gradients are not.
    """

    axis: int
    index: Tensor
    produced: Tensor | None
    consumed: Tensor | None

    def to(self, device: torch.device) -> AxisMap:
        """The same map on a device."""
        # Shares are powered and rounded once, at the end, so they stay float64 where that exists.
        dtype = torch.float32 if device.type == "mps" else torch.float64
        produced, consumed = (
            None if factor is None else factor.to(device=device, dtype=dtype)
            for factor in (self.produced, self.consumed)
        )
        return replace(self, index=self.index.to(device), produced=produced, consumed=consumed)


def gathered(tensor: Tensor, maps: Sequence[AxisMap]) -> Tensor:
    """A weight gathered on every axis, times the share on consumer axes, as a new tensor."""
    return applied(tensor, maps, lambda m: m.consumed)


def applied(
    tensor: Tensor, maps: Sequence[AxisMap], factor_of: Callable[[AxisMap], Tensor | None]
) -> Tensor:
    """`tensor` gathered and scaled along every map, as a new tensor of the same dtype.

    A sharded tensor is taken together first; the result is whole.
    """
    result = whole(tensor).detach()
    for m in maps:
        m = m if m.index.device == result.device else m.to(result.device)
        if m.index.ndim == 1:
            result = result.index_select(m.axis, m.index)
        else:
            shape = [n if a != m.axis else m.index.shape[1] for a, n in enumerate(result.shape)]
            result = result.gather(m.axis, _spread(m.index, m.axis, result).expand(shape))
        factor = factor_of(m)
        if factor is not None:
            result = _scaled(result, _spread(factor, m.axis, result))
    return result


def _spread(values: Tensor, axis: int, like: Tensor) -> Tensor:
    """`values` of ``[length]`` or ``[rows, length]``, broadcastable against `like`."""
    shape = [1] * like.ndim
    shape[axis] = values.shape[-1]
    if values.ndim == 2:
        shape[0] = like.shape[0]
    return values.reshape(shape)


def _scaled(tensor: Tensor, factor: Tensor) -> Tensor:
    """The product, computed in float32 at least and rounded once; `tensor` may be overwritten."""
    if tensor.dtype in (torch.float32, torch.float64):  # a product in place is rounded alike
        return tensor.mul_(factor.to(tensor.dtype))
    if tensor.is_complex():
        wide = torch.promote_types(tensor.dtype, torch.complex64)
    else:
        wide = torch.float64 if tensor.dtype == torch.float64 else torch.float32
    real = torch.float64 if wide in (torch.float64, torch.complex128) else torch.float32
    return (tensor.to(wide) * factor.to(real)).to(tensor.dtype)
