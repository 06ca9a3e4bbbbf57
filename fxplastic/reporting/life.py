"""The life of neurons over turnovers: who descends from whom, and since when each one is there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fxplastic.edits import Edit
from fxplastic.turnover import Turnover


@dataclass(frozen=True)
class Generation:
    """The neurons of a group after a turnover.

    Attributes:
        epoch: at whose end the turnover was; 0 for the beginning.
        parents: for each neuron, the one before the turnover that it is or copies.
        founders: for each neuron, the one of the beginning that it goes back to.
        born: for each neuron, the epoch at whose end it was made; 0 for those of the beginning.
    """

    epoch: int
    parents: tuple[int, ...]
    founders: tuple[int, ...]
    born: tuple[int, ...]

    @property
    def alive(self) -> int:
        """How many neurons of the beginning have descendants."""
        return len(set(self.founders))

    @property
    def originals(self) -> int:
        """How many neurons have been there from the beginning."""
        return self.born.count(0)

    @property
    def copied(self) -> int:
        """How many neurons this turnover made."""
        return self.born.count(self.epoch) if self.epoch else 0


def life_of(group: str, size: int, turnovers: Sequence[Turnover]) -> tuple[Generation, ...]:
    """Generations of one group, the beginning first.

    Of several neurons that copy one source, the original is that in the source's own place, or the
    first one; the others are born in that turnover. A turnover that leaves the group alone makes
    no generation.

    Args:
        group: its name.
        size: number of its neurons at the beginning.
        turnovers: in the order in which they were made.

    >>> from fxplastic import Plan, Policy
    >>> edit = Edit(take=(0, 0, 2), share=(0.5, 0.5, 1.0), size=3)
    >>> turnover = Turnover(5, Plan("", "", (("a", edit),)), Policy.exact(), 0, 0.0)
    >>> life_of("a", 3, [turnover])[-1]
    Generation(epoch=5, parents=(0, 0, 2), founders=(0, 0, 2), born=(0, 5, 0))
    """
    own = tuple(range(size))
    generations = [Generation(0, own, own, (0,) * size)]
    for turnover in turnovers:
        edit = turnover.plan.edits.get(group)
        if edit is not None and not edit.identity:
            generations.append(_after(generations[-1], edit, turnover.epoch))
    return tuple(generations)


def _after(before: Generation, edit: Edit, epoch: int) -> Generation:
    originals = {original_of(edit, source) for source in edit.copies}
    return Generation(
        epoch,
        edit.take,
        tuple(before.founders[source] for source in edit.take),
        tuple(
            before.born[source] if new in originals else epoch
            for new, source in enumerate(edit.take)
        ),
    )


def original_of(edit: Edit, source: int) -> int:
    """Which of a source's copies is the source itself: that in its own place, or the first."""
    copies = edit.copies[source]
    return source if source in copies else copies[0]


@dataclass(frozen=True)
class Changes:
    """What an edit does to its group, in numbers.

    Attributes:
        duplicated: old neurons that have more than one copy.
        pruned: old neurons that have none.
        moved: old neurons that are there, in another place.
        size: number of neurons afterwards.
    """

    duplicated: tuple[int, ...]
    pruned: tuple[int, ...]
    moved: tuple[int, ...]
    size: int


def changes_of(edit: Edit) -> Changes:
    """What `edit` does.

    >>> changes_of(Edit(take=(1, 1, 3, 0), share=(0.5, 0.5, 1.0, 1.0), size=4))
    Changes(duplicated=(1,), pruned=(2,), moved=(0, 3), size=4)
    """
    return Changes(
        tuple(source for source, copies in edit.copies.items() if len(copies) > 1),
        edit.pruned,
        tuple(source for source in edit.copies if original_of(edit, source) != source),
        len(edit.take),
    )
