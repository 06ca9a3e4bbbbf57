"""One tensor of an optimizer's state, carried over by its law."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from fxplastic.errors import OptimizerError
from fxplastic.gather import Recipe
from fxplastic.state_laws import Law

Make = Callable[[], Tensor]


def follower(
    where: str,
    law: Law,
    recipe: Recipe,
    value: object,
    options: Mapping[str, Any],
    state: Mapping[str, Any],
) -> Make:
    """What makes the new value of a state tensor; it is checked now and made later.

    Args:
        where: what to call it in an error.
        law: how it follows.
        recipe: how its parameter is edited.
        value: the tensor.
        options: of the parameter's group in the optimizer.
        state: all that the optimizer keeps of the parameter.

    Raises:
        OptimizerError: it has not the shape that the law needs.
    """
    if law.kind == "factored":
        return _factored(where, law, recipe, value, options, state)
    tensor = _of_shape(where, value, recipe.tensor.shape)
    if law.kind == "weight":
        return lambda: recipe.value_of(tensor)
    start = _start(law, options, state)
    if start:
        return lambda: recipe.scaled(tensor - start, law.factor) + start
    return lambda: recipe.scaled(tensor, law.factor)


def _start(law: Law, options: Mapping[str, Any], state: Mapping[str, Any]) -> float:
    """What is left in a tensor of what it started from."""
    if law.fades:
        return math.pow(float(options[law.fades]), float(state["step"]))
    return float(options.get(law.start, 0.0)) if law.start else 0.0


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
def _factored(
    where: str,
    law: Law,
    recipe: Recipe,
    value: object,
    options: Mapping[str, Any],
    state: Mapping[str, Any],
) -> Make:
    """One of two factors, each the mean of squares over the axis that the other one has.

    The squares are taken for the product of both, divided by its mean, as the optimizer takes them:
    the new mean over an axis is that of the other factor's new values there.
    """
    shape = tuple(recipe.tensor.shape)
    axes = _axes(law, shape, options)
    whole, mine = _with_axis(where, law, value, shape, axes)
    partner, other = _with_axis(where, law, state.get(law.partner), shape, axes[::-1])
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
