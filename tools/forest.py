"""A picture of paired differences: one row for each comparison, with its 95 % interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure


@dataclass(frozen=True)
class Comparison:
    """A mean paired difference, and half of its interval."""

    name: str
    mean: float
    half: float


def draw(path: Path, studies: Sequence[tuple[str, Sequence[Comparison]]]) -> None:
    """Write an SVG, the same for the same figures."""
    rows = sum(len(found) + 2 for _, found in studies)
    figure = Figure(figsize=(8.0, 0.22 * rows + 1.0), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.add_subplot()
    names, ticks, place = [], [], 0.0
    for title, found in studies:
        axes.text(
            0.0, place, title, transform=axes.get_yaxis_transform(), weight="bold", va="center"
        )
        place -= 1.0
        for one in found:
            clear = abs(one.mean) > one.half
            colour = ("tab:red" if one.mean < 0 else "tab:green") if clear else "tab:gray"
            axes.errorbar(one.mean, place, xerr=one.half, fmt="o", color=colour, markersize=3)
            names.append(one.name)
            ticks.append(place)
            place -= 1.0
        place -= 1.0
    axes.axvline(0.0, color="black", linewidth=0.8)
    axes.set_yticks(ticks, names, fontsize=7)
    axes.set_ylim(place, 1.0)
    axes.set_xlabel("top-1 less that of the run compared with, in points; 95 % intervals of pairs")
    axes.grid(axis="x", linewidth=0.3)
    with mpl.rc_context({"svg.hashsalt": "fxplastic", "svg.fonttype": "none"}):
        figure.savefig(path, metadata={"Date": None})
