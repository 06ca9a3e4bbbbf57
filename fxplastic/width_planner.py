"""Plans that grow or shrink: to a width, by a ratio, to a multiple; always ones that fit.

A widened layer copies neurons (Net2WiderNet, Chen et al., 2016), a shrunk one leaves the lowest
scores out. What cannot have the width asked for is given the nearest one, or left alone, and the
plan's notes say so.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from torch import Tensor

from fxplastic.draw import Shares, draw_shares
from fxplastic.errors import PlanError, WidthError
from fxplastic.groups import ChannelGroup
from fxplastic.legal import Wish, nearest_sizes
from fxplastic.module import PlasticModule
from fxplastic.plan import Plan, check_shares
from fxplastic.planner import on_host
from fxplastic.plastic import require_plastic
from fxplastic.resize import ties_between
from fxplastic.scores import GradientScores
from fxplastic.widths import lay_out

Width = int | float
Scores = GradientScores | Mapping[str, Tensor] | None


def plan_widths(
    plastic: PlasticModule,
    widths: Width | Mapping[str, Width],
    *,
    multiple_of: int = 1,
    scores: Scores = None,
    shares: Shares = "uneven",
    seed: int = 0,
) -> Plan:
    """A plan that gives groups other widths, and that `rewrite` can carry out.

    Args:
        plastic: the model.
        widths: what the width of a group should be: a whole number of neurons, or a fraction of
            what it is now (``1.25`` grows by a quarter, ``0.7`` prunes 30 %). One value for all
            groups, or a mapping from group names (``*`` matches anything) to values; groups that
            it does not name keep their width.
        multiple_of: make every width that changes a multiple of this, where that can be.
        scores: per group, one number per neuron, ``[size]``; the highest are copied, the lowest
            pruned. By default both are drawn at random.
        shares: how a copied neuron's outgoing weight is split: ``"even"``, ``"uneven"`` or
            ``"signed"``.
        seed: of the draw.

    Returns:
        The plan. A group that is tied to others (`ChannelGroup.coupled`) has the width nearest to
        the one asked for that the tie allows; one whose width cannot change at all is left out.
        Both are in the notes.

    Raises:
        PlanError: a name that matches no group, a width that is no positive number, no such kind
            of shares.
        ScoreError: scores that do not fit the groups.

    >>> from torch import nn, zeros
    >>> from fxplastic import plasticize
    >>> mlp = nn.Sequential(nn.Linear(3, 20), nn.ReLU(), nn.Linear(20, 2))
    >>> plastic = plasticize(mlp, zeros(2, 3))
    >>> len(plan_widths(plastic, 1.25).edits["0.weight:0"].take)
    25
    >>> len(plan_widths(plastic, 0.7, multiple_of=8).edits["0.weight:0"].take)
    16
    """
    require_plastic(plastic, PlanError)
    check_shares(shares)
    if not isinstance(multiple_of, int) or isinstance(multiple_of, bool) or multiple_of < 1:
        raise PlanError(f"multiple_of={multiple_of!r}; give a whole number, at least 1")
    wishes, notes = _wishes(plastic.groups, widths, multiple_of)
    ties = ties_between(plastic)
    while True:
        sizes, given_up = nearest_sizes(plastic.groups, ties, wishes)
        new = {n: size for n, size in sizes.items() if size != plastic.groups[n].size}
        remarks = _remarks(plastic.groups, wishes, sizes, given_up)
        plan = _plan(plastic, new, scores, shares, seed, [*notes, *remarks])
        try:
            if new:
                lay_out(plastic, plan)
            return plan
        except WidthError as error:
            blamed = set(new).intersection(error.groups) or set(new)
            notes += [f"{name} is left alone: {error}" for name in sorted(blamed)]
            wishes = {n: w for n, w in wishes.items() if n not in blamed}


def _plan(
    plastic: PlasticModule,
    sizes: Mapping[str, int],
    scores: Scores,
    shares: Shares,
    seed: int,
    notes: Sequence[str],
) -> Plan:
    chosen = [plastic.groups[name] for name in sizes]
    draws = [random.Random(f"{seed}:{group.name}") for group in chosen]
    if scores is None:
        rows = [
            [draw.random() for _ in range(g.size)] for g, draw in zip(chosen, draws, strict=True)
        ]
    else:
        values = scores.values() if isinstance(scores, GradientScores) else scores
        rows = on_host(plastic.groups, chosen, values)
    takes, parts = {}, {}
    for group, row, draw in zip(chosen, rows, draws, strict=True):
        takes[group.name] = _take(group, sizes[group.name], row)
        parts[group.name] = draw_shares(takes[group.name], shares, draw)
    return Plan.from_takes(plastic, takes, parts, notes=notes)


def _take(group: ChannelGroup, size: int, row: Sequence[float]) -> list[int]:
    """In every block the best neurons, in their order, and copies of the best behind them."""
    take: list[int] = []
    old, new = group.block_size, size // group.block_count
    for first in range(0, group.size, old):
        ranked = sorted(range(first, first + old), key=lambda i: (-row[i], i))
        take += sorted(ranked[:new])
        take += [ranked[i % old] for i in range(new - old)]
    return take


def _wishes(
    groups: Mapping[str, ChannelGroup], widths: Width | Mapping[str, Width], multiple: int
) -> tuple[dict[str, Wish], list[str]]:
    """What each group's blocks should become, and who is too narrow for the multiple."""
    given = widths if isinstance(widths, Mapping) else {"*": widths}
    wishes: dict[str, Wish] = {}
    notes = []
    for pattern, width in given.items():
        matching = [n for n in groups if n == pattern or fnmatchcase(n, str(pattern))]
        if not matching and isinstance(widths, Mapping):
            raise PlanError(f"widths name {pattern!r}, which matches no group; see plastic.groups")
        whole = isinstance(width, int) and not isinstance(width, bool)
        if not (whole or isinstance(width, float)) or not 0 < width < math.inf:
            raise PlanError(
                f"width {width!r} for {pattern!r}; give a whole number of neurons, or a fraction "
                "of the present width as a float"
            )
        for name in matching:
            group = groups[name]
            size = width if whole else width * group.size
            step = multiple // math.gcd(multiple, group.block_count)
            if size / group.block_count < step:
                notes.append(f"{name} would be narrower than {multiple}: no multiple of it")
                step = 1
            wishes[name] = Wish(size / group.block_count, step)
    return wishes, notes


def _remarks(
    groups: Mapping[str, ChannelGroup],
    wishes: Mapping[str, Wish],
    sizes: Mapping[str, int],
    given_up: Sequence[str],
) -> list[str]:
    """Why a group has not the width asked for."""
    notes = []
    for name, wish in wishes.items():
        group, got = groups[name], sizes[name] // groups[name].block_count
        if name in given_up and wish.step > 1:
            notes.append(f"{name} cannot have a multiple of {wish.step} in each block")
        elif abs(got - wish.target) >= max(1.0, wish.step):
            others = group.coupled[:3]
            alone = "at least two stay" if got <= 2 else "it shares an axis with what cannot change"
            why = f"it is tied to {', '.join(others)}" if others else alone
            why += f" and {len(group.coupled) - 3} more" if len(group.coupled) > 3 else ""
            notes.append(f"{name} has {got} in each block, not {wish.target:g}: {why}")
    return notes
