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

from fxplastic.draw import Shares, part_of
from fxplastic.errors import PlanError, ScoreError
from fxplastic.groups import ChannelGroup
from fxplastic.plan import Plan, check_shares
from fxplastic.plastic import Plastic, check_name, require_plastic
from fxplastic.scores import GradientScores

_DEFAULT_SHARE = {"even": 0.5, "uneven": 0.25, "signed": 0.25}


def plan_turnover(
    plastic: Plastic,
    scores: GradientScores | Mapping[str, Tensor],
    ratio: float = 0.3,
    *,
    shares: Shares = "uneven",
    share: float | None = None,
    groups: Iterable[str] | None = None,
) -> Plan:
    """In each block of b neurons, copy the top k over the bottom k, ``k = floor(ratio * b)``.

    Neurons are ranked by score, equal ones by index. The worst slot gets the best neuron. A group
    where k is 0 stays as it is and is reported in the plan's notes. Scores come to the host in
    one transfer.

    Args:
        plastic: the model.
        scores: per group, one number per neuron, ``[size]``; larger is better.
        ratio: part of each block to turn over; above 0, at most 0.5.
        shares: how a duplicated neuron's outgoing weight is split between original and copy:
            ``"even"`` in halves (two such copies never part in a deterministic network),
            ``"uneven"`` as (1-share, share), ``"signed"`` as (1+share, -share).
        share: of the copy; by default 0.25.
        groups: names of the groups to turn over; all by default.

    Raises:
        PlanError: ratio or share out of range, no such group.
        ScoreError: a group without scores, of another size, or a score that is not finite.
    """
    require_plastic(plastic, PlanError)
    if not isinstance(ratio, int | float) or not 0.0 < ratio <= 0.5:
        raise PlanError(f"ratio={ratio!r}; give a number above 0 and at most 0.5")
    kept, copied = _split(shares, share)
    chosen = [
        check_name(plastic.groups, name) for name in (plastic.groups if groups is None else groups)
    ]
    values = scores.values() if isinstance(scores, GradientScores) else scores
    takes: dict[str, list[int]] = {}
    parts: dict[str, list[float]] = {}
    notes: list[str] = []
    for group, row in zip(chosen, on_host(plastic.groups, chosen, values), strict=True):
        k = part_of(ratio, group.block_size)
        if k == 0:
            notes.append(_left_alone(group, ratio))
            continue
        takes[group.name], top = _turned(group, row, k)
        parts[group.name] = [1.0] * group.size
        for slot, source in top.items():
            parts[group.name][slot], parts[group.name][source] = copied, kept
    return Plan.from_takes(plastic, takes, parts, notes=notes)


def _split(kind: Shares, share: float | None) -> tuple[float, float]:
    """Shares of original and copy."""
    check_shares(kind)
    value = _DEFAULT_SHARE[kind] if share is None else share
    if kind == "even" and value != 0.5:
        raise PlanError(f"share={value!r} with shares='even'; leave it out, or say 'uneven'")
    highest = math.inf if kind == "signed" else 1.0
    if not isinstance(value, int | float) or not 0.0 < value < highest:
        raise PlanError(
            f"share={value!r} with shares={kind!r}; give a number above 0 and below {highest}"
        )
    return (1.0 + value, -value) if kind == "signed" else (1.0 - value, value)


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


def _turned(group: ChannelGroup, row: Sequence[float], k: int) -> tuple[list[int], dict[int, int]]:
    """The take of a group, and the source of each slot that is filled anew."""
    take = list(range(group.size))
    top: dict[int, int] = {}
    for first in range(0, group.size, group.block_size):
        ranked = sorted(range(first, first + group.block_size), key=lambda i: (-row[i], i))
        top |= zip(reversed(ranked[-k:]), ranked[:k], strict=True)
    for slot, source in top.items():
        take[slot] = source
    return take, top


def _left_alone(group: ChannelGroup, ratio: float) -> str:
    return (
        f"{group.name} is left alone: {ratio:g} of a block of {group.block_size} is less than "
        "one neuron"
    )
