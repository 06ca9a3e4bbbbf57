"""Line charts over epochs as SVG geometry: told apart by dashes and marks, not by colour alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from fxplastic.reporting.wording import number

WIDTH, HEIGHT = 720, 260
LEFT, RIGHT, TOP, BOTTOM = 40, 96, 12, 30
DASHES = ("", "7 3", "2 3", "9 3 2 3", "12 4", "4 4")
MARKS = "ox^s+d"
GAP = 15  # px between the names at the lines' ends


@dataclass(frozen=True)
class Line:
    """One series.

    Attributes:
        name: what it is.
        path: SVG path data; it breaks where a value is missing.
        marks: SVG path data of its marks.
        dashes: the pattern of its line, as SVG has it.
        style: its number, for its colour.
        end: where its line ends, in px from the top.
        label: where its name stands, in px from the top, so that no two cover each other.
    """

    name: str
    path: str
    marks: str
    dashes: str
    style: int
    end: float
    label: float


@dataclass(frozen=True)
class Chart:
    """A line chart.

    Attributes:
        title: what it shows.
        lines: its series.
        across: places and names of the ticks of the epochs.
        up: places and names of the ticks of the values.
        events: places and names of the marked epochs.
        label: the chart in a sentence.
    """

    title: str
    lines: tuple[Line, ...]
    across: tuple[tuple[float, str], ...]
    up: tuple[tuple[float, str], ...]
    events: tuple[tuple[float, str], ...]
    label: str


def chart(
    title: str,
    epochs: Sequence[int],
    series: Mapping[str, Sequence[float | None]],
    events: Iterable[int] = (),
) -> Chart:
    """A line chart of values in percent over epochs.

    Args:
        title: what it shows.
        epochs: ascending, at least one.
        series: per name, a value for each epoch or ``None``; those without any are left out.
        events: epochs to mark.

    >>> chart("accuracy", [1, 2], {"top1": [10.0, 20.0]}, events=[1]).label
    'accuracy over epochs 1 to 2, turnovers at the end of 1; top1 from 10 to 20'
    """
    known = {name: row for name, row in series.items() if _measured(row)}
    top = max((v for row in known.values() for v in _measured(row)), default=1.0)
    ticks = _ticks(top)
    events = tuple(events)
    lines = [_line(i, name, epochs, row, ticks[-1]) for i, (name, row) in enumerate(known.items())]
    told = [f"{name} from {_ends(row)}" for name, row in known.items()]
    when = f", turnovers at the end of {', '.join(map(str, events))}" if events else ""
    head = f"{title} over epochs {epochs[0]} to {epochs[-1]}{when}"
    return Chart(
        title,
        _apart(lines),
        tuple((_x(e, epochs), str(e)) for e in _whole_ticks(epochs)),
        tuple((_y(t, ticks[-1]), number(t)) for t in ticks),
        tuple((_x(e, epochs), str(e)) for e in events),
        "; ".join([head, *told]),
    )


def _measured(row: Sequence[float | None]) -> list[float]:
    return [v for v in row if v is not None and math.isfinite(v)]


def _ends(row: Sequence[float | None]) -> str:
    some = _measured(row)
    return f"{number(some[0])} to {number(some[-1])}"


def _x(epoch: float, epochs: Sequence[int]) -> float:
    span = max(epochs[-1] - epochs[0], 1)
    return round(LEFT + (WIDTH - LEFT - RIGHT) * (epoch - epochs[0]) / span, 1)


def _y(value: float, top: float) -> float:
    return round(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * value / top, 1)


def _ticks(top: float) -> tuple[float, ...]:
    """Round numbers from 0 to at least `top`."""
    rough = max(top, 1e-9) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(s * power for s in (1, 2, 2.5, 5, 10) if s * power >= rough * (1 - 1e-9))
    return tuple(step * i for i in range(math.ceil(top / step - 1e-9) + 1))


def _whole_ticks(epochs: Sequence[int]) -> Sequence[int]:
    step = max(1, math.ceil((epochs[-1] - epochs[0]) / 8))
    return range(epochs[0], epochs[-1] + 1, step)


def _line(
    style: int, name: str, epochs: Sequence[int], row: Sequence[float | None], top: float
) -> Line:
    points = [
        None if value is None or not math.isfinite(value) else (_x(e, epochs), _y(value, top))
        for e, value in zip(epochs, row, strict=True)
    ]
    steps = [
        f"{'L' if i and points[i - 1] else 'M'}{p[0]:g} {p[1]:g}" for i, p in enumerate(points) if p
    ]
    real = [p for p in points if p]
    every = max(1, len(real) // 12)
    marks = "".join(_mark(MARKS[style % len(MARKS)], *p) for p in real[::every])
    end = real[-1][1]
    return Line(name, "".join(steps), marks, DASHES[style % len(DASHES)], style, end, end)


def _mark(kind: str, x: float, y: float) -> str:
    return {
        "o": f"M{x - 3:g} {y:g}a3 3 0 1 0 6 0a3 3 0 1 0-6 0z",
        "x": f"M{x - 3:g} {y - 3:g}l6 6m0-6l-6 6",
        "^": f"M{x - 3.5:g} {y + 3:g}h7l-3.5-6z",
        "s": f"M{x - 3:g} {y - 3:g}h6v6h-6z",
        "+": f"M{x - 4:g} {y:g}h8m-4-4v8",
        "d": f"M{x - 4:g} {y:g}l4-4 4 4-4 4z",
    }[kind]


def _apart(lines: Sequence[Line]) -> tuple[Line, ...]:
    """The lines with their names moved down, where they would cover each other."""
    placed: dict[str, float] = {}
    lowest = -math.inf
    for line in sorted(lines, key=lambda line: line.end):
        lowest = placed[line.name] = max(line.end, lowest + GAP)
    over = max(0.0, lowest - (HEIGHT - 6))
    return tuple(
        Line(
            line.name,
            line.path,
            line.marks,
            line.dashes,
            line.style,
            line.end,
            round(placed[line.name] - over, 1),
        )
        for line in lines
    )
