"""One tensor of an optimizer's state, carried over by its law."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from fxplastic.diversity import Touch
from fxplastic.errors import OptimizerError
from fxplastic.gather import Recipe
from fxplastic.sharded import is_sharded
from fxplastic.state_laws import Law

Make = Callable[[], Tensor]


@dataclass(frozen=True, eq=False)
class Kept:
    """One thing that an optimizer keeps of a parameter.

    Attributes:
        where: what to call it in an error.
        law: how it follows.
        value: the tensor.
        recipe: how its parameter is edited.
        options: of the parameter's group in the optimizer.
        state: all that the optimizer keeps of the parameter.
        touch: a policy that has the last word.
    """

    where: str
    law: Law
    value: object
    recipe: Recipe
    options: Mapping[str, Any]
    state: Mapping[str, Any]
    touch: Touch | None = None

    def follower(self) -> Make:
        """What makes the new value: everything is checked now, and made later.

        Raises:
            OptimizerError: it has not the shape that the law needs.
        """
        make, touch = self._by_law(), self.touch
        if touch is None:
            return make
        if self.law.kind == "weight":  # an average of the weight: it becomes what the weight does
            own = replace(
                self.recipe, tensor=_of_shape(self.where, self.value, self.recipe.tensor.shape)
            )
            return lambda: touch.value(own, make())
        return lambda: touch.state(self.recipe, make(), self._start())

    def _by_law(self) -> Make:
        law, recipe = self.law, self.recipe
        self._check_factors()
        if law.kind == "factored":
            return _factored(self)
        tensor = _of_shape(self.where, self.value, recipe.tensor.shape)
        if law.kind == "weight":
            return lambda: recipe.value_of(tensor)
        start = self._start()
        if start:
            return lambda: recipe.scaled(tensor - start, law.factor) + start
        return lambda: recipe.scaled(tensor, law.factor)

    def _start(self) -> float:
        """What is left in a tensor of what it started from."""
        law = self.law
        if law.fades:
            return math.pow(float(self.options[law.fades]), float(self.state["step"]))
        return float(self.options.get(law.start, 0.0)) if law.start else 0.0

    def _check_factors(self) -> None:
        """At other widths, the optimizer must choose the same axes to factor as before."""
        least = self.options.get("min_dim_size_to_factor")
        if least is None:
            return
        before, after = tuple(self.recipe.tensor.shape), self.recipe.shape
        if _choice(before, least) != _choice(after, least):
            raise OptimizerError(
                f"{self.where}: the optimizer factors second moments by the sizes of the axes "
                f"(min_dim_size_to_factor={least}), and from {before} to {after} its choice could "
                "be another one, which this state does not fit; keep the order of the sizes and "
                "the side of the limit, or build the optimizer anew"
            )


def _choice(shape: tuple[int, ...], least: int) -> object:
    """All that decides which axes of a tensor are factored."""
    order = sorted(range(len(shape)), key=lambda axis: (shape[axis], axis))
    return order, [(n >= least, n > least) for n in shape]


def _of_shape(where: str, value: object, *shapes: tuple[int, ...]) -> Tensor:
    if isinstance(value, Tensor) and value.shape in shapes:
        return value
    shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
    raise OptimizerError(
        f"{where} is {shape}, not a tensor of the parameter's shape {tuple(shapes[0])}; the "
        "optimizer belongs to another state of the model: build it anew, or load the state that "
        "goes with these weights"
    )


# ---------------------------------------------------------------- means over an axis
def _factored(kept: Kept) -> Make:
    """One of two factors, each the mean of squares over the axis that the other one has.

    The squares are taken for the product of both, divided by its mean, as the optimizer takes them:
    the new mean over an axis is that of the other factor's new values there.
    """
    law, recipe, where = kept.law, kept.recipe, kept.where
    if is_sharded(recipe.tensor):
        raise OptimizerError(
            f"{where} is a mean over an axis of a parameter that is sharded over processes, and "
            "is not brought together; use an optimizer without factors"
        )
    shape = tuple(recipe.tensor.shape)
    axes = _axes(law, shape, kept.options)
    whole, mine = _with_axis(where, law, kept.value, shape, axes)
    partner, other = _with_axis(where, law, kept.state.get(law.partner), shape, axes[::-1])
    rest = [a for a in range(len(shape)) if a not in (mine, other)]
    if any(m.index.ndim == 2 and (m.axis in (mine, other) or 0 in (mine, other))
           for m in recipe.maps):  # fmt: skip
        raise OptimizerError(
            f"{where} is a mean over an axis on which this plan moves every row in its own way (a "
            "grouped convolution); freeze the group, or use an optimizer without factors"
        )

    def make() -> Tensor:
        result = recipe.scaled(whole, law.factor, [*rest, *([] if other is None else [other])])
        if mine is not None:
            after = recipe.scaled(partner, law.factor, [*rest, mine]).mean(mine, keepdim=True)
            before = recipe.scaled(partner.mean(mine, keepdim=True), law.factor, rest)
            result = result * (after / before).nan_to_num(1.0, 1.0, 1.0)
        return result if law.dropped is None or mine is None else result.squeeze(mine)

    return make


def _axes(law: Law, shape: tuple[int, ...], options: Mapping[str, Any]) -> tuple[int, ...]:
    """The axis that this factor lacks where the state does not say, and the other's."""
    if law.dropped is None:
        return ()
    least = options.get("min_dim_size_to_factor", 16)
    both = (0, 1) if len(shape) > 2 and min(shape[:2]) > least else (len(shape) - 2, len(shape) - 1)
    return both[law.dropped], both[1 - law.dropped]


def _with_axis(
    where: str, law: Law, value: object, shape: tuple[int, ...], axes: tuple[int, ...]
) -> tuple[Tensor, int | None]:
    """A factor with size 1 on the axis that it lacks, and that axis (none, if its size was 1)."""
    if isinstance(value, Tensor):
        if axes and value.shape == shape[: axes[0]] + shape[axes[0] + 1 :]:
            return value.unsqueeze(axes[0]), axes[0]
        if not axes and value.ndim == len(shape):
            short = [a for a, n in enumerate(value.shape) if n != shape[a]]
            if not short or (len(short) == 1 and value.shape[short[0]] == 1):
                return value, short[0] if short else None
    raise OptimizerError(
        f"{where}, or its partner {law.partner!r}, is no mean over one axis of a parameter of "
        f"shape {shape}; the optimizer belongs to another state of the model: build it anew"
    )
