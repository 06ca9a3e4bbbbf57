"""The nearest sizes that a model can have: whole numbers under the ties of its layouts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fxplastic.groups import ChannelGroup
from fxplastic.ties import Line, Ties

Row = NDArray[np.float64]


@dataclass(frozen=True)
class Wish:
    """The size that a group's blocks should have, and the step in which they may change."""

    target: float
    step: int


def nearest_sizes(
    groups: Mapping[str, ChannelGroup], ties: Ties, wishes: Mapping[str, Wish]
) -> tuple[dict[str, int], list[str]]:
    """Sizes of the groups nearest to what is wished for, those tied to each other together.

    Args:
        groups: the groups by name.
        ties: what sizes have to obey.
        wishes: per group that may change; the others keep their size.

    Returns:
        New size of each group with a wish, and the names of those that cannot have a multiple of
        their step, for which it was given up.
    """
    sizes: dict[str, int] = {}
    given_up: list[str] = []
    for family in _families(groups, ties):
        wished = {n: wishes[n] for n in family if n in wishes}
        if not wished:
            continue
        lines = [x for x in ties.equal if x.terms[0][0] in family]
        whole = [x for x in ties.whole if x.terms[0][0] in family]
        found = _solve(groups, family, wished, lines, whole)
        if found is None:
            given_up += wished
            free = {n: Wish(w.target, 1) for n, w in wished.items()}
            found = _solve(groups, family, free, lines, whole) or {}
        sizes |= {n: found.get(n, groups[n].size) for n in wished}
    return sizes, given_up


def _families(groups: Mapping[str, ChannelGroup], ties: Ties) -> Iterator[tuple[str, ...]]:
    """Groups that share equations, directly or through others."""
    lines = Ties(ties.equal | ties.whole, frozenset()).coupled()
    seen: set[str] = set()
    for name in groups:
        if name not in seen:
            family = (name, *lines.get(name, ()))
            seen.update(family)
            yield family


def _solve(
    groups: Mapping[str, ChannelGroup],
    family: tuple[str, ...],
    wishes: Mapping[str, Wish],
    equal: Iterable[Line],
    whole: Iterable[Line],
) -> dict[str, int] | None:
    """The whole-number program of one family; `None` where its steps allow nothing."""
    equal, whole = list(equal), list(whole)
    if not equal and not whole:
        return {n: _rounded(groups[n], w) * groups[n].block_count for n, w in wishes.items()}
    program = _Program(groups, family, wishes, equal, whole)
    blocks = program.solve()
    if blocks is None:
        return None
    counts = [groups[name].block_count for name in family]
    sizes = zip(family, blocks, counts, strict=True)
    return {name: block * count for name, block, count in sizes if name in wishes}


class _Program:
    """The whole-number program of one family.

    Columns: per group its number of steps, then by how far its block misses the target, then one
    whole number for every sum that has to be whole.
    """

    def __init__(
        self,
        groups: Mapping[str, ChannelGroup],
        family: tuple[str, ...],
        wishes: Mapping[str, Wish],
        equal: list[Line],
        whole: list[Line],
    ) -> None:
        self.family, self.wishes, self.equal, self.whole = family, wishes, equal, whole
        self.step = np.array([wishes[n].step if n in wishes else 1 for n in family], float)
        self.block = np.array([groups[n].block_size for n in family], float)
        self.count = np.array([groups[n].block_count for n in family], float)
        self.width = 2 * len(family) + len(whole)

    def _misses(self) -> Iterator[tuple[Row, float, float]]:
        """``miss >= |block - target|`` for every group."""
        for i, name in enumerate(self.family):
            target = self.wishes[name].target if name in self.wishes else self.block[i]
            for sign in (1.0, -1.0):
                row = np.zeros(self.width)
                row[i], row[len(self.family) + i] = sign * self.step[i], -1.0
                yield row, -np.inf, sign * target

    def _ties(self) -> Iterator[tuple[Row, float, float]]:
        """Every equation; a sum that has to be whole equals its own whole number."""
        place = {name: i for i, name in enumerate(self.family)}
        for k, line in enumerate((*self.equal, *self.whole)):
            row = np.zeros(self.width)
            for name, part in line.terms:
                i = place[name]
                row[i] = float(part) * self.step[i] * self.count[i]
            if k >= len(self.equal):
                row[2 * len(self.family) + k - len(self.equal)] = -1.0
            yield row, -line.fixed, -line.fixed

    def solve(self) -> list[int] | None:
        """The new size of each group's blocks, or `None`."""
        from scipy.optimize import Bounds, LinearConstraint, milp

        n, m = len(self.family), len(self.whole)
        fixed = np.array([name not in self.wishes for name in self.family])
        least = np.ceil(np.minimum(2, self.block) / self.step)
        low = [np.where(fixed, self.block, least), np.zeros(n), np.full(m, -np.inf)]
        high = [np.where(fixed, self.block, np.inf), np.full(n + m, np.inf)]
        rows, lowest, highest = zip(*(*self._misses(), *self._ties()), strict=True)
        found = milp(
            np.concatenate([np.zeros(n), 1.0 / self.block, np.zeros(m)]),
            constraints=LinearConstraint(np.stack(rows), lowest, highest),
            integrality=np.concatenate([np.ones(n), np.zeros(n), np.ones(m)]),
            bounds=Bounds(np.concatenate(low), np.concatenate(high)),
            options={"time_limit": 20.0},
        )
        return None if found.x is None else np.rint(found.x[:n] * self.step).astype(int).tolist()


def _rounded(group: ChannelGroup, wish: Wish) -> int:
    """The nearest multiple of the step, halves upwards, that leaves two neurons."""
    least = math.ceil(min(2, group.block_size) / wish.step)
    return max(math.floor(wish.target / wish.step + 0.5), least) * wish.step
