"""By what factor every axis changes when groups get other sizes.

A new size is a sum along an axis: of one for every position that stays, and of new size over old
size for every neuron of a group. It does not matter which neuron copies which.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fxplastic.atoms import Atoms, Ints
from fxplastic.errors import WidthError
from fxplastic.groups import ChannelGroup
from fxplastic.identity import Ids
from fxplastic.ledger import Ledger

EXACT = 1e-6  # sizes are sums of ratios of whole numbers: nothing else is within this of one


@dataclass(frozen=True, eq=False)
class Scale:
    """By what each atom's number of neurons is multiplied, and who they are.

    Attributes:
        weight: float64 per atom: new size over old size of its group, 1 where nothing changes.
        neuron: per atom, its neuron in the run.
        group: per atom, 1 + the number of its group in `names`, or 0.
        block: per atom, a number for its group and block; one of its own outside of groups.
        names: of the groups.
    """

    weight: NDArray[np.float64]
    neuron: Ints
    group: Ints
    block: Ints
    names: tuple[str, ...]

    @property
    def changing(self) -> tuple[str, ...]:
        """Names of all groups that change."""
        found = np.unique(self.group[self.weight != 1.0])
        return tuple(self.names[i - 1] for i in found.tolist() if i)

    def groups_in(self, ids: Ids) -> tuple[str, ...]:
        """Names of the groups that `ids` belong to."""
        found = np.unique(self.group[np.maximum(ids, 0)])
        return tuple(self.names[i - 1] for i in found.tolist() if i)


def scale_of(
    ledger: Ledger, atoms: Atoms, groups: Mapping[str, ChannelGroup], sizes: Mapping[str, int]
) -> Scale:
    """Weights of all atoms for new sizes of some groups.

    Raises:
        WidthError: neurons of two groups are one neuron where sizes are concerned, and the groups
            change by different factors; or what is made of a size is summed up.
    """
    count = int(atoms.neuron.max(initial=0)) + 1
    weight, group, block = np.ones(count), np.zeros(count, np.int64), -np.arange(count)
    names, blocks = tuple(groups), 0
    for number, (name, one) in enumerate(groups.items()):
        mine = atoms.neuron[group_atoms(one, ledger)]
        ratio = sizes.get(name, one.size) / one.size
        there = np.unique(group[mine])
        for other in there[there > 0].tolist():
            if abs(weight[mine][group[mine] == other][0] - ratio) > EXACT:
                rival = names[other - 1]
                raise WidthError(
                    f"groups {name!r} and {rival!r} give their width to the same tensor; change "
                    "both by the same factor, or neither",
                    (name, rival),
                )
        weight[mine], group[mine] = ratio, number + 1
        block[mine] = blocks + 1 + np.array(one.blocks)[:, None]
        blocks += one.block_count
    changed = {n: groups[n].exact for n in sizes if sizes[n] != groups[n].size}
    _refuse_frozen(ledger, atoms, group, names, changed)
    neuron = atoms.neuron.copy()
    neuron[0] = 0
    scale = (weight[neuron], group[neuron], block[neuron])
    for per_atom, nothing in zip(scale, (1.0, 0, 0), strict=True):
        per_atom[0] = nothing
    return Scale(scale[0], neuron, scale[1], scale[2], names)


def _refuse_frozen(
    ledger: Ledger, atoms: Atoms, group: Ints, names: tuple[str, ...], changed: Mapping[str, bool]
) -> None:
    """What is frozen only where sizes are concerned may turn over, but not change its width.

    `changed` has the groups whose size changes, and whether they are exact: of these, none may be
    averaged over, while for the others that has been asked for.
    """
    for freeze in ledger.freezes:
        if freeze.kind == "attention":
            continue
        for number in np.unique(group[atoms.neuron[freeze.ids]]).tolist():
            name = names[number - 1] if number else ""
            if name in changed and (changed[name] or freeze.kind != "approximate"):
                raise WidthError(
                    f"group {names[number - 1]!r} can turn over but not change its width: its "
                    f"width is the size of a tensor at node {freeze.place.node!r} "
                    f"({freeze.place.source or 'source unknown'}), where {freeze.reason}",
                    (names[number - 1],),
                )


def group_atoms(group: ChannelGroup, ledger: Ledger) -> Ints:
    """Atoms of a group's neurons, ``[size, positions over all sites]``."""
    by_axis = {(s.parameter, s.axis): s for s in ledger.sites if s.parent is None}
    split = {(s.parameter, s.axis, s.splits): s for s in ledger.sites if s.parent is not None}
    columns = []
    for site in group.sites:
        key = (site.parameter, site.axis)
        positions = site.positions.numpy()
        if site.rows is None:
            columns.append(by_axis[key].base + positions)
        else:
            height = site.rows.shape[1]
            part = split[(*key, by_axis[site.parameter, 0].length // height)]
            number = site.rows.numpy()[:, :1] // height
            columns.append(part.base + number * part.length + positions)
    return np.concatenate(columns, 1).astype(np.int64)


# ---------------------------------------------------------------- new shapes
Shape = tuple[int, ...]


def new_shapes(shape: Shape, fields: tuple[Ids, ...], scale: Scale) -> list[Shape]:
    """Shapes that a tensor may have after the change, the likeliest first.

    There is more than one only where an axis was cut in two in the midst of interchangeable
    neurons, so that either part could take the change.

    Raises:
        WidthError: the change is the same along no axis.
    """
    found: list[dict[int, int]] = [{}]
    for ids in fields:
        options = _axis_options(ids, scale)
        found = [
            one | two
            for one in found
            for two in options
            if all(one.get(axis, size) == size for axis, size in two.items())
        ]
    if not found:
        names = tuple({n for ids in fields for n in scale.groups_in(ids)})
        raise WidthError("its axes would have to have two sizes at once", names)
    return [tuple(one.get(axis, n) for axis, n in enumerate(shape)) for one in found]


def _axis_options(ids: Ids, scale: Scale) -> list[dict[int, int]]:
    """New size of the axis that takes the change, for each axis that could."""
    at = np.maximum(ids, 0)
    weight = scale.weight[at]
    axes = [a for a, n in enumerate(ids.shape) if n > 1]
    if not axes or bool((weight == 1.0).all()):
        return [{}]
    found = []
    for axis in reversed(axes):  # an outer axis is rather a number of groups
        sums = weight.sum(axis)
        size = round(float(sums.flat[0]))
        alone = len(axes) == 1 or interchangeable(at, axis, scale)
        if alone and np.abs(sums - size).max() < EXACT:
            found.append({axis: size})
    if not found:
        names = scale.groups_in(ids[weight != 1.0])
        raise WidthError(_uneven(names), scale.groups_in(ids))
    return found


def _uneven(names: tuple[str, ...]) -> str:
    shown = ", ".join(map(repr, names))
    return (
        f"the new widths of {shown} do not fill its axes evenly: groups that lie side by side "
        "there have to change alike, to sizes that divide as the old ones did"
    )


def interchangeable(atoms: Ids, axis: int, scale: Scale) -> bool:
    """Whether along `axis` different neurons of one block lie side by side."""
    neurons, blocks = scale.neuron[atoms], scale.block[atoms]
    return bool((_distinct(neurons, axis) > _distinct(blocks, axis)).any())


def _distinct(values: Ints, axis: int) -> Ints:
    ordered = np.sort(values, axis)
    result: Ints = 1 + (np.diff(ordered, axis=axis) != 0).sum(axis)
    return result
