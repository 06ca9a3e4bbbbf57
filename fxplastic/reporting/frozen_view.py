"""Frozen axes by reason, as the report lists them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fxplastic.groups import FrozenAxis
from fxplastic.reporting.wording import short_source


@dataclass(frozen=True)
class Place:
    """Where axes were frozen.

    Attributes:
        node: name of the node; empty where none was involved.
        source: the user's line.
        axes: of parameters, as ``"name:axis"`` with the number of positions.
    """

    node: str
    source: str
    axes: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Reason:
    """Why axes are frozen, and where.

    Attributes:
        index: its number.
        text: the reason.
        axes: how many axes of parameters it holds back.
        positions: how many positions of them.
        places: the nodes where that was decided.
    """

    index: int
    text: str
    axes: int
    positions: int
    places: tuple[Place, ...]


def frozen_view(frozen: Iterable[FrozenAxis], reasons: Sequence[str]) -> tuple[Reason, ...]:
    """All reasons, those that hold back most positions first; their numbers are their places.

    >>> axes = [FrozenAxis("a", 0, "output", "add", "net.py:3 in forward", 9)]
    >>> [(r.index, r.text, r.positions) for r in frozen_view(axes, ["attention", "output"])]
    [(1, 'output', 9), (0, 'attention', 0)]
    """
    by_reason: dict[str, list[FrozenAxis]] = {reason: [] for reason in reasons}
    for axis in frozen:
        by_reason[axis.reason].append(axis)
    found = [_reason(i, text, by_reason[text]) for i, text in enumerate(reasons)]
    return tuple(sorted(found, key=lambda r: (-r.positions, r.index)))


def _reason(index: int, text: str, axes: Sequence[FrozenAxis]) -> Reason:
    places: dict[tuple[str, str], list[tuple[str, int]]] = {}
    for axis in axes:
        where = axis.node, short_source(axis.source)
        places.setdefault(where, []).append((f"{axis.parameter}:{axis.axis}", axis.positions))
    return Reason(
        index,
        text,
        len(axes),
        sum(axis.positions for axis in axes),
        tuple(Place(node, source, tuple(some)) for (node, source), some in places.items()),
    )
