"""What a controller asks of the processes that train one model, and one process by itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol, TypeVar

from torch import Tensor

from fxplastic.distributed.facts import Facts
from fxplastic.rewrite import Made

T = TypeVar("T")
Rows = Mapping[str, Tensor]


class Together(Protocol):
    """What a controller asks of the processes that train one model; `Alone` or `Ranks`."""

    @property
    def size(self) -> int:
        """Number of processes."""
        ...

    def meet(self, facts: Callable[[], Facts], mine: Callable[[], T]) -> T:
        """This process's own result, once all have one, and `facts` that agree."""
        ...

    def mean(self, rows: Rows) -> dict[str, Tensor]:
        """The mean of every process's rows."""
        ...

    def decide(self, make: Callable[[], T]) -> T:
        """What the first process makes, on all of them."""
        ...

    def carry_out(self, make: Callable[[], Made], facts: Facts) -> None:
        """A rewrite in place, on all of them or on none."""
        ...


class Alone:
    """One process by itself."""

    size = 1

    def meet(self, facts: Callable[[], Facts], mine: Callable[[], T]) -> T:
        """Nobody else is there to agree with."""
        del facts
        return mine()

    def mean(self, rows: Rows) -> dict[str, Tensor]:
        """Its own rows."""
        return dict(rows)

    def decide(self, make: Callable[[], T]) -> T:
        """It decides."""
        return make()

    def carry_out(self, make: Callable[[], Made], facts: Facts) -> None:
        """It does."""
        del facts
        make().carry_out()
