"""How many neurons of each block turn over: by group, or by a ranking over the whole network."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Literal, get_args

from fxplastic.draw import part_of
from fxplastic.errors import PlanError
from fxplastic.groups import ChannelGroup
from fxplastic.plastic import check_name

Scope = Literal["group", "network"]
Counts = dict[str, list[int]]
"""Per group, neurons to turn over in each block."""


def check_ratio(ratio: object, name: str = "ratio", *, lowest: float = 0.0) -> float:
    """`ratio` as it is, or PlanError.

    Args:
        ratio: part of each block to turn over.
        name: what to call it in the error.
        lowest: an override may be 0, which leaves a group alone: give -1 for that.
    """
    if (
        isinstance(ratio, bool)
        or not isinstance(ratio, int | float)
        or not (lowest < ratio <= 0.5 and ratio >= 0)
    ):
        least = "at least 0" if lowest < 0 else "above 0"
        raise PlanError(f"{name}={ratio!r}; give a number {least} and at most 0.5")
    return float(ratio)


def check_scope(scope: object) -> None:
    """Raise PlanError unless `scope` is one."""
    if scope not in get_args(Scope):
        raise PlanError(f"scope={scope!r}; give one of {', '.join(map(repr, get_args(Scope)))}")


def matching(groups: Mapping[str, ChannelGroup], pattern: str, what: str) -> list[str]:
    """Names of groups that a pattern matches (``*`` is anything), in the model's order.

    Raises:
        PlanError: none does.
    """
    found = [name for name in groups if name == pattern or fnmatchcase(name, str(pattern))]
    if not found:
        if "*" not in str(pattern) and "?" not in str(pattern):
            check_name(groups, pattern)
        raise PlanError(f"{what} names {pattern!r}, which matches no group; see plastic.groups")
    return found


def ratios(
    groups: Mapping[str, ChannelGroup],
    chosen: Iterable[ChannelGroup],
    ratio: float,
    overrides: Mapping[str, float],
    protect: Iterable[str],
    min_width: int,
) -> tuple[dict[str, float], dict[str, float], list[str]]:
    """Which ratio each group has.

    Returns:
        Ratios of groups with one of their own, those of the rest, and notes on who is left alone.
    """
    if not isinstance(overrides, Mapping):
        raise PlanError(f"overrides={overrides!r}; give a mapping from group names to ratios")
    protected = {n for pattern in protect for n in matching(groups, pattern, "protect")}
    own: dict[str, float] = {}
    for pattern, value in overrides.items():
        check_ratio(value, f"overrides[{pattern!r}]", lowest=-1.0)
        own |= dict.fromkeys(matching(groups, pattern, "overrides"), float(value))
    given, rest, notes = {}, {}, []
    for group in chosen:
        if group.name in protected:
            notes.append(f"{group.name} is left alone: it is protected")
        elif own.get(group.name) == 0.0:
            notes.append(f"{group.name} is left alone: its own ratio is 0")
        elif group.block_size < min_width:
            notes.append(
                f"{group.name} is left alone: a block of {group.block_size} is narrower than "
                f"{min_width}"
            )
        elif group.name in own:
            given[group.name] = own[group.name]
        else:
            rest[group.name] = ratio
    return given, rest, notes


def by_group(groups: Mapping[str, ChannelGroup], wanted: Mapping[str, float]) -> Counts:
    """The same part of every block: ``floor(ratio * block size)``."""
    return {
        name: [part_of(ratio, groups[name].block_size)] * groups[name].block_count
        for name, ratio in wanted.items()
    }


def by_network(
    groups: Mapping[str, ChannelGroup], rows: Mapping[str, Sequence[float]], ratio: float
) -> Counts:
    """Where the lowest ``ratio`` of all neurons lie; at most half of a block turns over.

    Ties go to the first.
    """
    everyone: list[tuple[float, int, int, str, int]] = []
    for place, (name, row) in enumerate(rows.items()):
        block = groups[name].block_size
        everyone += [(value, place, i, name, i // block) for i, value in enumerate(comparable(row))]
    everyone.sort()
    left = part_of(ratio, len(everyone))
    counts = {name: [0] * groups[name].block_count for name in rows}
    for _, _, _, name, block in everyone:
        if left and counts[name][block] < groups[name].block_size // 2:
            counts[name][block] += 1
            left -= 1
    return counts


def comparable(row: Sequence[float]) -> list[float]:
    """Scores over their mean absolute value: groups of all sizes and depths can then compete.

    It is the normaliser of Fang et al. (DepGraph, 2023), for scores of either sign.

    >>> comparable([1.0, 3.0]), comparable([-1.0, -3.0])
    ([0.5, 1.5], [-0.5, -1.5])
    """
    mean = math.fsum(map(abs, row)) / len(row)
    return [value / mean if mean > 0 else 0.0 for value in row]


def left_alone(group: ChannelGroup, ratio: float, scope: Scope) -> str:
    """Why no neuron of a group turns over."""
    if scope == "network":
        return f"{group.name} is left alone: none of its neurons is among the lowest {ratio:g}"
    return (
        f"{group.name} is left alone: {ratio:g} of a block of {group.block_size} is less than "
        "one neuron"
    )
