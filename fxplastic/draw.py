"""Random takes and shares, the same on every platform and with every library version.

Only `random.Random.random` is drawn from, on the CPU: Python promises its sequence for a seed,
and NumPy and PyTorch promise no such thing for their permutations.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Literal

from fxplastic.edits import even_shares
from fxplastic.groups import ChannelGroup

Shares = Literal["even", "uneven", "signed"]

# A share of exactly one half never parts two copies; these ranges stay well away from it.
_UNEVEN = (0.1, 0.4)
_SIGNED = (0.1, 0.5)


def part_of(ratio: float, size: int) -> int:
    """``floor(ratio * size)``, safe from the rounding of the product (0.29 of 100 is 29)."""
    return int(ratio * size + 1e-9)


def draw_take(
    group: ChannelGroup, grow: float, prune: float, turnover: float, rng: random.Random
) -> tuple[int, ...]:
    """A take that turns over, prunes and grows every block by the same numbers, at random."""
    block = group.block_size
    dropped = min(part_of(prune, block), max(block - 2, 0))
    turned = min(part_of(turnover, block), (block - dropped) // 2)
    take: list[int] = []
    for first in range(0, group.size, block):
        order = [first + i for i in _shuffled(block, rng)][dropped:]
        slots, rest = order[:turned], order[turned:]
        filled = dict(zip(slots, rest, strict=False))  # one survivor for every slot
        take += [filled.get(i, i) for i in sorted(order)]
        survivors = rest[turned:] + rest[:turned]  # grow those not yet copied first
        take += [survivors[i % len(survivors)] for i in range(part_of(grow, block))]
    return tuple(take)


def draw_shares(take: Sequence[int], kind: Shares, rng: random.Random) -> tuple[float, ...]:
    """Shares that sum to one over the copies of each source.

    ``"uneven"`` splits a source's weight into (1-a, a), ``"signed"`` into (1+b, -b), once for
    every copy beyond the first.
    """
    if kind == "even":
        return even_shares(take)
    low, high = _UNEVEN if kind == "uneven" else _SIGNED
    sign = 1.0 if kind == "uneven" else -1.0
    share = [1.0] * len(take)
    # The neuron that stayed in its slot keeps the larger part.
    first = {source: source for j, source in enumerate(take) if j == source}
    for j, source in enumerate(take):
        kept = first.setdefault(source, j)
        if kept != j:
            part = sign * (low + (high - low) * rng.random())
            share[j] = share[kept] * part
            share[kept] -= share[j]
    return tuple(share)


def _shuffled(count: int, rng: random.Random) -> list[int]:
    keys = [rng.random() for _ in range(count)]
    return sorted(range(count), key=keys.__getitem__)
