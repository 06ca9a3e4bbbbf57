"""How the report names and writes things: letters of groups, numbers, shapes, source lines."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

COLOURS = 8  # of the swatches, see report.css
PATTERNS = 6

_INSTALLED = re.compile(r"^.*[/\\](?:site-packages|dist-packages)[/\\]")


def letter(index: int) -> str:
    """A short name for the group with this number: A to Z, then AA to AZ, and so on.

    >>> [letter(i) for i in (0, 25, 26, 701, 702)]
    ['A', 'Z', 'AA', 'ZZ', 'AAA']
    """
    text, rest = "", index + 1
    while rest:
        rest, last = divmod(rest - 1, 26)
        text = chr(ord("A") + last) + text
    return text


def swatch(index: int) -> str:
    """CSS classes of a group's swatch: colours first, then the same colours in other patterns.

    >>> swatch(0), swatch(9)
    ('c0 p0', 'c1 p1')
    """
    return f"c{index % COLOURS} p{index // COLOURS % PATTERNS}"


def short_source(source: str) -> str:
    """A source line without the folders that say where on somebody's disk it is.

    >>> short_source("/home/me/env/lib/python3.11/site-packages/torch/nn/act.py:3 in forward")
    'torch/nn/act.py:3 in forward'
    >>> short_source("/home/me/my project/src/nets/unet.py:12 in forward")
    'nets/unet.py:12 in forward'
    """
    place, found, function = source.rpartition(" in ")
    if not found:
        place, function = source, ""
    inside = _INSTALLED.sub("", place)
    if inside == place:
        inside = "/".join(re.split(r"[/\\]", place)[-2:])
    return f"{inside}{found}{function}"


def short_name(name: str, most: int = 48) -> str:
    """A name that fits a line; what is left out is in its middle.

    >>> short_name("features.denseblock1.conv.weight:0", 20)
    'features.d…weight:0'
    """
    if len(name) <= most:
        return name
    front = most // 2
    return f"{name[:front]}…{name[len(name) - (most - front - 2) :]}"


def shape_text(shape: tuple[int, ...] | None) -> str:
    """A shape for people.

    >>> shape_text((2, 64, 7, 7)), shape_text(()), shape_text(None)
    ('2 × 64 × 7 × 7', 'scalar', '')
    """
    if shape is None:
        return ""
    return " \u00d7 ".join(map(str, shape)) or "scalar"


def axes_text(axes: Iterable[int]) -> str:
    """Axes for people.

    >>> axes_text((1,)), axes_text((0, 2, 4))
    ('axis 1', 'axes 0, 2, 4')
    """
    axes = tuple(axes)
    return f"{'axis' if len(axes) == 1 else 'axes'} {', '.join(map(str, axes))}"


def number(value: float | None, digits: int = 4) -> str:
    """A number with a few digits; a dash where there is none.

    >>> number(0.00012345), number(1234567.0), number(3.0), number(None), number(math.nan)
    ('0.0001234', '1.235e+06', '3', '–', '–')
    """
    if value is None or math.isnan(value):
        return "\u2013"
    return f"{value:.{digits}g}"


def large(value: int) -> str:
    """A count with separators, and in words of the trade where it is long.

    >>> large(950), large(25557032)
    ('950', '25,557,032 (25.6 M)')
    """
    for size, unit in ((10**9, "G"), (10**6, "M")):
        if value >= size:
            return f"{value:,} ({value / size:.1f} {unit})"
    return f"{value:,}"


def counted(value: int, noun: str) -> str:
    """A count with its noun.

    >>> counted(1, "neuron"), counted(1200, "axis")
    ('1 neuron', '1,200 axes')
    """
    if value == 1:
        return f"1 {noun}"
    return f"{value:,} {'axes' if noun == 'axis' else noun + 's'}"
