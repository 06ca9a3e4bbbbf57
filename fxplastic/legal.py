"""The nearest sizes that a model can have: whole numbers under the ties of its layouts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from fxplastic.groups import ChannelGroup
from fxplastic.ties import Line, Ties


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
    from scipy.optimize import Bounds, LinearConstraint, milp

    # Per group: its number of steps, and by how far its block misses the target; then one whole
    # number for every sum that has to be whole.
    n, m = len(family), len(whole)
    step = np.array([wishes[name].step if name in wishes else 1 for name in family], float)
    block = np.array([groups[name].block_size for name in family], float)
    count = np.array([groups[name].block_count for name in family], float)
    rows: list[np.ndarray] = []
    low: list[float] = []
    high: list[float] = []
    for i, name in enumerate(family):
        target = wishes[name].target if name in wishes else block[i]
        for sign in (1.0, -1.0):  # miss >= |block - target|
            row = np.zeros(2 * n + m)
            row[i], row[n + i] = sign * step[i], -1.0
            rows.append(row)
            low.append(-np.inf)
            high.append(sign * target)
    place = {name: i for i, name in enumerate(family)}
    for k, line in enumerate((*equal, *whole)):
        row = np.zeros(2 * n + m)
        for name, part in line.terms:
            row[place[name]] = float(part) * step[place[name]] * count[place[name]]
        if k >= len(equal):
            row[2 * n + k - len(equal)] = -1.0
        rows.append(row)
        low.append(-line.fixed)
        high.append(-line.fixed)
    least = np.array([min(2, groups[name].block_size) for name in family]) / step
    fixed = np.array([name not in wishes for name in family])
    bounds = Bounds(
        np.concatenate([np.where(fixed, block, np.ceil(least)), np.zeros(n), np.full(m, -np.inf)]),
        np.concatenate([np.where(fixed, block, np.inf), np.full(n + m, np.inf)]),
    )
    found = milp(
        np.concatenate([np.zeros(n), 1.0 / block, np.zeros(m)]),
        constraints=LinearConstraint(np.stack(rows), low, high),
        integrality=np.concatenate([np.ones(n), np.zeros(n), np.ones(m)]),
        bounds=bounds,
        options={"time_limit": 20.0},
    )
    if found.x is None:
        return None
    blocks = np.rint(found.x[:n]) * step * count
    return {name: int(blocks[i]) for i, name in enumerate(family) if name in wishes}


def _rounded(group: ChannelGroup, wish: Wish) -> int:
    """The nearest multiple of the step, halves upwards, that leaves two neurons."""
    least = math.ceil(min(2, group.block_size) / wish.step)
    return max(math.floor(wish.target / wish.step + 0.5), least) * wish.step
