"""From edits of groups to edits of tensors: one index vector and one scale per tensor axis.

Several groups may lie on one axis and one tensor may be edited on several axes; everything that a
plan does to a tensor is put together here first, so that each tensor is edited exactly once.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fxplastic.axis_maps import AxisMap, applied, gathered
from fxplastic.edits import Edit
from fxplastic.errors import RewriteError
from fxplastic.groups import Site
from fxplastic.plan import Plan
from fxplastic.plastic import Plastic


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

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the tensor afterwards."""
        new = {m.axis: m.index.shape[-1] for m in self.maps}
        return tuple(new.get(axis, n) for axis, n in enumerate(self.tensor.shape))

    def value(self) -> Tensor:
        """The new value: gathered on every axis, times the share on consumer axes."""
        integral = not (self.tensor.is_floating_point() or self.tensor.is_complex())
        if integral and any(m.consumed is not None for m in self.maps):
            raise RewriteError(
                f"{self.name!r} holds {self.tensor.dtype} and would have to be scaled by shares; "
                "freeze its group with plasticize(..., freeze=[...])"
            )
        return gathered(self.tensor, self.maps)

    def value_of(self, tensor: Tensor) -> Tensor:
        """The new value of a tensor that holds values of the parameter, such as an average."""
        return gathered(tensor, self.maps)

    def derivative(self, tensor: Tensor, degree: int) -> Tensor:
        """The new value of a tensor of some degree in the gradient (1: the gradient itself).

        For a function-preserving plan, the gradient of a weight is gathered on every axis and
        scaled by the share on producer axes: a consumer's weight is scaled, its gradient is not.
        """
        return self.scaled(tensor, lambda share: share.pow(degree))

    def scaled(
        self, tensor: Tensor, factor: Callable[[Tensor], Tensor], axes: Container[int] | None = None
    ) -> Tensor:
        """A tensor gathered on every axis, times a function of the share on producer axes.

        Args:
            tensor: of the parameter's shape, but of size 1 on axes that are left out.
            factor: from shares to what scales.
            axes: of these axes alone; all by default.
        """
        maps = [m for m in self.maps if axes is None or m.axis in axes]
        return applied(tensor, maps, lambda m: None if m.produced is None else factor(m.produced))


@dataclass(frozen=True, eq=False)
class _Use:
    """One group's edit of one axis of a tensor: where its neurons were, and where they will be."""

    group: str
    site: Site
    target: Site
    edit: Edit


Targets = Mapping[str, Sequence[Site]]
"""Sites of each group at other widths, in the order of the group's own."""


def recipes(
    plastic: Plastic,
    plan: Plan,
    targets: Targets | None = None,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
) -> tuple[Recipe, ...]:
    """One recipe for each tensor that `plan` changes; tied tensors once.

    Args:
        plastic: the module as it is.
        plan: made for it.
        targets: where each group's neurons will lie; where they are now by default.
        shapes: new shapes of the tensors that change theirs, by name.

    Raises:
        RewriteError: the plan cannot be laid out on a tensor; nothing was changed.
    """
    named: dict[str, Tensor] = dict(plastic.named_parameters(remove_duplicate=False))
    named |= plastic.named_buffers(remove_duplicate=False)
    names: dict[int, str] = {}
    uses: dict[int, dict[int, list[_Use]]] = {}
    for use in _uses(plastic, plan, targets):
        if use.site.parameter not in named:
            raise RewriteError(
                f"group {use.group!r} runs through {use.site.parameter!r}, which the model no "
                "longer has; call plasticize on the model as it is now"
            )
        key = id(named[use.site.parameter])
        names.setdefault(key, use.site.parameter)
        uses.setdefault(key, {}).setdefault(use.site.axis, []).append(use)
    shapes, known = {} if shapes is None else shapes, _Known({}, {})
    found = (_recipe(n, named[n], uses[key], shapes.get(n), known) for key, n in names.items())
    return tuple(recipe for recipe in found if recipe.maps)


@dataclass(frozen=True, eq=False)
class _Known:
    """What many tensors have in common: maps of equal axes, and edits as tensors."""

    maps: dict[object, AxisMap]
    edits: dict[int, tuple[Tensor, Tensor]]

    def edit(self, edit: Edit) -> tuple[Tensor, Tensor]:
        """Old neuron of each new one, and its share in float64."""
        if id(edit) not in self.edits:
            share = torch.tensor(edit.share, dtype=torch.float64)
            self.edits[id(edit)] = torch.tensor(edit.take), share
        return self.edits[id(edit)]

    def key(self, tensor: Tensor, axis: int, uses: Sequence[_Use], length: int) -> object | None:
        """Equal for axes with equal maps; ``None`` where rows of axis 0 differ."""
        if axis >= tensor.ndim or any(use.site.rows is not None for use in uses):
            return None
        edits = tuple(
            (id(use.edit), use.site.role, *(_bytes(site) for site in (use.site, use.target)))
            for use in uses
        )
        return tensor.shape[axis], length, tensor.device, edits


def _bytes(site: Site) -> bytes:
    return site.positions.numpy().tobytes()


def _uses(plastic: Plastic, plan: Plan, targets: Targets | None) -> Iterator[_Use]:
    """Every edit of every axis; where positions move, of groups that stay as they are, too."""
    for name in plan.edits if targets is None else plastic.groups:
        group, edit = plastic.groups[name], plan.edits.get(name)
        if edit is None:
            edit = Edit(
                tuple(range(group.size)), (1.0,) * group.size, group.size, group.block_count
            )
        if targets is not None or not edit.identity:
            new = group.sites if targets is None else targets[name]
            for site, target in zip(group.sites, new, strict=True):
                yield _Use(name, site, target, edit)


