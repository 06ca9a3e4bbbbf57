"""When to turn neurons over: at fixed epochs, or when the scores have settled.

A schedule is a value that says, at the end of an epoch, whether a turnover is due; what it has to
remember between epochs is handed to it and given back.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol, runtime_checkable

import numpy as np

from fxplastic.errors import PlanError

Scores = Mapping[str, Sequence[float]]
Memory = dict[str, Any]
"""Numbers, strings, lists and dicts of them."""


@runtime_checkable
class When(Protocol):
    """What a controller asks of a schedule."""

    @property
    def first_turnover(self) -> int:
        """The earliest epoch, counted from 1, at whose end neurons may turn over."""
        ...

    @property
    def adds_up(self) -> bool:
        """Whether scores of an epoch without a turnover are kept for the next."""
        ...

    def watches(self, epoch: int) -> bool:
        """Whether the batches of this epoch are to be scored."""
        ...

    def due(self, epoch: int, scores: Scores | None, memory: Memory) -> tuple[bool, Memory]:
        """Whether neurons turn over at the end of `epoch`, and what to remember."""
        ...


@dataclass(frozen=True)
class Schedule:
    """A turnover at the end of every `every`-th epoch; epochs are counted from 1.

    Attributes:
        every: epochs from one turnover to the next.
        first: epoch of the first turnover; ``warmup + every`` by default.
        last: no turnover after this epoch; none by default.
        warmup: epochs that come before anything is counted.
        window: scores are added up over this many epochs before a turnover.

    Raises:
        PlanError: a number that is not whole, or out of range.

    >>> schedule = Schedule(every=3, last=8)
    >>> [epoch for epoch in range(1, 13) if schedule.due(epoch, None, {})[0]]
    [3, 6]
    """

    every: int = 30
    first: int | None = None
    last: int | None = None
    warmup: int = 0
    window: int = 1

    def __post_init__(self) -> None:
        _check_whole(self, {"every": 1, "first": 1, "last": 1, "warmup": 0, "window": 1})
        if self.first is not None and self.warmup:
            raise PlanError(f"first={self.first} and warmup={self.warmup}; give one of them")
        if self.last is not None and self.last < self.first_turnover:
            raise PlanError(
                f"last={self.last} comes before the first turnover, after epoch "
                f"{self.first_turnover}; no turnover would ever be made"
            )

    @property
    def first_turnover(self) -> int:
        """Epoch at whose end the first turnover is made."""
        return self.warmup + self.every if self.first is None else self.first

    @property
    def adds_up(self) -> bool:
        """Whether scores are added up over several epochs."""
        return self.window > 1

    def watches(self, epoch: int) -> bool:
        """Whether a turnover is due within the next `window` epochs."""
        return any(self._is_due(epoch + ahead) for ahead in range(self.window))

    def due(self, epoch: int, scores: Scores | None, memory: Memory) -> tuple[bool, Memory]:
        """Whether neurons turn over at the end of `epoch`; scores have no say."""
        del scores
        return self._is_due(epoch), memory

    def _is_due(self, epoch: int) -> bool:
        since = epoch - self.first_turnover
        return since >= 0 and since % self.every == 0 and epoch <= (self.last or math.inf)


@dataclass(frozen=True)
class Adaptive:
    """A turnover when the ranking of the neurons has settled.

    At the end of each epoch its scores are compared with those of the epoch before, by Spearman's
    rank correlation, averaged over the groups by size. Once it is at least `stability`, there is a
    turnover, and the comparison starts anew.

    Attributes:
        stability: rank correlation, at most 1.
        apart: at least this many epochs from one turnover to the next.
        at_most: after this many epochs without one, there is a turnover in any case.
        first: no turnover before this epoch.
        last: no turnover after this epoch; none by default.

    Raises:
        PlanError: a number out of range.

    >>> schedule = Adaptive(stability=0.9, apart=1, first=1)
    >>> due, memory = schedule.due(1, {"g": [1.0, 2.0, 3.0]}, {})
    >>> due, schedule.due(2, {"g": [10.0, 20.0, 40.0]}, memory)[0]
    (False, True)
    """

    stability: float = 0.9
    apart: int = 2
    at_most: int | None = None
    first: int = 2
    last: int | None = None

    def __post_init__(self) -> None:
        _check_whole(self, {"apart": 1, "at_most": 1, "first": 1, "last": 1})
        if not isinstance(self.stability, int | float) or not -1.0 <= self.stability <= 1.0:
            raise PlanError(f"stability={self.stability!r}; give a rank correlation, -1 to 1")
        if self.last is not None and self.last < self.first:
            raise PlanError(f"last={self.last} comes before first={self.first}")
        if self.at_most is not None and self.at_most < self.apart:
            raise PlanError(f"at_most={self.at_most} is less than apart={self.apart}")

    @property
    def first_turnover(self) -> int:
        """Earliest epoch at whose end neurons may turn over."""
        return max(self.first, self.apart)

    @property
    def adds_up(self) -> bool:
        """Each epoch is scored by itself."""
        return False

    def watches(self, epoch: int) -> bool:
        """Every epoch up to the last turnover."""
        return epoch <= (self.last or math.inf)

    def due(self, epoch: int, scores: Scores | None, memory: Memory) -> tuple[bool, Memory]:
        """Whether the ranking has settled.

        Raises:
            PlanError: there are no scores.
        """
        if not self.watches(epoch):
            return False, memory
        if scores is None:
            raise PlanError("an adaptive schedule decides from scores; score every epoch")
        before, since = memory.get("scores"), epoch - memory.get("turned", 0)
        found = None if before is None else agreement(before, scores)
        late = self.at_most is not None and since >= self.at_most
        settled = found is not None and found >= self.stability
        allowed = epoch >= self.first and since >= self.apart
        if allowed and (settled or late):
            return True, {"turned": epoch}
        kept = {name: [float(value) for value in row] for name, row in scores.items()}
        return False, {**memory, "scores": kept}


def agreement(before: Scores, after: Scores) -> float:
    """Spearman's rank correlation of two sets of scores, averaged over groups by size.

    A group whose scores are all the same has no ranking and is left out; without any, it is 1.

    >>> round(agreement({"g": [1.0, 2.0, 3.0]}, {"g": [3.0, 2.0, 1.0]}), 6)
    -1.0
    """
    from scipy import stats  # it takes long to import, and most programs never come here

    total = weight = 0.0
    for name, row in after.items():
        old, new = (np.asarray(values, dtype=np.float64) for values in (before[name], row))
        if np.ptp(old) > 0 and np.ptp(new) > 0:
            total += float(stats.spearmanr(old, new).statistic) * len(new)
            weight += len(new)
    return total / weight if weight else 1.0


def _check_whole(schedule: Schedule | Adaptive, lowest: Mapping[str, int]) -> None:
    """Raise PlanError unless these fields are whole numbers, or None where that is the default."""
    for field in fields(schedule):
        value, least = getattr(schedule, field.name), lowest.get(field.name)
        if least is None or (value is None and field.default is None):
            continue
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise PlanError(f"{field.name}={value!r}; give a whole number, at least {least}")
