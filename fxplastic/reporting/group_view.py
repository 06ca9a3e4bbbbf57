"""The table of groups, and the panel of each one, as the report shows them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fxplastic.errors import ScoreError
from fxplastic.flow import Flow
from fxplastic.groups import ChannelGroup
from fxplastic.plan import Plan
from fxplastic.plastic import Plastic, check_name
from fxplastic.reporting.histogram import Histogram, histogram
from fxplastic.reporting.life import Changes, changes_of
from fxplastic.reporting.wording import letter, short_source, swatch
from fxplastic.scores import GradientScores

Scores = Mapping[str, Tensor] | GradientScores
MOST_SOURCES = 24  # lines of code in a panel


@dataclass(frozen=True)
class GroupRow:
    """One group in the table.

    Attributes:
        index: its number.
        letter: its short name.
        swatch: CSS classes of its swatch.
        group: the group.
        changes: what the plan does to it; ``None`` where there is none, or not to this group.
        scores: its histogram; ``None`` without scores.
    """

    index: int
    letter: str
    swatch: str
    group: ChannelGroup
    changes: Changes | None
    scores: Histogram | None

    @property
    def size_after(self) -> int:
        """Number of neurons after the plan."""
        return self.group.size if self.changes is None else self.changes.size


def group_rows(
    groups: Mapping[str, ChannelGroup], plan: Plan | None, scores: Mapping[str, list[float]]
) -> tuple[GroupRow, ...]:
    """A row for each group, in the groups' order."""
    edits = {} if plan is None else plan.edits
    rows = []
    for index, (name, group) in enumerate(groups.items()):
        edit = edits.get(name)
        changes = None if edit is None or edit.identity else changes_of(edit)
        copied, pruned = ((), ()) if changes is None else (changes.duplicated, changes.pruned)
        drawn = histogram(scores[name], copied, pruned) if name in scores else None
        rows.append(GroupRow(index, letter(index), swatch(index), group, changes, drawn))
    return tuple(rows)


def read_scores(plastic: Plastic, scores: Scores | None) -> dict[str, list[float]]:
    """Scores as lists, checked.

    Raises:
        PlanError: there is no such group.
        ScoreError: scores are no mapping of groups to tensors with one number per neuron.
    """
    if scores is None:
        return {}
    found = scores.values() if isinstance(scores, GradientScores) else scores
    if not isinstance(found, Mapping):
        raise ScoreError(
            f"scores are a {type(scores).__name__}; give GradientScores, or a mapping from names "
            "of groups to tensors"
        )
    result = {}
    for name, row in found.items():
        group = check_name(plastic.groups, name)
        if not isinstance(row, Tensor) or tuple(row.shape) != (group.size,):
            what = tuple(row.shape) if isinstance(row, Tensor) else type(row).__name__
            raise ScoreError(
                f"scores of group {name!r} are {what}; give a tensor of shape ({group.size},)"
            )
        result[name] = row.detach().double().tolist()
    return result


def panels(groups: Mapping[str, ChannelGroup], flow: Flow) -> dict[str, Any]:
    """What the panel of each group shows, as plain data; parameters by number, as they repeat.

    Keys: ``parameters`` (names), ``sources`` (lines), and ``groups`` (per group: name, size,
    blocks, exact, coupled groups by number, sites as [parameter, axis, is consumer, slots per
    neuron], sources by number).
    """
    sources = sources_of(groups, flow)
    parameters = _numbered(s.parameter for g in groups.values() for s in g.sites)
    lines = _numbered(line for name in groups for line in sources[name])
    number_of = {name: i for i, name in enumerate(groups)}
    return {
        "parameters": list(parameters),
        "sources": list(lines),
        "groups": [
            {
                "name": name,
                "letter": letter(number_of[name]),
                "size": group.size,
                "blocks": group.block_count,
                "exact": group.exact,
                "coupled": [number_of[other] for other in group.coupled if other in number_of],
                "sites": [
                    [
                        parameters[s.parameter],
                        s.axis,
                        int(s.role == "consumer"),
                        s.positions.shape[1],
                    ]
                    for s in group.sites
                ],
                "sources": [lines[line] for line in sources[name]],
            }
            for name, group in groups.items()
        ],
    }


def _numbered(names: Iterable[str]) -> dict[str, int]:
    return {name: i for i, name in enumerate(dict.fromkeys(names))}


def sources_of(groups: Iterable[str], flow: Flow) -> dict[str, Sequence[str]]:
    """Lines of the user's code that read parameters of each group, each once."""
    found: dict[str, dict[str, None]] = {name: {} for name in groups}
    for step in flow.steps:
        if step.source:
            line = short_source(step.source)
            for touch in step.touches:
                if touch.group in found:
                    found[touch.group][line] = None
    return {name: tuple(lines)[:MOST_SOURCES] for name, lines in found.items()}