def _recipe(
    name: str,
    tensor: Tensor,
    uses: Mapping[int, Sequence[_Use]],
    shape: tuple[int, ...] | None,
    known: _Known,
) -> Recipe:
    new, rows, maps = shape or tuple(tensor.shape), None, []
    device = torch.device("cpu") if tensor.is_meta else tensor.device
    for axis in sorted(uses):
        key = known.key(tensor, axis, uses[axis], new[axis] if axis < len(new) else 0)
        m = None if key is None else known.maps.get(key)
        if m is None:
            m = _axis_map(name, tensor, axis, uses[axis], new, rows, known)
            rows = m.index if axis == 0 else rows
            m = m.to(device)
            if key is not None:
                known.maps[key] = m
        elif axis == 0:
            rows = m.index.cpu()
        if not _does_nothing(m, tensor.shape[axis]):
            maps.append(replace(m, axis=axis))
    return Recipe(name, tensor, tuple(maps))


def _axis_map(
    name: str,
    tensor: Tensor,
    axis: int,
    uses: Sequence[_Use],
    new: tuple[int, ...],
    rows: Tensor | None,
    known: _Known,
) -> AxisMap:
    """All edits of one axis as one index and one factor per role.

    `rows` is the old row of each new one, as far as axis 0 was edited.
    """
    if axis >= tensor.ndim:
        raise _changed_shape(name, tensor, uses[0])
    rows = torch.arange(new[0]) if rows is None else rows
    by_row = any(use.site.rows is not None for use in uses)
    shape = (new[0], new[axis]) if by_row else (new[axis],)
    index = torch.full(shape, -1)
    factors = {role: torch.ones(shape, dtype=torch.float64) for role in ("producer", "consumer")}
    written = []
    for use in uses:
        cells, source, share = _cells(name, tensor, use, rows if by_row else None, known)
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
    _fill_rest(name, tensor, axis, uses, index, rows)
    produced, consumed = (
        None if bool((factor == 1.0).all()) else factor for factor in factors.values()
    )
    return AxisMap(axis, index, produced, consumed)


def _fill_rest(
    name: str, tensor: Tensor, axis: int, uses: Sequence[_Use], index: Tensor, rows: Tensor
) -> None:
    """What belongs to no group stays, in its order."""
    if not bool((index < 0).any()):
        return
    length = tensor.shape[axis]
    before = torch.ones(
        (tensor.shape[0], length) if index.ndim == 2 else (length,), dtype=torch.bool
    )
    for use in uses:
        if index.ndim == 1:
            before[use.site.positions] = False
        elif use.site.rows is None:
            before[:, use.site.positions] = False
        else:
            before[use.site.rows[:, :, None], use.site.positions[:, None, :]] = False
    pairs = [(index, before)] if index.ndim == 1 else zip(index, before[rows], strict=True)
    for line, free in pairs:
        gaps, rest = torch.nonzero(line < 0)[:, 0], torch.nonzero(free)[:, 0]
        if len(gaps) != len(rest):
            raise RewriteError(
                f"{len(rest)} positions of {name!r}, axis {axis}, belong to no group, and there "
                f"would be room for {len(gaps)}; the model was changed: call plasticize again"
            )
        line[gaps] = rest


def _cells(
    name: str, tensor: Tensor, use: _Use, old_rows: Tensor | None, known: _Known
) -> tuple[tuple[Tensor, ...], Tensor, Tensor]:
    """Where a group's new neurons lie on an axis map, the old positions there, and their shares.

    `old_rows` is the old row of each new row where the map has rows.
    """
    site, target, (take, share) = use.site, use.target, known.edit(use.edit)
    positions = site.positions
    if positions.numel() and int(positions.max()) >= tensor.shape[site.axis]:
        raise _changed_shape(name, tensor, use)
    if old_rows is None:
        return (target.positions,), positions[take], share[:, None]
    old, new = _rows(site, tensor.shape[0]), _rows(target, len(old_rows))
    if old.numel() and int(old.max()) >= tensor.shape[0]:
        raise _changed_shape(name, tensor, use)
    came = old_rows[new]  # new neuron j lies on new rows that copy these old ones
    first, last = old[take].amin(1, keepdim=True), old[take].amax(1, keepdim=True)
    if site.axis == 0 or bool(((came < first) | (came > last)).any()):
        raise RewriteError(
            f"group {use.group!r}: neurons on axis {site.axis} of {name!r} lie on other rows than "
            "those that they are copies of; leave the group out of the plan"
        )
    return (
        (new[:, :, None], target.positions[:, None, :]),
        positions[take][:, None, :],
        share[:, None, None],
    )


def _rows(site: Site, count: int) -> Tensor:
    """Rows of axis 0 that each neuron's positions apply to; all of them unless the site says."""
    size = site.positions.shape[0]
    return torch.arange(count).expand(size, count) if site.rows is None else site.rows


def _changed_shape(name: str, tensor: Tensor, use: _Use) -> RewriteError:
    return RewriteError(
        f"group {use.group!r} does not fit {name!r} of shape {tuple(tensor.shape)}, axis "
        f"{use.site.axis}; the model was changed: call plasticize on it again"
    )


def _does_nothing(m: AxisMap, length: int) -> bool:
    if m.produced is not None or m.consumed is not None or m.index.shape[-1] != length:
        return False
    return bool((m.index == torch.arange(length, device=m.index.device)).all())
