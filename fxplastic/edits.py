"""What a plan does to one channel group: a gather with shares, and the checks that make it one."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from torch import Tensor

from fxplastic.errors import PlanError

SUM_TOLERANCE = 1e-9


@dataclass(frozen=True)
class Edit:
    """New neuron j of a group is a copy of old neuron ``take[j]``.

    Attributes:
        take: old neuron of each new one, block by block.
        share: factor on the consumer slices of each new neuron.
        size: number of old neurons.
        blocks: number of blocks, equal in size before and after; a neuron never leaves its block.

    >>> Edit(take=(0, 1, 0), share=(0.75, 1.0, 0.25), size=3).pruned
    (2,)
    """

    take: tuple[int, ...]
    share: tuple[float, ...]
    size: int
    blocks: int = 1

    @property
    def keeps_width(self) -> bool:
        """Whether there are as many neurons after as before."""
        return len(self.take) == self.size

    @cached_property
    def identity(self) -> bool:
        """Whether the group stays as it is."""
        return self.take == tuple(range(self.size)) and all(s == 1.0 for s in self.share)

    @cached_property
    def copies(self) -> dict[int, tuple[int, ...]]:
        """New neurons of every source that has any, by source."""
        found: dict[int, list[int]] = {}
        for new, source in enumerate(self.take):
            found.setdefault(source, []).append(new)
        return {source: tuple(found[source]) for source in sorted(found)}

    @property
    def counts(self) -> tuple[int, int, int, int]:
        """Neurons before and after, copies made, and neurons pruned."""
        before, after, kept = self.size, len(self.take), len(self.copies)
        return before, after, after - kept, before - kept

    @property
    def pruned(self) -> tuple[int, ...]:
        """Old neurons that no new one copies."""
        return tuple(i for i in range(self.size) if i not in self.copies)

    def total(self, source: int) -> float:
        """Sum of the shares of a source's copies; 0 for a pruned neuron."""
        return math.fsum(self.share[new] for new in self.copies.get(source, ()))

    @cached_property
    def preserving(self) -> bool:
        """Whether every old neuron's outgoing weight adds up to what it was."""
        return all(abs(self.total(i) - 1.0) <= SUM_TOLERANCE for i in range(self.size))

    def then(self, later: Edit) -> Edit:
        """This edit followed by `later`, as one."""
        return Edit(
            take=tuple(self.take[k] for k in later.take),
            share=tuple(s * self.share[k] for k, s in zip(later.take, later.share, strict=True)),
            size=self.size,
            blocks=self.blocks,
        )


def even_shares(take: Sequence[int]) -> tuple[float, ...]:
    """One over the number of copies of the source, for every new neuron."""
    counts: dict[int, int] = {}
    for source in take:
        counts[source] = counts.get(source, 0) + 1
    return tuple(1.0 / counts[source] for source in take)


def as_ints(group: str, values: object) -> tuple[int, ...]:
    """`values` (sequence, array or tensor of whole numbers) as Python ints, or PlanError."""
    result = []
    for place, value in enumerate(_items(group, "take", values)):
        if isinstance(value, bool):
            raise _not_a(group, "take", place, value, "a whole number")
        try:
            result.append(operator.index(value))  # type: ignore[arg-type]
        except TypeError:
            raise _not_a(group, "take", place, value, "a whole number") from None
    return tuple(result)


def as_floats(group: str, values: object) -> tuple[float, ...]:
    """`values` (sequence, array or tensor of finite numbers) as floats, or PlanError."""
    result = []
    for place, value in enumerate(_items(group, "share", values)):
        if isinstance(value, bool | str):
            raise _not_a(group, "share", place, value, "a finite number")
        try:
            number = float(value)  # type: ignore[arg-type]
        except (TypeError, ValueError, OverflowError):
            raise _not_a(group, "share", place, value, "a finite number") from None
        if not math.isfinite(number):
            raise _not_a(group, "share", place, value, "a finite number")
        result.append(number)
    return tuple(result)


