"""The label check: right shapes can be wrong.

Each new position carries a label, (old neuron, copy), which the plan gives it. The new program is
run on names, and wherever it makes one neuron of several positions, their labels must agree; and
the neuron must have met, op by op and slot by slot, what the old one has met. A reshape that pairs
other channels than before has every shape right, and is caught here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from fxplastic.atoms import Atoms, Ints, atoms_of, signatures
from fxplastic.errors import WidthError
from fxplastic.identity import Ids
from fxplastic.ledger import AtomSite, Ledger

MIXED = "would be combined with copies of other neurons than before"
OTHER = "meets something in the program that is not what it met before"


@dataclass(frozen=True, eq=False)
class Run:
    """A finished run on names."""

    ledger: Ledger
    atoms: Atoms

    @classmethod
    def of(cls, ledger: Ledger) -> Run:
        """The run that `ledger` is the record of."""
        return cls(ledger, atoms_of(ledger))


@dataclass(frozen=True, eq=False)
class Origin:
    """Where the positions along one axis of a tensor come from.

    Attributes:
        index: old position of each new one, ``[length]``, or ``[rows, length]``.
        copy: which copy of its neuron each new position belongs to, in the same shape.
    """

    index: Tensor
    copy: Tensor


Origins = Mapping[tuple[str, int], Origin]
"""By name of the tensor and axis; where none is given, everything is as it was."""


def origins_of_atoms(old: Run, new: Run, origins: Origins) -> tuple[Ints, Ints]:
    """For each atom of the new run, the old atom that it stands for, and which copy it is."""
    count = new.ledger.atom_count
    source, copy = np.zeros(count, np.int64), np.zeros(count, np.int64)
    twins = {_key(site, old.ledger): site for site in old.ledger.sites}
    for site in new.ledger.sites:
        twin = twins.get(_key(site, new.ledger))
        if twin is not None:
            atoms = slice(site.base, site.base + site.size)
            origin = origins.get((site.parameter, site.axis))
            if site.parent is None:
                here, copy[atoms] = _along_axis(site, twin, origin)
            else:
                rows = _first_rows(old, new, site, twin, origins.get((site.parameter, 0)))
                here, copy[atoms] = _in_groups(site, twin, origin, *rows)
            source[atoms] = twin.base + here
    return source, copy


def _along_axis(site: AtomSite, twin: AtomSite, origin: Origin | None) -> tuple[Ints, Ints]:
    """Old position and copy of every position of an axis."""
    if origin is None or origin.index.ndim == 2:  # told apart by group elsewhere: nobody asks
        same = np.arange(site.length) if site.length == twin.length else np.zeros(site.length, int)
        return same, np.zeros(site.length, np.int64)
    return origin.index.numpy(), origin.copy.numpy()


def _first_rows(
    old: Run, new: Run, site: AtomSite, twin: AtomSite, rows: Origin | None
) -> tuple[Ints, Ints]:
    """The first row of every convolution group, and the old group that it comes from."""
    heights = []
    for run, one in ((new, site), (old, twin)):
        whole = next(s for s in run.ledger.sites if s.parameter == site.parameter and s.axis == 0)
        heights.append(whole.length // one.splits)
    first = np.arange(site.splits) * heights[0]
    came = first if rows is None else rows.index.numpy()[first]
    return first, came // heights[1]


def _in_groups(
    site: AtomSite, twin: AtomSite, origin: Origin | None, first: Ints, groups: Ints
) -> tuple[Ints, Ints]:
    """Old position and copy of every position of an axis that is told apart by group."""
    shape = (site.splits, site.length)
    if origin is None:
        here, which = np.broadcast_to(np.arange(site.length), shape), np.zeros(shape, np.int64)
    else:
        here, which = (
            x.numpy()[first] if x.ndim == 2 else np.broadcast_to(x.numpy(), shape)
            for x in (origin.index, origin.copy)
        )
    return (groups[:, None] * twin.length + here).ravel(), which.ravel()


def _key(site: AtomSite, ledger: Ledger) -> tuple[str, int, int]:
    """What names a site in every run: sites that are told apart by group have another number."""
    order = 0
    if site.parent is not None:
        family = [s for s in ledger.sites if s.parent == site.parent]
        order = 1 + family.index(site)
    return site.parameter, site.axis, order


def check_labels(
    old: Run,
    new: Run,
    origins: Origins,
    blamed: Sequence[str],
    again: Callable[[Ids], Ledger],
) -> None:
    """Raise WidthError unless every neuron of the new run is a copy of one of the old run's.

    Args:
        old: the run of the model as it was.
        new: the run of the model at its new widths.
        origins: where the plan takes the positions of each tensor from.
        blamed: names of the groups whose widths change.
        again: makes the new run again, with labels written in the atoms that it is given.
    """
    _check_witness(old, new, blamed)
    source, copy = origins_of_atoms(old, new, origins)
    parents = {s.parent for s in new.ledger.sites if s.parent is not None}
    real = (new.atoms.site >= 0) & ~np.isin(new.atoms.site, sorted(parents))
    index = np.flatnonzero(real)
    neuron = new.atoms.neuron[index]
    labels = old.atoms.neuron[source[index]] * (int(copy.max(initial=0)) + 1) + copy[index]
    count = int(new.atoms.neuron.max(initial=0)) + 1
    low, high = np.full(count, np.iinfo(np.int64).max), np.full(count, -1)
    np.minimum.at(low, neuron, labels)
    np.maximum.at(high, neuron, labels)
    torn = index[low[neuron] != high[neuron]]
    if torn.size:
        raise _wrong_at(new, int(torn[0]), MIXED, blamed)
    theirs = signatures(old.ledger, old.atoms)[old.atoms.neuron[source[index]]]
    other = index[signatures(new.ledger, new.atoms)[neuron] != theirs]
    if other.size:  # labels may have been written in the new run's own atoms: read it again
        same = Run.of(again(source.astype(np.int32)))
        other = index[signatures(same.ledger, same.atoms)[neuron] != theirs]
    if other.size:
        raise _wrong_at(new, int(other[0]), OTHER, blamed)


def _check_witness(old: Run, new: Run, blamed: Sequence[str]) -> None:
    """Numbers and fixed positions have to be what they were, op by op."""
    before, after = old.ledger.witness or {}, new.ledger.witness or {}
    for training, node in before.keys() | after.keys():
        if before.get((training, node)) != after.get((training, node)):
            raise WidthError(
                f"the new widths cannot be laid out: node {node!r} would work on other numbers, or "
                "on inputs and constants in another order, than before: a size or a position that "
                f"is fixed in the model's code depends on the old widths. Leave {_names(blamed)} "
                "out of the plan",
                blamed,
            )


def _wrong_at(new: Run, atom: int, what: str, blamed: Sequence[str]) -> WidthError:
    """An error about one position, and the last place where its neuron was met."""
    site = new.ledger.sites[int(new.atoms.site[atom])]
    place = f"position {int(new.atoms.position[atom])} of {site.parameter!r}, axis {site.axis}"
    return WidthError(
        f"the new widths cannot be laid out: {place}, {what}{_where(new, atom)}. Leave "
        f"{_names(blamed)} out of the plan, or give groups that lie on the same tensors the same "
        "change of width",
        blamed,
    )


def _names(blamed: Sequence[str]) -> str:
    return ", ".join(map(repr, blamed))


def _where(new: Run, atom: int) -> str:
    """The last place where something was said of the neuron of `atom`."""
    neuron = new.atoms.neuron[atom]
    for event in reversed(new.ledger.events):
        if bool((new.atoms.neuron[event.ids] == neuron).any()):
            return f" (last at node {event.place.node!r}, {event.place.source or 'source unknown'})"
    return ""
