"""Histograms of scores as SVG path data, with marks where chosen neurons lie."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fxplastic.reporting.wording import counted, number

WIDTH, TALL = 120, 28  # px of the bars' box; marks lie in a strip of MARKS px below it
MARKS = 14
BINS = 24


@dataclass(frozen=True)
class Histogram:
    """A histogram, ready to be drawn and to be read out.

    Attributes:
        bars: SVG path data of the bars, inside `WIDTH` by `TALL`.
        copied: SVG path data of the duplicated neurons' marks (upward triangles) below them.
        pruned: SVG path data of the pruned neurons' marks (crosses).
        low: the least finite score.
        middle: the median of the finite ones.
        high: the greatest.
        label: all of that as a sentence, for whoever cannot see it.
    """

    bars: str
    copied: str
    pruned: str
    low: float
    middle: float
    high: float
    label: str


def histogram(
    scores: Sequence[float], copied: Iterable[int] = (), pruned: Iterable[int] = ()
) -> Histogram:
    """The histogram of one group's scores; those that are not finite are counted in the label.

    Args:
        scores: one number per neuron.
        copied: neurons that are duplicated.
        pruned: neurons that are pruned.

    >>> histogram([1.0, 2.0, 4.0], copied=[2], pruned=[0]).label
    'scores of 3 neurons: min 1, median 2, max 4; 1 duplicated at 4; 1 pruned at 1'
    """
    finite = [s for s in scores if math.isfinite(s)]
    low, high = (min(finite), max(finite)) if finite else (math.nan, math.nan)
    middle = statistics.median(finite) if finite else math.nan
    kinds = [
        (n, [scores[i] for i in c if math.isfinite(scores[i])])
        for n, c in (
            ("duplicated", copied),
            ("pruned", pruned),
        )
    ]
    figures = f"min {number(low)}, median {number(middle)}, max {number(high)}"
    parts = [f"scores of {counted(len(scores), 'neuron')}: {figures}"]
    parts += [f"{len(some)} {kind} {_span(some)}" for kind, some in kinds if some]
    if len(finite) < len(scores):
        parts.append(f"{len(scores) - len(finite)} not finite, left out")
    (_, up), (_, cross) = kinds
    return Histogram(
        _bars(finite, low, high),
        "".join(f"M{_at(s, low, high)} {TALL + 1}l-2.5 6h5z" for s in sorted(set(up))),
        "".join(f"M{_at(s, low, high, 2.5)} {TALL + 8.5}l5 5m0-5l-5 5" for s in sorted(set(cross))),
        low,
        middle,
        high,
        "; ".join(parts),
    )


def _span(scores: Sequence[float]) -> str:
    low, high = number(min(scores)), number(max(scores))
    return f"at {low}" if low == high else f"from {low} to {high}"


def _bars(finite: Sequence[float], low: float, high: float) -> str:
    counts = [0] * BINS
    for score in finite:
        counts[_bin(score, low, high)] += 1
    most, wide = max(counts), WIDTH / BINS
    return "".join(
        f"M{i * wide:g} {TALL}v-{max(1.0, TALL * n / most):.3g}h{wide - 1:g}V{TALL}z"
        for i, n in enumerate(counts)
        if n
    )


def _part(score: float, low: float, high: float) -> float:
    """Where a score lies between the least and the greatest, 0 to 1."""
    span = high / 2 - low / 2  # halves: the whole may be too large for a float
    return (score / 2 - low / 2) / span if span > 0 else 0.5


def _bin(score: float, low: float, high: float) -> int:
    return min(int(_part(score, low, high) * BINS), BINS - 1)


def _at(score: float, low: float, high: float, left: float = 0.0) -> str:
    """The x of a mark, kept inside the box."""
    x = 3 + _part(score, low, high) * (WIDTH - 6)
    return f"{x - left:.4g}"