def _items(group: str, what: str, values: object) -> Iterable[object]:
    """The entries of a one-dimensional collection."""
    if isinstance(values, Tensor | np.ndarray):
        if values.ndim != 1:
            raise PlanError(
                f"{what} of group {group!r} has shape {tuple(values.shape)}; give one dimension"
            )
        values = values.tolist()
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise PlanError(
            f"{what} of group {group!r} is a {type(values).__name__}: {values!r}; give a sequence "
            "with one entry per new neuron"
        )
    return values


def _not_a(group: str, what: str, place: int, value: object, wanted: str) -> PlanError:
    return PlanError(
        f"{what}[{place}] of group {group!r} is {value!r}; give {wanted} for each new neuron"
    )


def check_edit(group: str, edit: Edit) -> None:
    """Raise PlanError unless `edit` is a gather inside equal blocks."""
    take, size, blocks = edit.take, edit.size, edit.blocks
    if size < 1 or blocks < 1 or size % blocks:
        raise PlanError(f"group {group!r} of size {size} cannot have {blocks} equal blocks")
    if len(edit.share) != len(take):
        raise PlanError(
            f"group {group!r} has {len(take)} new neurons in take and {len(edit.share)} entries "
            "in share; give one share per new neuron"
        )
    if len(take) % blocks:
        raise PlanError(
            f"take of group {group!r} has {len(take)} entries, which do not divide into its "
            f"{blocks} blocks; list the same number of new neurons for each block, block by block"
        )
    old, new = size // blocks, len(take) // blocks
    if new < min(2, old):
        raise PlanError(
            f"take of group {group!r} leaves {new} neurons in each block of {old}; "
            f"keep at least {min(2, old)}"
        )
    for place, source in enumerate(take):
        _check_source(group, place, source, size, old, new)


def _check_source(group: str, place: int, source: int, size: int, old: int, new: int) -> None:
    """Raise PlanError unless new neuron `place` copies an old one of its own block."""
    if not 0 <= source < size:
        raise PlanError(
            f"take[{place}] of group {group!r} is {source}; its neurons are 0 to {size - 1}"
        )
    block = place // new
    if source // old != block:
        raise PlanError(
            f"take[{place}] of group {group!r} is {source}, a neuron of block {source // old}, "
            f"but new neuron {place} belongs to block {block}; "
            f"take one of {block * old} to {(block + 1) * old - 1}"
        )


def check_sums(group: str, edit: Edit) -> None:
    """Raise PlanError unless the shares of each source's copies sum to one."""
    for source, copies in edit.copies.items():
        total = edit.total(source)
        if not abs(total - 1.0) <= SUM_TOLERANCE:
            parts = ", ".join(f"share[{j}]={edit.share[j]:.6g}" for j in copies[:4])
            more = ", ..." if len(copies) > 4 else ""
            raise PlanError(
                f"shares of the copies of neuron {source} of group {group!r} sum to {total:.12g} "
                f"({parts}{more}); make them sum to one, or leave shares out for an even split"
            )


def describe(name: str, edit: Edit, examples: int = 3) -> str:
    """One line about `edit` for people."""
    sources = len(edit.copies)
    size = str(edit.size) if edit.keeps_width else f"{edit.size} -> {len(edit.take)}"
    blocks = f" in {edit.blocks} blocks" if edit.blocks > 1 else ""
    if edit.identity:
        return f"{name}: {size} neurons{blocks}, as they are"
    moved = [j for j, i in enumerate(edit.take) if j >= edit.size or i != j]
    text = f"{name}: {size} neurons{blocks}, {len(edit.take) - sources} copied, "
    text += f"{edit.size - sources} pruned"
    shown = [_slot(edit, j) for j in moved[:examples]]
    if shown:
        rest = len(moved) - len(shown)
        text += "; " + ", ".join(shown) + (f" and {rest} more" if rest else "")
    return text


def _slot(edit: Edit, new: int) -> str:
    """Where a new neuron comes from, and how the outgoing weight is shared."""
    source = edit.take[new]
    others = [k for k in edit.copies[source] if k != new]
    text = f"slot {new} <- {source}"
    if not others and edit.share[new] == 1.0:
        return text
    kept = "".join(f", slot {k} has {edit.share[k]:.4g}" for k in others[:2])
    return f"{text} (share {edit.share[new]:.4g}{kept}{', ...' if len(others) > 2 else ''})"
