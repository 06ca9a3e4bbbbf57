"""How much of a model its exact groups reach: one number to compare models and versions by.

The measure follows the channel groups of DepGraph (Fang et al., 2023) down to single slots: a
*slot* is one position of one axis of one parameter, and it is covered when some neuron of an
exact group runs through it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fxplastic.groups import ChannelGroup, FrozenAxis, Site
from fxplastic.html_tables import html_table


@dataclass(frozen=True)
class Coverage:
    """What the exact groups of a model reach.

    Attributes:
        share: slot coverage, 0 to 1 (see `coverage`).
        neurons: number of neurons in exact groups.
        slots_per_neuron: mean number of positions, over all sites, that belong to one neuron.
    """

    share: float
    neurons: int
    slots_per_neuron: float

    def _repr_html_(self) -> str:
        """A table of one row, for notebooks."""
        row = f"{100 * self.share:.1f} %", self.neurons, f"{self.slots_per_neuron:.1f}"
        head = ("slot coverage", "neurons", "slots per neuron")
        return html_table("What the exact groups reach", head, [row])


def coverage(
    parameters: Iterable[tuple[str, nn.Parameter]], groups: Mapping[str, ChannelGroup]
) -> Coverage:
    """Measure the slot coverage of the exact groups among `groups`.

    Axes 0 and 1 of every parameter count, each weighted by the parameter's number of elements;
    an axis contributes the share of its positions that lie in an exact group. Where a site holds
    for some rows only (grouped convolution), its share is that of (row, position) pairs. Axes of
    size 1 (the group-local axis of a depthwise convolution) hold no neurons and do not count.

    Args:
        parameters: names and parameters, as `module.named_parameters()` gives them; on any device,
            meta included: only shapes are read.
        groups: the channel groups of the same module.

    Returns:
        The coverage; its share is 0.0 for a model without parameters.

    >>> linear = nn.Linear(4, 6, bias=False)
    >>> site = Site("weight", 0, "producer", torch.arange(3)[:, None])
    >>> group = ChannelGroup("weight:0", 3, True, (site,), (0, 0, 0))
    >>> coverage(linear.named_parameters(), {group.name: group})  # half of one axis of two
    Coverage(share=0.25, neurons=3, slots_per_neuron=1.0)
    """
    exact = [group for group in groups.values() if group.exact]
    by_axis: dict[tuple[str, int], list[Site]] = {}
    for site in (site for group in exact for site in group.sites):
        by_axis.setdefault((site.parameter, site.axis), []).append(site)
    covered = weight = 0.0
    for name, parameter in parameters:
        for axis in range(min(parameter.ndim, 2)):
            if parameter.shape[axis] == 1:
                continue  # one position: there is nothing that could change places
            weight += parameter.numel()
            sites = by_axis.get((name, axis), [])
            covered += parameter.numel() * covered_share(parameter.shape, axis, sites)
    neurons = sum(group.size for group in exact)
    slots = sum(site.positions.numel() for group in exact for site in group.sites)
    share = covered / weight if weight else 0.0
    return Coverage(share, neurons, slots / neurons if neurons else 0.0)


def covered_share(shape: torch.Size, axis: int, sites: Iterable[Site]) -> float:
    """Share of the positions of one axis that `sites` (all of that axis) cover, 0 to 1.

    Args:
        shape: shape of the parameter.
        axis: 0 or 1.
        sites: sites on this axis; those with rows cover (row, position) pairs.
    """
    sites = list(sites)
    # Where no site tells rows apart (and axis 0 has none of its own), one stands for all of them.
    with_rows = axis != 0 and any(site.rows is not None for site in sites)
    seen = torch.zeros(shape[0] if with_rows else 1, shape[axis], dtype=torch.bool)
    for site in sites:
        _mark(seen, site)
    return float(seen.double().mean()) if seen.numel() else 0.0


def _mark(seen: Tensor, site: Site) -> None:
    if site.rows is None:
        seen[:, site.positions.flatten()] = True
    else:
        # [size, r, 1] with [size, 1, k]: neuron j's positions in neuron j's rows only.
        seen[site.rows[:, :, None], site.positions[:, None, :]] = True


def frozen_reasons(frozen: Iterable[FrozenAxis]) -> tuple[tuple[str, int], ...]:
    """Reasons why axes are frozen, with the number of positions each one holds, largest first.

    >>> axes = [FrozenAxis("a", 0, "attention", "", "", 4), FrozenAxis("b", 0, "output", "", "", 9)]
    >>> frozen_reasons(axes)
    (('output', 9), ('attention', 4))
    """
    counts: dict[str, int] = {}
    for axis in frozen:
        counts[axis.reason] = counts.get(axis.reason, 0) + axis.positions
    return tuple(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


@dataclass(frozen=True)
class HeldBack:
    """What keeps slots out of every group.

    Attributes:
        slots: number of slots of the model: elements of its parameters, once for each of axes 0
            and 1 that has more than one position.
        shares: for each reason the share of the slots that it holds back, largest first.
        unexplained: share of the slots that lie in no group and have no reason either.
    """

    slots: int
    shares: tuple[tuple[str, float], ...]
    unexplained: float


def held_back(
    parameters: Iterable[tuple[str, nn.Parameter]],
    groups: Mapping[str, ChannelGroup],
    frozen: Iterable[FrozenAxis],
) -> HeldBack:
    """Rank the reasons of frozen axes by the slots that they hold back (see `coverage`).

    Args:
        parameters: names and parameters, as `module.named_parameters()` gives them.
        groups: the channel groups of the same module, exact or not.
        frozen: its frozen axes.

    >>> linear = nn.Linear(4, 6, bias=False)
    >>> first = FrozenAxis("weight", 0, "output", "", "", 6)
    >>> second = FrozenAxis("weight", 1, "in", "", "", 3)
    >>> held_back(linear.named_parameters(), {}, [first, second])
    HeldBack(slots=48, shares=(('output', 0.5), ('in', 0.375)), unexplained=0.125)
    """
    reasons: dict[tuple[str, int], Counter[str]] = {}
    for record in frozen:
        here = reasons.setdefault((record.parameter, record.axis), Counter())
        here[record.reason] += record.positions
    covered: Counter[tuple[str, int]] = Counter()
    for site in (site for group in groups.values() for site in group.sites):
        covered[site.parameter, site.axis] += site.positions.numel()
    slots = unexplained = 0.0
    held: dict[str, float] = defaultdict(float)
    for name, parameter in parameters:
        for axis in range(min(parameter.ndim, 2)):
            length, weight = parameter.shape[axis], parameter.numel()
            if length == 1:
                continue
            slots += weight
            lost = reasons.get((name, axis), Counter())
            told = lost.total() + covered[name, axis]
            # Where an axis is told apart by convolution group, it has more positions than its size.
            every = max(told, length)
            unexplained += weight * (every - told) / every
            for reason, positions in lost.items():
                held[reason] += weight * positions / every
    ranked = sorted(held.items(), key=lambda item: (-item[1], item[0]))
    whole = max(slots, 1.0)
    return HeldBack(int(slots), tuple((r, n / whole) for r, n in ranked), unexplained / whole)
