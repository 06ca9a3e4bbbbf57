"""How much each neuron matters: gradient magnitude, accumulated over batches.

The score of a neuron is the sum over batches, and over its producer parameters, of the magnitude
of the loss gradient (Sakai and Hotta, arXiv 2507.09940, 2025). With class weights in the loss,
rare classes weigh more in it; `class_weights` makes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fxplastic.errors import ScoreError
from fxplastic.groups import ChannelGroup, Site
from fxplastic.plastic import Plastic, require_plastic


@dataclass(frozen=True, eq=False)
class _Source:
    """One parameter axis that adds to the score of a group."""

    group: str
    parameter: nn.Parameter
    site: Site


class GradientScores:
    """Sums of |gradient| per neuron over every `update` since the last `reset`.

    Per neuron, all of its producer parameters count (filter rows, biases, norm weights), buffers
    and consumers do not; tied weights count once. A gradient scaled by a loss scaler is scored as
    it is: all groups by the same factor, as long as the scale stays what it was.

    Args:
        plastic: the model whose groups are scored; its parameters are not touched.

    Raises:
        ScoreError: not a plastic module, or wrapped in something.
    """

    def __init__(self, plastic: Plastic) -> None:
        require_plastic(plastic, ScoreError)
        named = dict(plastic.named_parameters(remove_duplicate=False))
        self._groups = dict(plastic.groups)
        self._sources = tuple(
            source for group in self._groups.values() for source in _sources(group, named)
        )
        self._device = {name: _home(group, named) for name, group in self._groups.items()}
        self._sums: dict[str, Tensor] = {}
        self._index: dict[tuple[int, torch.device], tuple[Tensor, Tensor | None]] = {}
        self._updates = 0

    def update(self) -> None:
        """Add the gradients that are there now; call it after `backward`, before `zero_grad`.

        All work is on the parameters' devices, and nothing waits for them. A parameter without a
        gradient adds nothing.
        """
        magnitudes: dict[int, Tensor] = {}
        reduced: dict[tuple[int, int, bool], Tensor] = {}
        with torch.no_grad():
            for source in self._sources:
                if source.parameter.grad is not None:
                    self._add(source, magnitudes, reduced)
        self._updates += 1

    def values(self) -> dict[str, Tensor]:
        """Scores per group, ``[size]``, on the device of the group's parameters; copies.

        float64 for float64 gradients, float32 for all others. Zero for a group whose parameters
        never had a gradient.

        Raises:
            ScoreError: `update` was not called since the beginning or the last `reset`.
        """
        if self._updates == 0:
            raise ScoreError(
                "no gradient has been scored; call update() after backward() for at least one batch"
            )
        return {name: self._sum(name, torch.float32).clone() for name in self._groups}

    def reset(self) -> None:
        """Forget everything, for instance after a turnover."""
        self._sums.clear()
        self._updates = 0

    def _add(
        self,
        source: _Source,
        magnitudes: dict[int, Tensor],
        reduced: dict[tuple[int, int, bool], Tensor],
    ) -> None:
        """Add one parameter axis to its group; |g| and its sums are shared between groups."""
        parameter, axis = source.parameter, source.site.axis
        key = id(parameter)
        if key not in magnitudes:
            magnitudes[key] = _magnitude(parameter)
        by_row = source.site.rows is not None
        if (key, axis, by_row) not in reduced:
            reduced[key, axis, by_row] = _reduced(magnitudes[key], axis, by_row)
        sums = reduced[key, axis, by_row]
        positions, rows = self._on(source.site, sums.device)
        if rows is None:
            each = sums[positions].sum(1)
        else:
            each = sums[rows[:, :, None], positions[:, None, :]].sum((1, 2))
        total = self._sum(source.group, each.dtype)
        self._sums[source.group] = total + each.to(total.device)

    def _sum(self, group: str, dtype: torch.dtype) -> Tensor:
        """What a group has so far, zeros at first."""
        if group not in self._sums:
            return torch.zeros(self._groups[group].size, dtype=dtype, device=self._device[group])
        return self._sums[group]

    def _on(self, site: Site, device: torch.device) -> tuple[Tensor, Tensor | None]:
        """A site's indices on a device; moved there once."""
        key = (id(site), device)
        if key not in self._index:
            rows = None if site.rows is None else site.rows.to(device)
            self._index[key] = site.positions.to(device), rows
        return self._index[key]


def _sources(group: ChannelGroup, named: dict[str, nn.Parameter]) -> list[_Source]:
    """Producer parameters of a group, each axis position of each tensor once."""
    seen: set[tuple[int, int, bytes]] = set()
    result = []
    for site in group.producers:
        parameter = named.get(site.parameter)
        if parameter is None:  # a buffer
            continue
        key = id(parameter), site.axis, site.positions.numpy().tobytes()
        if key not in seen:
            seen.add(key)
            result.append(_Source(group.name, parameter, site))
    return result


def _home(group: ChannelGroup, named: dict[str, nn.Parameter]) -> torch.device:
    """Device of the group's first parameter."""
    devices = (named[s.parameter].device for s in group.sites if s.parameter in named)
    return next(devices, torch.device("cpu"))


def _magnitude(parameter: nn.Parameter) -> Tensor:
    """|gradient| as a dense tensor."""
    grad = parameter.grad
    assert grad is not None
    return (grad if grad.layout == torch.strided else grad.to_dense()).detach().abs()


def _reduced(magnitude: Tensor, axis: int, by_row: bool) -> Tensor:
    """Sum over all axes but `axis` (and axis 0, where rows matter), in float32 or float64."""
    kept = {0, axis} if by_row else {axis}
    dims = [d for d in range(magnitude.ndim) if d not in kept]
    dtype = torch.float64 if magnitude.dtype == torch.float64 else torch.float32
    return magnitude.sum(dims, dtype=dtype) if dims else magnitude.to(dtype)


def class_weights(
    counts: Sequence[int] | Tensor, scheme: str = "inverse", *, beta: float = 0.9999
) -> Tensor:
    """Weight of each class's samples, normalised to a mean of 1 over the samples.

    Args:
        counts: number of training samples of each class, ``[classes]``.
        scheme: ``"inverse"`` frequency, or ``"effective"`` number of samples (Cui et al., 2019).
        beta: of the effective number, between 0 and 1.

    Returns:
        float32 ``[classes]`` on the device of `counts`, for the `weight` of a loss.

    Raises:
        ScoreError: a class without samples, or no such scheme.

    >>> class_weights([99, 1])
    tensor([ 0.5051, 50.0000])
    """
    number = torch.as_tensor(counts).to(torch.float64)
    if number.ndim != 1 or number.numel() == 0:
        raise ScoreError(f"counts has shape {tuple(number.shape)}; give one number per class")
    empty = [i for i, n in enumerate(number.tolist()) if not n > 0]
    if empty:
        raise ScoreError(
            f"class {empty[0]} has {number[empty[0]].item():g} samples, which has no weight; "
            "leave it out, or count at least one"
        )
    if scheme == "inverse":
        weight = 1.0 / number
    elif scheme == "effective":
        weight = (1.0 - beta) / (1.0 - beta**number)
    else:
        raise ScoreError(f"scheme={scheme!r}; give 'inverse' or 'effective'")
    return (weight * number.sum() / (weight * number).sum()).to(torch.float32)
