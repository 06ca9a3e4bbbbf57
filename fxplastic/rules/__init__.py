"""Semantic rules, one module a family; importing this package fills the table."""

from __future__ import annotations

from torch._ops import OpOverload

from fxplastic.rules import (
    contraction,
    convolution,
    create,
    index,
    movement,
    norm,
    reduce,
    window,
)
from fxplastic.rules.base import RULES, Call, Rule
from fxplastic.rules.pointwise import is_pointwise, pointwise

__all__ = ["RULES", "Call", "Rule", "find", "is_pointwise"]

_FAMILIES = (contraction, convolution, create, index, movement, norm, reduce, window)


def find(func: OpOverload) -> Rule:
    """The rule for an overload: its own, its op's, pointwise, or refusal."""
    name = func.overloadpacket.__name__
    for key in (f"{name}.{func._overloadname}", name):
        if key in RULES:
            return RULES[key]
    return pointwise if is_pointwise(func) else movement.refused
