"""Sums over each neuron's slices of whatever has the shape of the parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fxplastic.errors import ScoreError
from fxplastic.groups import ChannelGroup, Role, Site
from fxplastic.plastic import Plastic
from fxplastic.sharded import counts_here, here, is_sharded, mesh_of, over_mesh, region


@dataclass(frozen=True, eq=False)
class _Source:
    """One parameter axis that adds to the score of a group."""

    group: str
    parameter: nn.Parameter
    site: Site


Rows = Callable[[slice], Tensor]
_AT_A_TIME = 1 << 16  # elements


class Slices:
    """The slices of every neuron in the parameters of one role; tied weights count once.

    Args:
        plastic: the model.
        role: producer parameters (filter rows, biases, norm weights) or consumers.

    Attributes:
        mesh: the processes that have parts of the parameters, if these are sharded.

    Raises:
        ScoreError: parameters are sharded over processes in a way that is not known.
    """

    def __init__(self, plastic: Plastic, role: Role) -> None:
        named = dict(plastic.named_parameters(remove_duplicate=False))
        self.groups = dict(plastic.groups)
        self._of: dict[nn.Parameter, list[_Source]] = {}
        for group in self.groups.values():
            for source in _sources(group, named, role):
                self._of.setdefault(source.parameter, []).append(source)
        self.parameters = tuple(self._of)
        self.mesh = mesh_of(self.parameters, ScoreError)
        self._here = {p for p in self._of if self.mesh is None or counts_here(p, self.mesh)}
        self._device = {name: _home(group, named) for name, group in self.groups.items()}
        self._index: dict[tuple[int, torch.device], tuple[Tensor, Tensor | None]] = {}

    def sums(self, values_of: Callable[[nn.Parameter], Rows | None]) -> dict[str, Tensor]:
        """Per group one sum per neuron, ``[size]``, on the device of the group's parameters.

        Args:
            values_of: for a parameter, a function from a slice of its first axis to what is summed
                there; ``None`` adds nothing. Of a sharded one, both are of the part that is here.

        Returns:
            float64 for float64 values, float32 for all others. Of sharded parameters, this
            process's part of each sum; `added` adds the parts up.
        """
        totals: dict[str, Tensor] = {}
        for parameter, sources in self._of.items():
            rows = values_of(parameter)
            if rows is None or parameter not in self._here:
                continue
            reduced: dict[tuple[int, bool], Tensor] = {}
            for source in sources:
                each = self._each(source, rows, reduced)
                total = totals.get(source.group)
                if total is None:
                    total = self.zeros(source.group, each.dtype)
                totals[source.group] = total + each.to(total.device)
        return {n: totals[n] if n in totals else self.zeros(n, torch.float32) for n in self.groups}

    def added(self, parts: dict[str, Tensor]) -> dict[str, Tensor]:
        """The sums of all processes' parts, by one message; sums of whole tensors as they are."""
        if self.mesh is None or not parts:
            return parts
        rows = list(parts.values())
        total = torch.cat([row.to(rows[0].device, torch.float64) for row in rows])
        split = torch.split(over_mesh(total, self.mesh), [row.numel() for row in rows])
        return {name: new.to(old) for (name, old), new in zip(parts.items(), split, strict=True)}

    def everywhere(self, good: Tensor) -> Tensor:
        """Whether something holds on every process that has a part of the parameters."""
        return good if self.mesh is None else over_mesh(good.int(), self.mesh, least=True) > 0

    def zeros(self, group: str, dtype: torch.dtype) -> Tensor:
        """No score for any neuron of a group."""
        return torch.zeros(self.groups[group].size, dtype=dtype, device=self._device[group])

    def _each(
        self, source: _Source, values: Rows, reduced: dict[tuple[int, bool], Tensor]
    ) -> Tensor:
        """One parameter axis, summed neuron by neuron; sums are shared between groups."""
        axis, by_row = source.site.axis, source.site.rows is not None
        key = axis, by_row
        if key not in reduced:
            reduced[key] = _reduced(source.parameter, values, axis, by_row)
        sums = reduced[key]
        positions, rows = self._on(source.site, sums.device)
        if rows is None:
            return sums[positions].sum(1)
        return sums[rows[:, :, None], positions[:, None, :]].sum((1, 2))

    def _on(self, site: Site, device: torch.device) -> tuple[Tensor, Tensor | None]:
        """A site's indices on a device; moved there once."""
        key = (id(site), device)
        if key not in self._index:
            rows = None if site.rows is None else site.rows.to(device)
            self._index[key] = site.positions.to(device), rows
        return self._index[key]


def _sources(group: ChannelGroup, named: dict[str, nn.Parameter], role: Role) -> list[_Source]:
    """Parameters of a group in one role, each axis position of each tensor once."""
    seen: set[tuple[int, int, bytes]] = set()
    result = []
    for site in group.sites:
        parameter = named.get(site.parameter)
        if parameter is None or site.role != role:  # a buffer, or the other role
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


def pieces(parameter: Tensor) -> list[slice]:
    """The first axis of a parameter, a few rows at a time on a CPU.

    What does not leave the cache, and needs no fresh memory, is summed three times as fast.
    """
    count = max(parameter.shape[0], 1)
    step = count
    if parameter.device.type == "cpu":
        step = max(1, _AT_A_TIME * count // max(parameter.numel(), 1))
    return [slice(i, i + step) for i in range(0, count, step)]


def _reduced(parameter: Tensor, values: Rows, axis: int, by_row: bool) -> Tensor:
    """Sum over all axes but `axis` (and axis 0, where rows matter), in float32 or float64."""
    kept = {0, axis} if by_row else {axis}
    parts = [_sum(values(rows), kept) for rows in pieces(here(parameter))]
    if len(parts) > 1:
        return _placed(
            torch.cat(parts) if 0 in kept else torch.stack(parts).sum(0), parameter, kept
        )
    return _placed(parts[0], parameter, kept)


def _placed(sums: Tensor, parameter: Tensor, kept: set[int]) -> Tensor:
    """Sums of the part of a sharded parameter that is here, where they lie in the whole."""
    if not is_sharded(parameter):
        return sums
    axes, where = sorted(kept), region(parameter)
    result = sums.new_zeros([parameter.shape[axis] for axis in axes])
    result[tuple(where[axis] for axis in axes)] = sums
    return result


def _sum(value: Tensor, kept: set[int]) -> Tensor:
    dims = [d for d in range(value.ndim) if d not in kept]
    dtype = torch.float64 if value.dtype == torch.float64 else torch.float32
    return value.sum(dims, dtype=dtype) if dims else value.to(dtype)
