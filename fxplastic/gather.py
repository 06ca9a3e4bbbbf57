"""From edits of groups to edits of tensors: one index vector and one scale per tensor axis.

Several groups may lie on one axis and one tensor may be edited on several axes; everything that a
plan does to a tensor is put together here first, so that each tensor is edited exactly once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fxplastic.edits import Edit
from fxplastic.errors import RewriteError
from fxplastic.groups import Site
from fxplastic.plan import Plan
from fxplastic.plastic import Plastic


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


@dataclass(frozen=True, eq=False)
class Recipe:
    """How one parameter or buffer is edited, and with it whatever has its shape.

    Attributes:
        name: first name of the tensor.
        tensor: the tensor itself, still as it was.
        maps: one per edited axis, on the tensor's device.
    """

    name: str
    tensor: Tensor
    maps: tuple[AxisMap, ...]

    def value(self) -> Tensor:
        """The new value: gathered on every axis, times the share on consumer axes."""
        integral = not (self.tensor.is_floating_point() or self.tensor.is_complex())
        if integral and any(m.consumed is not None for m in self.maps):
            raise RewriteError(
                f"{self.name!r} holds {self.tensor.dtype} and would have to be scaled by shares; "
                "freeze its group with plasticize(..., freeze=[...])"
            )
        return _apply(self.tensor, self.maps, lambda m: m.consumed)

    def derivative(self, tensor: Tensor, degree: int) -> Tensor:
        """The new value of a tensor of some degree in the gradient (1: the gradient itself).

        For a function-preserving plan, the gradient of a weight is gathered on every axis and
        scaled by the share on producer axes: a consumer's weight is scaled, its gradient is not.
        """
        return _apply(
            tensor, self.maps, lambda m: None if m.produced is None else m.produced.pow(degree)
        )


@dataclass(frozen=True, eq=False)
class _Use:
    """One group's edit of one axis of a tensor."""

    group: str
    site: Site
    edit: Edit


def recipes(plastic: Plastic, plan: Plan) -> tuple[Recipe, ...]:
    """One recipe for each tensor that `plan` changes, at constant width; tied tensors once.

    Raises:
        RewriteError: the plan cannot be laid out on a tensor; nothing was changed.
    """
    named: dict[str, Tensor] = dict(plastic.named_parameters(remove_duplicate=False))
    named |= plastic.named_buffers(remove_duplicate=False)
    names: dict[int, str] = {}
    uses: dict[int, dict[int, list[_Use]]] = {}
    for group, edit in plan.edits.items():
        if edit.identity:
            continue
        for site in plastic.groups[group].sites:
            if site.parameter not in named:
                raise RewriteError(
                    f"group {group!r} runs through {site.parameter!r}, which the model no longer "
                    "has; call plasticize on the model as it is now"
                )
            key = id(named[site.parameter])
            names.setdefault(key, site.parameter)
            uses.setdefault(key, {}).setdefault(site.axis, []).append(_Use(group, site, edit))
    found = (_recipe(name, named[name], uses[key]) for key, name in names.items())
    return tuple(recipe for recipe in found if recipe.maps)


def _recipe(name: str, tensor: Tensor, uses: Mapping[int, Sequence[_Use]]) -> Recipe:
    maps = [_axis_map(name, tensor, axis, uses[axis]) for axis in sorted(uses)]
    maps = [m for m in maps if not _does_nothing(m)]
    _check_rows_commute(name, maps)
    return Recipe(name, tensor, tuple(m.to(tensor.device) for m in maps))


def _axis_map(name: str, tensor: Tensor, axis: int, uses: Sequence[_Use]) -> AxisMap:
    """All edits of one axis as one index and one factor per role."""
    if axis >= tensor.ndim:
        raise _changed_shape(name, tensor, uses[0])
    length = tensor.shape[axis]
    by_row = any(use.site.rows is not None for use in uses)
    shape = (tensor.shape[0], length) if by_row else (length,)
    index = torch.arange(length).expand(shape).clone()
    factors = {role: torch.ones(shape, dtype=torch.float64) for role in ("producer", "consumer")}
    written = []
    for use in uses:
        cells, source, share = _cells(name, tensor, use, by_row)
        index[cells] = source.expand_as(index[cells])
        factor = factors[use.site.role]
        factor[cells] = share.expand_as(factor[cells])
        written.append((use, cells, source, share))
    for use, cells, source, share in written:  # a later use may have overwritten an earlier one
        if (index[cells] != source).any() or (factors[use.site.role][cells] != share).any():
            raise RewriteError(
                f"group {use.group!r} and another edit the same positions of {name!r}, axis "
                f"{axis}, differently; leave one of them out of the plan"
            )
    produced, consumed = (
        None if bool((factor == 1.0).all()) else factor for factor in factors.values()
    )
    return AxisMap(axis, index, produced, consumed)


