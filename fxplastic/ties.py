"""Which widths are tied to each other, as linear equations over the sizes of groups.

Where an axis of neurons is laid out in lines (the halves of a channel shuffle, the groups of a
convolution), all lines have to be equally long, whatever their neurons. Each layout that a run on
names has met gives such equations.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from fxplastic.groups import ChannelGroup
from fxplastic.identity import Ids
from fxplastic.ledger import Ledger
from fxplastic.scale import Scale, interchangeable

Terms = tuple[tuple[str, Fraction], ...]


@dataclass(frozen=True)
class Line:
    """The length of a line: a sum of parts of groups' sizes, and of positions that stay."""

    terms: Terms
    fixed: int

    def minus(self, other: Line) -> Line:
        """The difference of two lengths."""
        total = dict(self.terms)
        for name, part in other.terms:
            total[name] = total.get(name, Fraction(0)) - part
        kept = tuple(sorted((n, p) for n, p in total.items() if p))
        return Line(kept, self.fixed - other.fixed)


@dataclass(frozen=True)
class Ties:
    """What new sizes have to obey.

    Attributes:
        equal: sums that have to be zero.
        whole: sums that have to be whole numbers.
    """

    equal: frozenset[Line]
    whole: frozenset[Line]

    def coupled(self) -> dict[str, tuple[str, ...]]:
        """For each group, the groups whose widths are tied to its own, directly or by others."""
        sets: dict[str, set[str]] = {}
        for line in self.equal:
            names = {name for name, _ in line.terms}
            merged = names.union(*(sets.get(name, set()) for name in names))
            sets.update(dict.fromkeys(merged, merged))
        return {name: tuple(sorted(some - {name})) for name, some in sets.items()}


def ties_of(
    layouts: Iterable[Ids], ledger: Ledger, scale: Scale, groups: Mapping[str, ChannelGroup]
) -> Ties:
    """Equations from all layouts of a run, and from grouped convolutions' weights.

    Args:
        layouts: neural fields that the run has met; the same one may come several times.
        ledger: its record.
        scale: its atoms with their groups.
        groups: the groups by name.
    """
    equal: set[Line] = set()
    whole: set[Line] = set()
    for lines in _all_lines(layouts, ledger, scale, groups):
        first, *others = dict.fromkeys(lines)
        equal.update(line for other in others if (line := other.minus(first)).terms)
        whole.update(x for x in (first, *others) if any(p.denominator > 1 for _, p in x.terms))
    return Ties(frozenset(equal), frozenset(whole))


def _all_lines(
    layouts: Iterable[Ids], ledger: Ledger, scale: Scale, groups: Mapping[str, ChannelGroup]
) -> Iterator[list[Line]]:
    done: set[tuple[object, ...]] = set()
    for ids in layouts:
        key = (ids.__array_interface__["data"][0], ids.shape, ids.strides)
        if key in done:
            continue
        done.add(key)
        at = np.maximum(ids, 0)
        if bool(scale.group[at].any()):
            yield from _layout_lines(at, scale, groups)
    for site in ledger.sites:
        if site.parent is not None:
            atoms = np.arange(site.base, site.base + site.size, dtype=np.int32)
            yield _lines(atoms.reshape(site.splits, site.length), 1, scale, groups)


def _layout_lines(
    at: Ids, scale: Scale, groups: Mapping[str, ChannelGroup]
) -> Iterator[list[Line]]:
    axes = [a for a, n in enumerate(at.shape) if n > 1]
    if len(axes) == 1:
        yield _lines(at, axes[0], scale, groups)
        return
    # The axis that can take a change; where two can, none has to.
    able = [a for a in axes if interchangeable(at, a, scale)]
    found = [_lines(at, a, scale, groups) for a in able]
    if not found or any(len(set(lines)) == 1 for lines in found):
        yield from (lines for lines in found[:1] if len(able) == 1)
        return
    lines = found[0]
    yield lines
    yield from _aligned(at, able[0], scale, groups)


def _aligned(
    at: Ids, axis: int, scale: Scale, groups: Mapping[str, ChannelGroup]
) -> Iterator[list[Line]]:
    """Where all lines pass from one group to the next at the same place, they keep doing so."""
    moved = np.moveaxis(at, axis, -1)
    group = scale.group[moved].reshape(-1, moved.shape[-1])
    turns = np.flatnonzero((group[:, 1:] != group[:, :-1]).all(0)) + 1
    for place in turns.tolist():
        yield _lines(moved[..., :place], moved.ndim - 1, scale, groups)


def _lines(at: Ids, axis: int, scale: Scale, groups: Mapping[str, ChannelGroup]) -> list[Line]:
    """The length of each line along `axis`."""
    moved = np.moveaxis(at, axis, -1)
    rows = np.unique(scale.group[moved].reshape(-1, moved.shape[-1]), axis=0)
    found = []
    for row in rows:
        numbers, counts = np.unique(row, return_counts=True)
        parts = dict(zip(numbers.tolist(), counts.tolist(), strict=True))
        names = {scale.names[n - 1]: count for n, count in parts.items() if n}
        terms = tuple(sorted((n, Fraction(c, groups[n].size)) for n, c in names.items()))
        found.append(Line(terms, parts.get(0, 0)))
    return found
