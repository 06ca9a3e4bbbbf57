"""Rows of a graph, nested in the modules whose code they stand for, in the order they run in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby


@dataclass(frozen=True)
class Section:
    """Consecutive rows of one module.

    Attributes:
        path: of the module.
        parts: rows, by number, and sections of its own modules, in order.
        first: number of its first row.
        last: number of its last row.
        depth: how many sections it lies in.
    """

    path: str
    parts: tuple[Section | int, ...]
    first: int
    last: int
    depth: int

    @property
    def rows(self) -> range:
        """Numbers of all rows in it."""
        return range(self.first, self.last + 1)


def nest(modules: Sequence[str]) -> tuple[Section | int, ...]:
    """Rows, given by their modules' paths, as a tree.

    A module with a single row gets no section of its own, and one section with nothing beside it
    takes the place of the one around it.

    >>> nest(["", "a.b", "a.b", "c"])[1:]
    (Section(path='a.b', parts=(1, 2), first=1, last=2, depth=0), 3)
    """
    paths = tuple(tuple(module.split(".")) if module else () for module in modules)
    return tuple(_nest(paths, range(len(paths)), 0, 0))


def _nest(
    paths: Sequence[tuple[str, ...]], rows: range, level: int, depth: int
) -> Iterator[Section | int]:
    """The parts of `rows`, whose paths agree in their first `level` components."""
    for component, run in groupby(rows, lambda row: paths[row][level : level + 1]):
        inside = list(run)
        if not component or len(inside) == 1:
            yield from inside
            continue
        first, last = inside[0], inside[-1]
        # Go down as far as all rows go together: `a` with nothing but `a.b` in it is `a.b`.
        deeper = level + 1
        while len({paths[row][: deeper + 1] for row in inside}) == 1 and all(
            len(paths[row]) > deeper for row in inside
        ):
            deeper += 1
        parts = tuple(_nest(paths, range(first, last + 1), deeper, depth + 1))
        yield Section(".".join(paths[first][:deeper]), parts, first, last, depth)
