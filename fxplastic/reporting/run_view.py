"""What the report shows of a run: the life of its neurons, and accuracy around each turnover."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from fxplastic.groups import ChannelGroup
from fxplastic.reporting.charts import Chart, chart
from fxplastic.reporting.life import Generation, life_of
from fxplastic.reporting.run_files import Run, around
from fxplastic.reporting.wording import counted, letter, number, swatch
from fxplastic.turnover import Turnover

MOST_DRAWN = 64  # neurons whose lineage is drawn one by one
MOST_LINES = 12  # classes that share one chart
MOST_CHANGED = 5  # classes named for each turnover, where there are more than `MOST_LINES`
ROW, COLUMN, EDGE = 9, 64, 14  # px of a lineage


@dataclass(frozen=True)
class Life:
    """The life of one group.

    Attributes:
        name: of the group.
        letter: its short name.
        swatch: CSS classes of its swatch.
        size: number of its neurons.
        generations: the beginning first.
        lineage: the drawing; ``None`` for a group of more than `MOST_DRAWN` neurons.
        label: a sentence about the last generation.
    """

    name: str
    letter: str
    swatch: str
    size: int
    generations: tuple[Generation, ...]
    lineage: Lineage | None
    label: str


@dataclass(frozen=True)
class Lineage:
    """Who descends from whom, as SVG path data; a column per generation, a row per place.

    Attributes:
        stays: lines of neurons that stay.
        copies: lines from a source to its new copy.
        ends: crosses where a neuron is pruned.
        dots: the neurons.
        columns: places and names of the generations.
        width: px.
        height: px.
    """

    stays: str
    copies: str
    ends: str
    dots: str
    columns: tuple[tuple[int, str], ...]
    width: int
    height: int


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        caption: what it holds.
        head: of its columns.
        rows: cells as text; the first of each row is its heading.
    """

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class RunView:
    """A run, as it is drawn.

    Attributes:
        lives: of every group that a turnover changed.
        charts: of accuracy, each with the table that says the same.
        around: accuracy before and after each turnover; ``None`` without a run's folder.
    """

    lives: tuple[Life, ...]
    charts: tuple[tuple[Chart, Table], ...]
    around: Table | None


def run_view(
    groups: Mapping[str, ChannelGroup], turnovers: Sequence[Turnover], run: Run | None
) -> RunView:
    """What is drawn of turnovers, and of the run that they belong to."""
    return RunView(
        tuple(_lives(groups, turnovers)),
        () if run is None else tuple(_charts(run, turnovers)),
        None if run is None or not turnovers else _around(run, turnovers),
    )


# -------------------------------------------------------------------------------- neurons
def _lives(groups: Mapping[str, ChannelGroup], turnovers: Sequence[Turnover]) -> Iterator[Life]:
    for index, (name, group) in enumerate(groups.items()):
        generations = life_of(name, group.size, turnovers)
        if len(generations) > 1:
            last = generations[-1]
            drawn = lineage(generations) if group.size <= MOST_DRAWN else None
            label = (
                f"after {counted(len(generations) - 1, 'turnover')}: {last.alive} of {group.size} "
                f"founders have descendants, {last.originals} neurons are there from the beginning"
            )
            yield Life(name, letter(index), swatch(index), group.size, generations, drawn, label)


def lineage(generations: Sequence[Generation]) -> Lineage:
    """The drawing of a group's generations, the beginning first."""
    stays: list[str] = []
    copies: list[str] = []
    ends: list[str] = []
    dots: list[str] = []
    for column, one in enumerate(generations):
        dots += [f"M{_x(column)} {_y(place)}h.01" for place in range(len(one.parents))]
        if column == 0:
            continue
        for place, parent in enumerate(one.parents):
            new = one.born[place] == one.epoch
            (copies if new else stays).append(_curve(column, parent, place))
        lost = set(range(len(generations[column - 1].parents))) - set(one.parents)
        ends += [f"M{_x(column - 1) + 6} {_y(p) - 2}l4 4m0-4l-4 4" for p in sorted(lost)]
    names = [("start" if not g.epoch else f"epoch {g.epoch}") for g in generations]
    longest = max(len(g.parents) for g in generations)
    return Lineage(
        "".join(stays),
        "".join(copies),
        "".join(ends),
        "".join(dots),
        tuple((_x(column), name) for column, name in enumerate(names)),
        2 * EDGE + COLUMN * (len(generations) - 1) + 40,
        EDGE + ROW * longest + 8,
    )


def _x(column: int) -> int:
    return EDGE + 8 + COLUMN * column


def _y(place: int) -> int:
    return EDGE + 8 + ROW * place


def _curve(column: int, parent: int, place: int) -> str:
    x, y, to_x, to_y = _x(column - 1), _y(parent), _x(column), _y(place)
    if y == to_y:
        return f"M{x} {y}H{to_x}"
    return f"M{x} {y}C{x + COLUMN // 2} {y} {x + COLUMN // 2} {to_y} {to_x} {to_y}"


# -------------------------------------------------------------------------------- accuracy
def _charts(run: Run, turnovers: Sequence[Turnover]) -> Iterator[tuple[Chart, Table]]:
    events = tuple(t.epoch for t in turnovers)
    every = [("Accuracy in percent, all classes and splits", run.splits)]
    if len(run.classes) <= MOST_LINES:
        classes = {f"class {name}": row for name, row in run.classes.items()}
        every.append(("Accuracy in percent, class by class", classes))
    for title, series in every:
        drawn = chart(title, run.epochs, series, events)
        if drawn.lines:
            yield drawn, _table(title, run.epochs, {n: series[n] for n in _names(drawn)}, events)


def _names(drawn: Chart) -> tuple[str, ...]:
    return tuple(line.name for line in drawn.lines)


def _table(
    title: str,
    epochs: Sequence[int],
    series: Mapping[str, Sequence[float | None]],
    events: Sequence[int],
) -> Table:
    rows = [
        (
            f"{epoch} (turnover)" if epoch in events else str(epoch),
            *(number(row[i]) for row in series.values()),
        )
        for i, epoch in enumerate(epochs)
    ]
    return Table(title, ("epoch", *series), tuple(rows))


def _around(run: Run, turnovers: Sequence[Turnover]) -> Table:
    """Splits, and classes if they are few or have changed most, before and after each turnover."""
    rows = []
    for turnover in turnovers:
        some = {**run.splits, **_most_changed(run, turnover.epoch)}
        for name, values in some.items():
            found = around(run.epochs, values, turnover.epoch)
            if any(value is not None for value in found):
                rows.append((f"epoch {turnover.epoch}", name, *map(number, found)))
    head = ("turnover", "classes", "epoch before", "its own epoch, after it", "epoch after")
    return Table("Accuracy in percent around each turnover", head, tuple(rows))


def _most_changed(run: Run, epoch: int) -> dict[str, tuple[float | None, ...]]:
    changes = {}
    for name, values in run.classes.items():
        before, at, _ = around(run.epochs, values, epoch)
        if before is not None and at is not None:
            changes[name] = at - before
    order = sorted(changes, key=lambda name: -abs(changes[name]))
    shown = order if len(order) <= MOST_LINES else order[:MOST_CHANGED]
    return {f"class {name}": run.classes[name] for name in shown}
