"""All edits of one axis of a tensor, as one map: where each position comes from, and its share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fxplastic.axis_maps import AxisMap
from fxplastic.edits import Edit
from fxplastic.errors import RewriteError
from fxplastic.groups import Site


@dataclass(frozen=True, eq=False)
class Use:
    """One group's edit of one axis of a tensor: where its neurons were, and where they will be."""

    group: str
    site: Site
    target: Site
    edit: Edit


@dataclass(frozen=True, eq=False)
class Known:
    """What many tensors have in common: maps of equal axes, and edits as tensors."""

    maps: dict[object, AxisMap]
    edits: dict[int, tuple[Tensor, Tensor]]

    def edit(self, edit: Edit) -> tuple[Tensor, Tensor]:
        """Old neuron of each new one, and its share in float64."""
        if id(edit) not in self.edits:
            share = torch.tensor(edit.share, dtype=torch.float64)
            self.edits[id(edit)] = torch.tensor(edit.take), share
        return self.edits[id(edit)]

    def key(self, tensor: Tensor, axis: int, uses: Sequence[Use], length: int) -> object | None:
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


def axis_map(
    name: str,
    tensor: Tensor,
    axis: int,
    uses: Sequence[Use],
    new: tuple[int, ...],
    rows: Tensor | None,
    known: Known,
) -> AxisMap:
    """All edits of one axis as one index and one factor per role.

    `rows` is the old row of each new one, as far as axis 0 was edited.

    Raises:
        RewriteError: the model was changed, two uses contradict each other, or copies would lie on
            rows of another convolution group.
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
    name: str, tensor: Tensor, axis: int, uses: Sequence[Use], index: Tensor, rows: Tensor
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
    name: str, tensor: Tensor, use: Use, old_rows: Tensor | None, known: Known
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


def _changed_shape(name: str, tensor: Tensor, use: Use) -> RewriteError:
    return RewriteError(
        f"group {use.group!r} does not fit {name!r} of shape {tuple(tensor.shape)}, axis "
        f"{use.site.axis}; the model was changed: call plasticize on it again"
    )
