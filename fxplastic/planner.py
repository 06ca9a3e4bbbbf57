"""From scores to a turnover: the best neurons are duplicated into the slots of the worst.

The counts are equal, so every width stays what it was (Sakai and Hotta, arXiv 2507.09940, 2025),
and survivors keep their index, so that a turnover of 30 % moves 30 % of the rows.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from fxplastic.counts import (
    Scope,
    by_group,
    by_network,
    check_ratio,
    check_scope,
    left_alone,
    ratios,
)
from fxplastic.errors import PlanError, ScoreError
from fxplastic.groups import ChannelGroup
from fxplastic.plan import Plan
from fxplastic.plastic import Plastic, check_name, require_plastic
from fxplastic.policy import Split, split_of
from fxplastic.scores import GradientScores


def plan_turnover(
    plastic: Plastic,
    scores: GradientScores | Mapping[str, Tensor],
    ratio: float = 0.3,
    *,
    scope: Scope = "group",
    shares: Split = "uneven",
    share: float | None = None,
    groups: Iterable[str] | None = None,
    overrides: Mapping[str, float] | None = None,
    protect: Iterable[str] = (),
    min_width: int = 1,
) -> Plan:
    """In each block of b neurons, copy the top k over the bottom k, ``k = floor(ratio * b)``.

    Neurons are ranked by score, equal ones by index. The worst slot gets the best neuron. Every
    group that stays as it is is reported in the plan's notes, with the reason; one whose scores are
    all 0 (no gradient reached it) is among them. Scores come to the host in one transfer.

    Args:
        plastic: the model.
        scores: per group, one number per neuron, ``[size]``; larger is better.
        ratio: part of each block to turn over; above 0, at most 0.5.
        scope: ``"group"``; or ``"network"``: the lowest `ratio` of all neurons go, by score over
            the group's mean absolute score. At most half of a block does; what is over that goes
            to the next lowest elsewhere.
        shares: how a duplicated neuron's outgoing weight is split between original and copy:
            ``"even"`` in halves (two such copies never part in a deterministic network),
            ``"uneven"`` as (1-share, share), ``"signed"`` as (1+share, -share). ``"whole"`` and
            ``"zero"`` give the copy all of it, or nothing: see `Policy`, which needs them.
        share: of the copy; by default 0.25.
        groups: names of the groups to turn over; all by default.
        overrides: ratio of single groups, by name (``*`` matches anything; the last match counts);
            0 leaves one alone. They take no part in a ranking over the network.
        protect: names (``*`` matches anything) of groups to leave alone.
        min_width: groups with narrower blocks are left alone.

    Raises:
        PlanError: ratio or share out of range, no such group.
        ScoreError: a group without scores, of another size, or a score that is not finite.

    >>> from torch import nn, tensor, zeros
    >>> from fxplastic import plasticize
    >>> mlp = plasticize(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), zeros(2, 3))
    >>> plan_turnover(mlp, {"0.weight:0": tensor([3.0, 9, 1, 2])}, 0.25).edits["0.weight:0"].take
    (0, 1, 1, 3)
    """
    require_plastic(plastic, PlanError)
    check_ratio(ratio)
    check_scope(scope)
    kept, copied = split_of(shares, share)
    names = plastic.groups if groups is None else groups
    chosen = [check_name(plastic.groups, name) for name in names]
    own, rest, notes = ratios(plastic.groups, chosen, ratio, overrides or {}, protect, min_width)
    chosen = [group for group in chosen if group.name in own or group.name in rest]
    values = scores.values() if isinstance(scores, GradientScores) else scores
    rows = {
        group.name: row
        for group, row in zip(chosen, on_host(plastic.groups, chosen, values), strict=True)
    }
    counts = by_group(plastic.groups, own | rest)
    if scope == "network":
        counts |= by_network(plastic.groups, {name: rows[name] for name in rest}, ratio)
    takes: dict[str, list[int]] = {}
    parts: dict[str, list[float]] = {}
    for group in chosen:
        name = group.name
        if not any(rows[name]):
            notes.append(f"{name} is left alone: all its scores are 0, nothing is known of it")
        elif not any(counts[name]):
            of_all = scope if name in rest else "group"
            notes.append(left_alone(group, (own | rest)[name], of_all))
        else:
            takes[name], top = _turned(group, rows[name], counts[name])
            parts[name] = _parts(group, top, kept, copied)
    return Plan.from_takes(plastic, takes, parts, notes=notes, any_sum=shares == "whole")


def _parts(group: ChannelGroup, top: Mapping[int, int], kept: float, copied: float) -> list[float]:
    """Shares of a group's neurons: those of originals and copies, and one for all others."""
    parts = [1.0] * group.size
    for slot, source in top.items():
        parts[slot], parts[source] = copied, kept
    return parts


def on_host(
    known: Mapping[str, ChannelGroup], chosen: Sequence[ChannelGroup], scores: Mapping[str, Tensor]
) -> list[list[float]]:
    """Scores of the chosen groups as Python floats, checked, by one device-to-host transfer."""
    for name in scores:
        if name not in known:
            close = difflib.get_close_matches(str(name), known, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise ScoreError(f"scores name group {name!r}, which this model does not have{hint}")
    rows = [_checked(group, scores) for group in chosen]
    if not rows:
        return []
    everything = torch.cat([row.to(rows[0].device) for row in rows]).cpu().tolist()
    result, first = [], 0
    for group in chosen:
        result.append(everything[first : first + group.size])
        first += group.size
        _check_finite(group, result[-1])
    return result


def _checked(group: ChannelGroup, scores: Mapping[str, Tensor]) -> Tensor:
    """One group's scores as a detached tensor of the right shape."""
    if group.name not in scores:
        raise ScoreError(
            f"there are no scores for group {group.name!r}; score it, or name the groups to turn "
            "over with groups=[...]"
        )
    row = torch.as_tensor(scores[group.name]).detach()
    if tuple(row.shape) != (group.size,):
        raise ScoreError(
            f"scores of group {group.name!r} have shape {tuple(row.shape)}; give one number for "
            f"each of its {group.size} neurons"
        )
    return row


def _check_finite(group: ChannelGroup, row: Sequence[float]) -> None:
    for neuron, value in enumerate(row):
        if not math.isfinite(value):
            raise ScoreError(
                f"the score of neuron {neuron} of group {group.name!r} is {value}; leave batches "
                "whose loss or gradient is not finite out of the scores (GradientScores does, and "
                "gives NaN where no batch is left: look for the step where the loss diverged)"
            )


def _turned(
    group: ChannelGroup, row: Sequence[float], counts: Sequence[int]
) -> tuple[list[int], dict[int, int]]:
    """The take of a group, and the source of each slot that is filled anew."""
    take = list(range(group.size))
    top: dict[int, int] = {}
    for block, k in enumerate(counts):
        first = block * group.block_size
        ranked = sorted(range(first, first + group.block_size), key=lambda i: (-row[i], i))
        top |= zip(reversed(ranked[len(ranked) - k :]), ranked[:k], strict=True)
    for slot, source in top.items():
        take[slot] = source
    return take, top
