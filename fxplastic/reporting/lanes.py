"""Lanes of a graph, as `git log --graph` draws them: one row per node, one lane per value in use.

A value has a lane from the row that makes it to the last row that reads it. A row that reads a
value for the last time hands its lane on, so that a chain of nodes is one straight line.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

MOST = 11  # lanes that are drawn; all further ones share the last
STEP = 8  # px from lane to lane
HEIGHT = 28  # px of a row


@dataclass(frozen=True)
class Lane:
    """One row of the graph.

    Attributes:
        own: lane of the node.
        above: lanes in use above the row.
        below: lanes in use below it.
        reads: lanes of the values that the node reads.
    """

    own: int
    above: frozenset[int]
    below: frozenset[int]
    reads: tuple[int, ...]


def lay_lanes(nodes: Sequence[tuple[str, Sequence[str]]]) -> tuple[Lane, ...]:
    """Lanes of nodes, given with the names that they read, in the order in which they run.

    >>> [lane.own for lane in lay_lanes([("x", ""), ("a", "x"), ("b", "x"), ("c", "ab")])]
    [0, 1, 0, 0]
    """
    last: dict[str, int] = {}
    for row, (_, inputs) in enumerate(nodes):
        last |= dict.fromkeys(inputs, row)
    lane_of: dict[str, int] = {}
    lanes = []
    for row, (name, inputs) in enumerate(nodes):
        above = frozenset(lane_of.values())
        known = [i for i in inputs if i in lane_of]
        reads = tuple(lane_of[i] for i in known)
        freed = [lane_of.pop(i) for i in dict.fromkeys(known) if last[i] == row]
        own = min(freed) if freed else _lowest_free(lane_of.values())
        if name in last:
            lane_of[name] = own
        lanes.append(Lane(own, above, frozenset(lane_of.values()), reads))
    return tuple(lanes)


def _lowest_free(taken: Iterable[int]) -> int:
    used = set(taken)
    return next(i for i in range(len(used) + 1) if i not in used)


def lane_count(lanes: Sequence[Lane]) -> int:
    """How many lanes are drawn, the shared last one included."""
    highest = max((max((lane.own, *lane.above, *lane.below)) for lane in lanes), default=0)
    return min(highest + 1, MOST + 1)


@dataclass(frozen=True)
class Drawing:
    """SVG path data of one row.

    Attributes:
        lines: of the lanes.
        dot: of the node.
        bundle: of the lane that all lanes beyond the drawn ones share; empty without those.
    """

    lines: str
    dot: str
    bundle: str


def draw_lane(lane: Lane) -> Drawing:
    """The drawing of one row; lanes beyond `MOST` are drawn as one.

    >>> draw_lane(Lane(own=0, above=frozenset({0}), below=frozenset({0, 1}), reads=(0,)))
    Drawing(lines='M4 0V14M4 14V28', dot='M4 14h.01', bundle='')
    """
    centre = _x(lane.own)
    passing = sorted((lane.above & lane.below) - {lane.own})
    parts = [f"M{_x(i)} 0V{HEIGHT}" for i in passing if i < MOST]
    for read in sorted(set(lane.reads)):
        parts.append(_bend(_x(read), 0, centre, HEIGHT // 2))
    if lane.own in lane.above and lane.own not in lane.reads:
        parts.append(f"M{centre} 0V{HEIGHT // 2}")
    if lane.own in lane.below:
        parts.append(f"M{centre} {HEIGHT // 2}V{HEIGHT}")
    return Drawing("".join(dict.fromkeys(parts)), f"M{centre} {HEIGHT // 2}h.01", _bundle(passing))


def draw_section(inside: Sequence[Lane], *, opened: bool) -> Drawing:
    """The drawing of the heading over some rows: while they are hidden, all that they do.

    Args:
        inside: lanes of the rows, at least one.
        opened: whether the rows are shown below the heading.
    """
    above, below = inside[0].above, inside[-1].below
    if opened:
        lines = "".join(f"M{_x(i)} 0V{HEIGHT}" for i in sorted(above) if i < MOST)
        return Drawing(lines, "", _bundle(sorted(above)))
    used = {lane.own for lane in inside} | {i for lane in inside for i in lane.reads}
    centre = _x(inside[-1].own)
    passing = sorted((above & below) - used)
    parts = [f"M{_x(i)} 0V{HEIGHT}" for i in passing if i < MOST]
    for i in sorted(above - set(passing)):
        parts.append(_bend(_x(i), 0, centre, HEIGHT // 2))
    for i in sorted(below - set(passing)):
        parts.append(_bend(centre, HEIGHT // 2, _x(i), HEIGHT))
    dot = f"M{centre} {HEIGHT // 2}h.01"
    return Drawing("".join(dict.fromkeys(parts)), dot, _bundle(passing))


def _x(lane: int) -> int:
    return STEP // 2 + STEP * min(lane, MOST)


def _bend(x: int, y: int, to_x: int, to_y: int) -> str:
    if x == to_x:
        return f"M{x} {y}V{to_y}"
    middle = (y + to_y) // 2
    return f"M{x} {y}C{x} {middle} {to_x} {middle} {to_x} {to_y}"


def _bundle(passing: Iterable[int]) -> str:
    return f"M{_x(MOST)} 0V{HEIGHT}" if any(i >= MOST for i in passing) else ""
