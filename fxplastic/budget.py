"""Plans that grow or shrink a network to a budget of parameters or MACs, by one ranking of all.

Neurons of every group compete: scores are divided by the mean size of their group's, the lowest of
the whole network go first, the highest are copied first (the normaliser of Fang et al., DepGraph,
2023).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from fxplastic.counts import comparable, matching
from fxplastic.draw import Shares, part_of
from fxplastic.errors import PlanError
from fxplastic.forecast import count_macs
from fxplastic.groups import ChannelGroup
from fxplastic.legal import Wish, nearest_sizes
from fxplastic.module import PlasticModule
from fxplastic.plan import Plan, check_shares
from fxplastic.planner import on_host
from fxplastic.plastic import require_plastic
from fxplastic.resize import count_parameters_at, resized, ties_between
from fxplastic.scores import GradientScores
from fxplastic.ties import Ties
from fxplastic.width_planner import plan_widths

Budget = int | float
Count = Callable[[PlasticModule, Mapping[str, int]], int]
_CLOSE = 0.002


def plan_budget(
    plastic: PlasticModule,
    scores: GradientScores | Mapping[str, Tensor],
    *,
    parameters: Budget | None = None,
    macs: Budget | None = None,
    moved: float = 0.0,
    min_width: int = 2,
    multiple_of: int = 1,
    protect: Iterable[str] = (),
    shares: Shares = "uneven",
    seed: int = 0,
) -> Plan:
    """The widest network within a budget, by a ranking over the whole network.

    Below what the model has now, the lowest neurons are pruned; above, the highest are copied, at
    most once each. In a group of several blocks, the neurons of one rank in each block go together.

    Args:
        plastic: the model.
        scores: per group, one number per neuron, ``[size]``; larger is better.
        parameters: number of parameters, or a fraction of the present one as a float.
        macs: multiply-accumulates of a forward on the example inputs, likewise; give one of both.
        moved: part of all neurons to prune first, so that width moves to where scores are high;
            with ``parameters=1.0`` the size of the network stays.
        min_width: no group gets narrower than this many neurons (and each block keeps two).
        multiple_of: make every width that changes a multiple of this, where that can be.
        protect: names (``*`` matches anything) of groups to leave alone.
        shares: how a copied neuron's outgoing weight is split.
        seed: of the shares.

    Returns:
        The plan, with the figure that it reaches in its notes. A group whose width is refused is
        left alone, with the reason in the notes, and the others make up for it.

    Raises:
        PlanError: no or two budgets, one that no width can meet, or an option out of range.
        ScoreError: scores that do not fit the groups.

    >>> from torch import nn, arange, zeros
    >>> from fxplastic import plasticize
    >>> mlp = nn.Sequential(nn.Linear(3, 20), nn.ReLU(), nn.Linear(20, 2))
    >>> plastic = plasticize(mlp, zeros(2, 3))
    >>> plan = plan_budget(plastic, {"0.weight:0": arange(20.0)}, parameters=0.5)
    >>> plan.edits["0.weight:0"].take
    (11, 12, 13, 14, 15, 16, 17, 18, 19)
    """
    require_plastic(plastic, PlanError)
    check_shares(shares)
    count, target, what = _budget(plastic, parameters, macs)
    _check_options(moved, min_width, multiple_of)
    protected = {n for pattern in protect for n in matching(plastic.groups, pattern, "protect")}
    groups = [group for name, group in plastic.groups.items() if name not in protected]
    values = scores.values() if isinstance(scores, GradientScores) else scores
    ranked = _ranked(groups, on_host(plastic.groups, groups, values))
    refused: dict[str, str] = {}
    while True:  # a width that is refused is made up for by the other groups
        order = tuple(name for name in ranked if name not in refused)
        ranking = _Ranking(plastic.groups, order, min_width, multiple_of)
        try:
            sizes = _fitted(plastic, ranking, count, target, what, moved)
        except PlanError as error:
            raise PlanError("; ".join([str(error), *list(refused.values())[:3]])) from None
        wanted = {n: size for n, size in sizes.items() if size != plastic.groups[n].size}
        plan = plan_widths(
            plastic, wanted, multiple_of=multiple_of, scores=values, shares=shares, seed=seed
        )
        got = {name: len(edit.take) for name, edit in plan.edits.items()}
        lost = [name for name, size in wanted.items() if got.get(name) != size]
        if not lost:
            break
        reasons = {note.split(" ")[0]: note for note in plan.notes}
        refused |= {name: reasons.get(name, f"{name} cannot have its width") for name in lost}
    notes = (f"{what}: {count(plastic, got):,}, budget {target:,}", *refused.values(), *plan.notes)
    return Plan(plan.source, plan.target, tuple(plan.edits.items()), notes)


@dataclass(frozen=True)
class _Ranking:
    """Neurons from lowest to highest, one of each block of a group at a time."""

    groups: Mapping[str, ChannelGroup]
    order: tuple[str, ...]
    min_width: int
    multiple: int

    def wishes(self, pruned: int, copied: int) -> dict[str, Wish]:
        """What blocks should become when the lowest are pruned and the highest copied."""
        change = dict.fromkeys(self.order, 0)
        for name in self.order[:pruned]:
            change[name] -= 1
        for name in self.order[len(self.order) - copied :]:
            change[name] += 1
        return {name: self._wish(self.groups[name], delta) for name, delta in change.items()}

    def _wish(self, group: ChannelGroup, delta: int) -> Wish:
        least = min(max(math.ceil(self.min_width / group.block_count), 2), group.block_size)
        size = max(group.block_size + delta, least)
        step = self.multiple // math.gcd(self.multiple, group.block_count)
        return Wish(size, step if delta and size >= step else 1)


def _ranked(groups: Sequence[ChannelGroup], rows: Sequence[Sequence[float]]) -> list[str]:
    """Group names, one for each neuron of a block, lowest score first."""
    found: list[tuple[float, int, int]] = []
    for place, (group, row) in enumerate(zip(groups, rows, strict=True)):
        b, blocks, values = group.block_size, group.block_count, comparable(row)
        ranks = [sorted(values[i * b : (i + 1) * b]) for i in range(blocks)]
        for rank in range(b):
            value = math.fsum(block[rank] for block in ranks) / blocks
            found.append((value, place, rank))
    return [groups[place].name for _, place, _ in sorted(found)]


def _fitted(
    plastic: PlasticModule,
    ranking: _Ranking,
    count: Count,
    target: int,
    what: str,
    moved: float,
) -> dict[str, int]:
    """Sizes of the widest network within the budget, by a search along the ranking."""
    ties = ties_between(plastic)
    total, first = len(ranking.order), part_of(moved, len(ranking.order))

    def figure(pruned: int, copied: int) -> int:
        return count(plastic, _sizes(plastic, ties, ranking, pruned, copied))

    if figure(first, 0) > target:
        most = figure(total, 0)
        if most > target:
            raise PlanError(
                f"no widths have at most {target:,} {what}: with every group as narrow as it may "
                f"be there are {most:,}; give a larger budget, a smaller min_width, or protect "
                "fewer groups"
            )
        kept = _search(lambda k: figure(total - k, 0), target, total - first)
        return _sizes(plastic, ties, ranking, total - kept, 0)
    most = figure(first, total)
    if most < target:
        raise PlanError(
            f"a budget of {target:,} {what} cannot be filled: with every neuron copied once there "
            f"are {most:,}; grow in several plans"
        )
    copied = total if most == target else _search(lambda k: figure(first, k), target, total)
    return _sizes(plastic, ties, ranking, first, copied)


def _sizes(
    plastic: PlasticModule, ties: Ties, ranking: _Ranking, pruned: int, copied: int
) -> dict[str, int]:
    return nearest_sizes(plastic.groups, ties, ranking.wishes(pruned, copied))[0]


def _search(figure: Callable[[int], int], target: int, high: int) -> int:
    """A number whose figure is at most the target, and short of it by 0.2 % or by one step.

    Figures grow along the numbers; that of 0 is at most the target, that of `high` is above it.
    False position, and halving where it stalls, as laying out a network takes a while.
    """
    low, under, over = 0, figure(0), figure(high)
    for turn in range(64):
        if high - low <= 1 or target - under <= _CLOSE * target:
            break
        part = (target - under) / (over - under) if turn % 3 < 2 and over > under else 0.5
        middle = min(max(low + round(part * (high - low)), low + 1), high - 1)
        found = figure(middle)
        if found <= target:
            low, under = middle, found
        else:
            high, over = middle, found
    return low


def _budget(
    plastic: PlasticModule, parameters: Budget | None, macs: Budget | None
) -> tuple[Count, int, str]:
    """What is counted, how much of it there may be, and its name."""
    if (parameters is None) == (macs is None):
        raise PlanError("give one budget: parameters=... or macs=...")
    what = "MACs" if parameters is None else "parameters"
    value = macs if parameters is None else parameters
    count: Count = _macs_at if parameters is None else count_parameters_at
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise PlanError(
            f"a budget of {value!r} {what}; give a whole number, or a fraction of the present "
            "number as a float"
        )
    if isinstance(value, int):
        return count, value, what
    return count, int(value * count(plastic, {}) + 1e-9), what


def _macs_at(plastic: PlasticModule, sizes: Mapping[str, int]) -> int:
    return count_macs(resized(plastic, sizes).module)


def _check_options(moved: float, min_width: int, multiple_of: int) -> None:
    if not isinstance(moved, int | float) or not 0.0 <= moved < 1.0:
        raise PlanError(f"moved={moved!r}; give a part of all neurons, at least 0 and below 1")
    for name, value in (("min_width", min_width), ("multiple_of", multiple_of)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise PlanError(f"{name}={value!r}; give a whole number, at least 1")
