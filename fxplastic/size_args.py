"""Which arguments of a call are sizes, and how they are set to give an output of another shape.

One small entry per op, by the name of the function or method (`fxplastic.size_setters`); nothing
is ever searched for by value. An op without an entry takes no sizes: a number that changes with a
width keeps its old value there (``x / x.shape[1]`` divides by what it always did).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import fx

from fxplastic.errors import WidthError
from fxplastic.identity import Ids
from fxplastic.numbers import Numbers
from fxplastic.scale import EXACT, Scale, Shape


@dataclass(frozen=True, eq=False)
class Fit:
    """A node that has to give other shapes.

    Attributes:
        node: in the new graph; its arguments may be replaced.
        wanted: for each tensor that it gives, the shapes that are right, the likeliest first.
        numbers: values of arguments, and numbers as they were.
        old_shape: the old shape of a tensor argument.
        names: its neural fields, as they were.
    """

    node: fx.Node
    wanted: Sequence[Sequence[Shape]]
    numbers: Numbers
    old_shape: Callable[[Any], Shape]
    names: Callable[[Any], tuple[Ids, ...]]

    @property
    def target(self) -> Shape:
        """The likeliest shape of the first tensor."""
        return self.wanted[0][0]

    @property
    def scale(self) -> Scale:
        """What changes."""
        return self.numbers.scale

    def value(self, leaf: Any) -> Any:
        """The new value of an argument."""
        return self.numbers.value(leaf)

    def old(self, leaf: Any) -> Any:
        """Its old value, with `None` in place of tensors."""
        return self.numbers.old(leaf)

    @property
    def source(self) -> Any:
        """The tensor that the op works on."""
        named = self.node.kwargs
        return self.node.args[0] if self.node.args else named.get("input", named.get("self"))

    def argument(self, index: int, name: str, default: Any = None) -> Any:
        """An argument of the node, by position or by name."""
        if len(self.node.args) > index:
            return self.node.args[index]
        return self.node.kwargs.get(name, default)

    def set(self, index: int, name: str, new: Any) -> None:
        """Replace an argument, where it is given."""
        if len(self.node.args) > index:
            self.node.update_arg(index, new)
        else:
            self.node.update_kwarg(name, new)

    def kept(self, leaf: Any, size: int, tensor: fx.Node, axis: int) -> Any:
        """`leaf` where it gives `size` already, else a number along an axis that gives it.

        `tensor` and `axis` say along what the size is counted: a number that follows the batch
        or the image goes on doing so.
        """
        if self.value(leaf) == size:
            return leaf
        number = self.numbers.former(leaf)
        return self.numbers.scaled(number, self.old(leaf), size, tensor, axis)


Setter = Callable[[Fit], None]


@dataclass(frozen=True)
class SizeArgs:
    """Sizes among the arguments of one op.

    Attributes:
        first: from this positional argument on, up to `last`, they are sizes.
        last: the last such position.
        names: keyword arguments that are sizes.
        setter: sets them; `None` where they only ever come from other sizes.
        always: whether to set them even where the output's shape is right as it is.
    """

    first: int
    last: int = 99
    names: frozenset[str] = frozenset()
    setter: Setter | None = None
    always: bool = False

    def covers(self, place: int | str) -> bool:
        """Whether the argument at this position, or of this name, is a size."""
        return place in self.names if isinstance(place, str) else self.first <= place <= self.last


SIZE_ARGS: dict[str, SizeArgs] = {}


def size_args(
    *ops: str,
    first: int,
    last: int = 99,
    names: Sequence[str] = (),
    always: bool = False,
) -> Callable[[Setter], Setter]:
    """Register a setter for functions and methods of these names."""

    def register(setter: Setter) -> Setter:
        for op in ops:
            SIZE_ARGS[op] = SizeArgs(first, last, frozenset(names), setter, always)
        return setter

    return register


def op_name(node: fx.Node) -> str:
    """Name of the function or method that a node calls."""
    if node.op == "call_method":
        return str(node.target)
    return str(getattr(node.target, "__name__", "")) if node.op == "call_function" else ""


@dataclass(frozen=True, eq=False)
class Prefix:
    """Along one axis, how many new positions lie in front of an old one."""

    fit: Fit
    source: fx.Node
    axis: int
    ends: Any
    groups: tuple[str, ...]

    @classmethod
    def of(cls, fit: Fit, source: Any, axis: int) -> Prefix | None:
        """`None` where the axis keeps its size."""
        size = fit.value(source).shape[axis]
        for ids in fit.names(source):
            at = np.maximum(ids, 0)
            weight = fit.scale.weight[at]
            if ids.shape[axis] < 2 or bool((weight == 1.0).all()):
                continue
            line = np.moveaxis(weight, axis, 0).reshape(ids.shape[axis], -1)[:, 0]
            ends = np.concatenate([[0.0], np.cumsum(line)])
            if round(float(ends[-1])) == size:
                return cls(fit, source, axis, ends, fit.scale.groups_in(ids))
        return None

    @property
    def before(self) -> int:
        """The axis's old size."""
        return len(self.ends) - 1

    def at(self, old: int) -> int:
        """The new position of an old one."""
        place = float(self.ends[min(max(old, 0), self.before)])
        if abs(place - round(place)) > EXACT:
            raise WidthError(
                f"the bound {old} lies in the midst of interchangeable neurons, and would become "
                f"{place:g}; give widths that it divides as before",
                self.groups,
            )
        return round(place)

    @property
    def after(self) -> int:
        """The axis's new size."""
        return round(float(self.ends[-1]))

    def bound(self, leaf: Any) -> Any:
        """A bound in new positions, counted from the end where it was."""
        old = self.fit.old(leaf)
        if type(old) is not int:
            return leaf
        if old > self.before:  # all that there is on these inputs; on larger ones maybe not
            return self._beyond(leaf, old)
        new = self.at(old) if old >= 0 else self.at(old + self.before) - round(self.ends[-1])
        return self.fit.kept(leaf, new, self.source, self.axis)

    def _beyond(self, leaf: Any, old: int) -> Any:
        """A bound past the end, as far past it as before."""
        if self.fit.numbers.even(self.source, self.axis):
            new, rest = divmod(old * self.after, self.before)
            if not rest:
                return self.fit.kept(leaf, new, self.source, self.axis)
        elif not self.fit.numbers.repeats(self.source, self.axis):
            return self.fit.kept(leaf, old + self.after - self.before, self.source, self.axis)
        raise WidthError(
            f"the bound {old} lies past the end, and where it will be on larger inputs cannot be "
            "told; leave it out, or give widths that it divides as before",
            self.groups,
        )

    def slice(self, item: slice) -> slice:
        """A slice in new positions; one with a step is judged by its outcome.

        A slice of one position stays one: alone, a neuron is no axis that could grow.
        """
        if item.step not in (None, 1):
            ends = self.fit.old(item.stop) == self.before
            return slice(item.start, self.bound(item.stop), item.step) if ends else item
        start, stop, _ = slice(self.fit.old(item.start), self.fit.old(item.stop)).indices(
            self.before
        )
        if stop - start == 1 and self.ends[stop] - self.ends[start] != 1.0:
            first = int(self.ends[start] + EXACT)
            return slice(first, first + 1)
        return slice(self.bound(item.start), self.bound(item.stop), item.step)
