"""The ledger: everything that a run on names has found out, in the order it was found.

Rules write to it through five words only: `unite` (two atoms are one neuron), `context` (a neuron
rides with something that never moves), `consume` and `release` (the role of a parameter site) and
`freeze` (no plan may touch this, and why). `partition` reads it afterwards.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fxplastic.atom_set import AtomSet
from fxplastic.identity import Carriers, Field, Ids, each_once

Hashes = NDArray[np.uint64]
Mark = tuple[int, int, int, int]


@dataclass(frozen=True)
class AtomSite:
    """Atoms ``base .. base + size - 1`` are the positions of one axis of one parameter.

    With `splits` > 1 the axis is told apart per convolution group: atom
    ``base + g * length + i`` is position i in the rows of group g.
    """

    parameter: str
    axis: int
    length: int
    base: int
    splits: int = 1
    parent: int | None = None

    @property
    def size(self) -> int:
        """Number of atoms."""
        return self.length * self.splits


@dataclass(frozen=True)
class Place:
    """Where in the model an entry was made."""

    node: str = ""
    source: str = ""


@dataclass(frozen=True)
class Event:
    """At one op, the atoms of `ids` met `partners` and rode with `labels`, position by position."""

    ids: Ids
    partners: tuple[Ids, ...]
    labels: Hashes
    place: Place
    op: str


@dataclass(frozen=True)
class Freeze:
    """Atoms that no plan may touch. `kind` is law, attention, approximate, edge or unknown."""

    ids: Ids
    reason: str
    kind: str
    place: Place


_NO_LABELS: Hashes = np.zeros(1, np.uint64)

# Kinds of refusal that an option of `plasticize` lifts.
OPENABLE = frozenset({"attention", "approximate"})


def mix(*parts: NDArray[Any] | int) -> Hashes:
    """A 64-bit hash of several integer arrays, position by position (splitmix64)."""
    total: Hashes = np.zeros(1, np.uint64)
    for part in parts:
        total = total * np.uint64(0x9E3779B97F4A7C15) + np.asarray(part).astype(np.uint64)
        total = (total ^ (total >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        total = (total ^ (total >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        total = total ^ (total >> np.uint64(31))
    return total


@dataclass
class Ledger:
    """Append-only record of one discovery; the only mutable value in it.

    `place`, `op` and `training` say where the run stands: node and source line, the ATen op, and
    which mode's graph it is. With `sizes`, axes that tensors get from sizes alone have atoms too
    (`new_zeros`, `expand`), so that it is known whose width they follow. `origin` is the atom of
    another run that each atom stands for: labels are then written in that run's terms. `witness`,
    where it is asked for, has what each node worked on besides neurons. `buffers` names the
    tensors that nobody trains; `stale` those whose values were taken for known although the model
    writes to them: the run has to be made again without those.
    """

    sites: list[AtomSite] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    edges: list[tuple[Ids, Ids]] = field(default_factory=list)
    freezes: list[Freeze] = field(default_factory=list)
    consumed: dict[int, Place] = field(default_factory=dict)
    produced: dict[int, Place] = field(default_factory=dict)
    fixed: AtomSet = field(default_factory=AtomSet)
    stale: set[str] = field(default_factory=set)
    place: Place = Place()
    op: str = ""
    training: bool = False
    sizes: bool = False
    witness: dict[tuple[bool, str], list[object]] | None = None
    origin: Ids | None = None
    buffers: frozenset[str] = frozenset()
    _next: int = 1
    _split: dict[tuple[int, int], int] = field(default_factory=dict)
    _replaced: AtomSet = field(default_factory=AtomSet)
    _used: list[Ids] = field(default_factory=list)
    _met: list[torch.Tensor] = field(default_factory=list)  # kept, so that no id is used again
    _said: set[object] = field(default_factory=set)

    def new_site(
        self, parameter: str, axis: int, length: int, splits: int = 1, parent: int | None = None
    ) -> int:
        """Allocate atoms for an axis of a parameter; returns the site's number."""
        site = AtomSite(parameter, axis, length, self._next, splits, parent)
        self.sites.append(site)
        self._next += site.size
        return len(self.sites) - 1

    def split_site(self, number: int, splits: int) -> int:
        """The site `number` with its atoms told apart per convolution group."""
        key = (number, splits)
        if key not in self._split:
            site = self.sites[number]
            self._split[key] = self.new_site(
                site.parameter, site.axis, site.length, splits, parent=number
            )
            self._replaced.add(self.atoms(number).numpy())
        return self._split[key]

    def in_origin(self, ids: Ids) -> Ids:
        """`ids` with every atom replaced by its `origin`."""
        if self.origin is None or not bool((ids > 0).any()):
            return ids
        result: Ids = np.where(ids > 0, self.origin[np.maximum(ids, 0)], ids)
        return result

    def named_axes(self, shape: Sequence[int], axes: Iterable[int]) -> tuple[Field, ...]:
        """In a run on sizes, a field of new atoms for each of `axes`; else none."""
        fields = []
        for axis in axes if self.sizes else ():
            if shape[axis] > 1:
                number = self.new_site("", axis, shape[axis])
                size = [shape[axis] if a == axis else 1 for a in range(len(shape))]
                fields.append(Field(self.atoms(number).reshape(size)))
        return tuple(fields)

    @property
    def atom_count(self) -> int:
        """One more than the largest atom."""
        return self._next

    def bear_witness(self, what: object) -> None:
        """Keep what the present node works on besides neurons, if anybody asks."""
        if self.witness is not None:
            self.witness.setdefault((self.training, self.place.node), []).append(what)

    def same_in_training(self) -> None:
        """What the present node works on in eval mode, it works on in training."""
        node = self.place.node
        if self.witness is not None and (False, node) in self.witness:
            self.witness[True, node] = list(self.witness[False, node])

    # ------------------------------------------------------------ what was said since
    def mark(self) -> Mark:
        """Where the record stands now."""
        return len(self.edges), len(self.freezes), len(self._used), len(self._met)

    def unaccounted(self, fields: Sequence[Field], mark: Mark) -> Ids:
        """Atoms in `fields` of which nothing was said since `mark`, and that may still move.

        Said of is what was united, frozen or taken up, or is told apart by convolution group.
        """
        met = {id(root) for root in self._met[mark[3] :]}
        unsure = [f.array.ravel() for f in fields if id(f.root) not in met]
        if not unsure:
            return np.zeros(0, np.int32)
        atoms = np.concatenate(unsure)
        left = atoms[~(self.fixed.holds(atoms) | self._replaced.holds(atoms))]
        if not left.size:
            return left
        said = AtomSet()
        for ids in (ids for edge in self.edges[mark[0] :] for ids in edge):
            said.add(ids)
        for freeze in self.freezes[mark[1] :]:
            said.add(freeze.ids)
        for ids in self._used[mark[2] :]:
            said.add(ids)
        return left[~said.holds(left)]

    # ------------------------------------------------------------ what rules write
    def unite(self, a: Ids, b: Ids, labels: Hashes | None = None) -> None:
        """Atoms at equal positions of `a` and `b` are one neuron, told apart by `labels`.

        An atom that meets an opaque position is frozen: half of what it is made of cannot move.
        """
        a, b = (x.ravel() for x in np.broadcast_arrays(a, b))
        tags = np.zeros(1, np.uint64) if labels is None else labels
        tags = np.broadcast_to(tags.ravel() if tags.size > 1 else tags, a.shape)
        self._freeze_opaque(a, b)
        both = (a > 0) & (b > 0)
        if both.all():
            self.edges.append((a, b))
            self.events.append(Event(a, (b,), tags, self.place, self.op))
            return
        if both.any():
            self.edges.append((a[both], b[both]))
            self.events.append(Event(a[both], (b[both],), tags[both], self.place, self.op))
        for atoms in (a, b):  # what meets nobody here rides with whatever else is there
            alone = (atoms > 0) & ~both
            if alone.any():
                self.context(atoms[alone], tags[alone])

    def unite_whole(self, f: Field, g: Field) -> None:
        """`unite` for two fields of one shape that hold nothing but atoms, with no labels.

        What one node does in either mode is written down once.
        """
        self._met += [f.root, g.root]
        layouts = (f.ids.shape, f.ids.stride(), g.ids.stride())
        said = (self.place.node, self.op, id(f.root), id(g.root), layouts)
        if said not in self._said:
            self._said.add(said)
            a, b = f.array.ravel(), g.array.ravel()
            self.edges.append((a, b))
            self.events.append(Event(a, (b,), _NO_LABELS, self.place, self.op))

    def _freeze_opaque(self, a: Ids, b: Ids) -> None:
        lost = np.concatenate([a[(a > 0) & (b < 0)], b[(b > 0) & (a < 0)]])
        if lost.size:
            reason = (
                f"{self.op} combines it, position by position, with an axis that holds no neurons"
            )
            self.freeze(lost, reason, "law")

    def context(self, ids: Ids, labels: Hashes) -> None:
        """Atoms may only change places with atoms that ride with the same `labels`."""
        ids, labels = (x.ravel() for x in np.broadcast_arrays(ids, labels))
        keep = ids > 0
        if keep.any():
            self.events.append(Event(ids[keep], (), labels[keep], self.place, self.op))

    def use(self, ids: Ids, labels: Hashes) -> None:
        """The signal of these atoms ends here, taken up; they are told apart by `labels`."""
        self._used.append(ids)
        self.context(ids, labels)

    def consume(self, carriers: Carriers) -> None:
        """These sites take up the neuron's signal: their slices are scaled by the share."""
        for site in carriers or ():
            self.consumed.setdefault(site, self.place)

    def release(self, carriers: Carriers) -> None:
        """These sites were used as they are: their slices are copied unscaled."""
        for site in carriers or ():
            self.produced.setdefault(site, self.place)

    def freeze(self, ids: Ids, reason: str, kind: str) -> None:
        """No plan may touch these atoms."""
        atoms = ids[ids > 0]
        if atoms.size:
            atoms = each_once(atoms)
            if kind not in OPENABLE:
                self.fixed.add(atoms)
            self.freezes.append(Freeze(atoms.astype(np.int32), reason, kind, self.place))

    # ------------------------------------------------------------ conveniences on fields
    def release_all(self, fields: Iterable[Field]) -> None:
        """`release` for every field."""
        for f in fields:
            self.release(f.carriers)

    def freeze_fields(self, fields: Iterable[Field], reason: str, kind: str) -> None:
        """`freeze` for every atom in `fields`."""
        for f in fields:
            if f.neural:
                self.freeze(f.array, reason, kind)

    def atoms(self, number: int) -> torch.Tensor:
        """int32 atoms of a site, ``[size]``."""
        site = self.sites[number]
        return torch.arange(site.base, site.base + site.size, dtype=torch.int32)