def _cells(
    name: str, tensor: Tensor, use: _Use, by_row: bool
) -> tuple[tuple[Tensor, ...], Tensor, Tensor]:
    """Where a group's neurons lie on an axis map, the old positions there, and their shares."""
    site, take = use.site, torch.tensor(use.edit.take)
    share = torch.tensor(use.edit.share, dtype=torch.float64)
    positions = site.positions
    if positions.numel() and int(positions.max()) >= tensor.shape[site.axis]:
        raise _changed_shape(name, tensor, use)
    if not by_row:
        return (positions,), positions[take], share[:, None]
    count = tensor.shape[0]
    rows = torch.arange(count).expand(len(take), count) if site.rows is None else site.rows
    if rows.numel() and int(rows.max()) >= count:
        raise _changed_shape(name, tensor, use)
    if site.axis == 0 or not torch.equal(rows[take], rows):
        raise RewriteError(
            f"group {use.group!r}: neurons on axis {site.axis} of {name!r} lie on other rows than "
            "those that they are copies of; leave the group out of the plan"
        )
    return (
        (rows[:, :, None], positions[:, None, :]),
        positions[take][:, None, :],
        share[:, None, None],
    )


def _changed_shape(name: str, tensor: Tensor, use: _Use) -> RewriteError:
    return RewriteError(
        f"group {use.group!r} does not fit {name!r} of shape {tuple(tensor.shape)}, axis "
        f"{use.site.axis}; the model was changed: call plasticize on it again"
    )


def _does_nothing(m: AxisMap) -> bool:
    same = bool((m.index == torch.arange(m.index.shape[-1])).all())
    return same and m.produced is None and m.consumed is None


def _check_rows_commute(name: str, maps: Sequence[AxisMap]) -> None:
    """Row-wise maps assume that axis 0 moves rows only among rows that are treated alike."""
    if not maps or maps[0].axis != 0:
        return
    take = maps[0].index
    for m in maps[1:]:
        parts = (m.index, m.produced, m.consumed)
        if m.index.ndim == 2 and any(p is not None and not torch.equal(p[take], p) for p in parts):
            raise RewriteError(
                f"the plan moves rows of {name!r} between parts whose axis {m.axis} it edits "
                "differently; keep copies inside their block"
            )


def _apply(
    tensor: Tensor, maps: Sequence[AxisMap], factor_of: Callable[[AxisMap], Tensor | None]
) -> Tensor:
    """`tensor` gathered and scaled along every map, as a new tensor of the same dtype."""
    result = tensor.detach()
    for m in maps:
        m = m if m.index.device == tensor.device else m.to(tensor.device)
        if m.index.ndim == 1:
            result = result.index_select(m.axis, m.index)
        else:
            result = result.gather(m.axis, _spread(m.index, m.axis, result).expand_as(result))
        factor = factor_of(m)
        if factor is not None:
            result = _scaled(result, _spread(factor, m.axis, result))
    return result


def _spread(values: Tensor, axis: int, like: Tensor) -> Tensor:
    """`values` of ``[length]`` or ``[rows, length]``, broadcastable against `like`."""
    shape = [1] * like.ndim
    shape[axis] = like.shape[axis]
    if values.ndim == 2:
        shape[0] = like.shape[0]
    return values.reshape(shape)


def _scaled(tensor: Tensor, factor: Tensor) -> Tensor:
    """The product, computed in float32 at least and rounded once."""
    if tensor.is_complex():
        wide = torch.promote_types(tensor.dtype, torch.complex64)
    else:
        wide = torch.float64 if tensor.dtype == torch.float64 else torch.float32
    real = torch.float64 if wide in (torch.float64, torch.complex128) else torch.float32
    return (tensor.to(wide) * factor.to(real)).to(tensor.dtype)
