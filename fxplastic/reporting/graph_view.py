"""The network as the report draws it: a row per node, with lanes, and chips for its groups."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from fxplastic.flow import Flow, Held, Step
from fxplastic.reporting.lanes import Drawing, Lane, draw_lane, draw_section, lane_count, lay_lanes
from fxplastic.reporting.sections import Section, nest
from fxplastic.reporting.wording import axes_text, counted, letter, shape_text, short_source, swatch

FEW_ROWS = 60  # up to here all sections start open
MOST_CHIPS = 4  # of one row; the rest shows on demand


@dataclass(frozen=True)
class Chip:
    """Neurons on axes of a value.

    Attributes:
        index: number of the group, or of the reason why they are frozen.
        letter: short name of the group; empty where they are frozen.
        swatch: CSS classes of its swatch.
        axes: the axes, as text.
        label: all of it as a sentence.
    """

    index: int
    letter: str
    swatch: str
    axes: str
    label: str


@dataclass(frozen=True)
class Row:
    """One node.

    Attributes:
        node: its name.
        op: what it does.
        module: path of its module, or name of the parameter that it stands for.
        shape: of its value, as text.
        source: the user's line.
        reads: names of the nodes that it reads, as text.
        drawing: its lanes.
        chips: the first few groups in its value.
        more: how many further ones there are.
        locks: what is frozen in its value.
        groups: numbers of all groups that its value or its parameters hold.
    """

    node: str
    op: str
    module: str
    shape: str
    source: str
    reads: str
    drawing: Drawing
    chips: tuple[Chip, ...]
    more: int
    locks: tuple[Chip, ...]
    groups: tuple[int, ...]


@dataclass(frozen=True)
class Block:
    """A section of rows, as it is drawn.

    Attributes:
        path: of its module.
        parts: rows and blocks.
        size: number of rows in it.
        shown: whether it starts open.
        closed: lanes while its rows are hidden.
        opened: lanes while they are shown.
        groups: how many groups live in it, as text.
        locks: how many of its rows hold frozen axes, as text.
    """

    path: str
    parts: tuple[Row | Block, ...]
    size: int
    shown: bool
    closed: Drawing
    opened: Drawing
    groups: str
    locks: str


@dataclass(frozen=True)
class GraphView:
    """The whole graph.

    Attributes:
        parts: rows and blocks at the top.
        size: number of rows.
        lanes: how many lanes are drawn.
    """

    parts: tuple[Row | Block, ...]
    size: int
    lanes: int


def reasons_of(flow: Flow, others: Iterable[str]) -> tuple[str, ...]:
    """Every reason, those of `others` first, each once: their places are the reasons' numbers."""
    held = (h.reason for step in flow.steps for h in step.holds if h.group is None)
    return tuple(dict.fromkeys([*others, *held]))


def graph_view(flow: Flow, groups: Sequence[str], reasons: Sequence[str]) -> GraphView:
    """What the report draws of `flow`.

    Args:
        flow: of the graph.
        groups: names of the groups; their places are their numbers.
        reasons: why axes are frozen; likewise.
    """
    lanes = lay_lanes([(step.node, step.inputs) for step in flow.steps])
    number_of = {name: i for i, name in enumerate(groups)}
    number_of_reason = {reason: i for i, reason in enumerate(reasons)}
    rows = tuple(
        _row(step, lane, number_of, number_of_reason)
        for step, lane in zip(flow.steps, lanes, strict=True)
    )
    parts = nest([step.module for step in flow.steps])
    return GraphView(
        tuple(_part(part, rows, lanes, few=len(rows) <= FEW_ROWS) for part in parts),
        len(rows),
        lane_count(lanes),
    )


def _part(
    part: Section | int, rows: Sequence[Row], lanes: Sequence[Lane], *, few: bool
) -> Row | Block:
    if isinstance(part, int):
        return rows[part]
    inside = [rows[i] for i in part.rows]
    groups = {g for row in inside for g in row.groups}
    locked = sum(1 for row in inside if row.locks)
    own = lanes[part.first : part.last + 1]
    return Block(
        part.path,
        tuple(_part(p, rows, lanes, few=few) for p in part.parts),
        len(inside),
        few or (part.depth == 0 and len(part.parts) <= FEW_ROWS and _holds_sections(part)),
        draw_section(own, opened=False),
        draw_section(own, opened=True),
        counted(len(groups), "group") if groups else "",
        f"{counted(locked, 'node')} with frozen axes" if locked else "",
    )


def _holds_sections(part: Section) -> bool:
    return any(isinstance(p, Section) for p in part.parts)


def _row(step: Step, lane: Lane, groups: Mapping[str, int], reasons: Mapping[str, int]) -> Row:
    chips = tuple(_chips(step.holds, groups))
    touched = [groups[t.group] for t in step.touches if t.group is not None]
    every = tuple(sorted({chip.index for chip in chips} | set(touched)))
    shown = chips if len(chips) <= MOST_CHIPS + 1 else chips[:MOST_CHIPS]
    return Row(
        node=step.node,
        op=step.op,
        # Several parameters of one module follow each other: only their names tell them apart.
        module=step.parameters[0] if step.op == "parameter" and step.parameters else step.module,
        shape=shape_text(step.shape),
        source=short_source(step.source),
        reads=", ".join(step.inputs),
        drawing=draw_lane(lane),
        chips=shown,
        more=len(chips) - len(shown),
        locks=tuple(_locks(step.holds, reasons)),
        groups=every,
    )


def _chips(holds: Iterable[Held], groups: Mapping[str, int]) -> Iterator[Chip]:
    """One chip for each group and axes; a group may lie there in several ways."""
    found: dict[tuple[str, tuple[int, ...]], int] = {}
    for held in holds:
        if held.group is not None:
            key = held.group, held.axes
            found[key] = max(found.get(key, 0), held.neurons)
    for (name, axes), neurons in found.items():
        index, where = groups[name], axes_text(axes)
        label = f"group {letter(index)}, {name}: {counted(neurons, 'neuron')} on {where}"
        yield Chip(index, letter(index), swatch(index), _brief(axes), label)


def _locks(holds: Iterable[Held], reasons: Mapping[str, int]) -> Iterator[Chip]:
    found: dict[str, list[int]] = {}
    for held in holds:
        if held.group is None:
            found.setdefault(held.reason, []).extend(held.axes)
    for reason, several in found.items():
        axes = tuple(sorted(set(several)))
        yield Chip(reasons[reason], "", "", _brief(axes), f"frozen: {axes_text(axes)}")


def _brief(axes: Iterable[int]) -> str:
    return ",".join(map(str, axes))
