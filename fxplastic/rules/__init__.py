"""Semantic rules, one module a family; importing this package fills the table."""

from __future__ import annotations

from torch._ops import OpOverload

from fxplastic.rules import (
    contraction,
    convolution,
    create,
    index,
    join,
    movement,
    norm,
    reduce,
    window,
)
from fxplastic.rules.base import RULES, UNREAD, Call, Rule
from fxplastic.rules.pointwise import is_pointwise, pointwise

__all__ = ["RULES", "UNREAD", "Call", "Rule", "find", "is_pointwise", "refused"]

refused = movement.refused

_FAMILIES = (contraction, convolution, create, index, join, movement, norm, reduce, window)


def find(func: OpOverload) -> Rule:
    """The rule for an overload: its own, its op's, pointwise, or refusal.

    An op of another library may have an ATen op's name; it has no rule.
    """
    if func.namespace != "aten":
        return movement.refused
    name = func.overloadpacket.__name__
    for key in (f"{name}.{func._overloadname}", name):
        if key in RULES:
            return RULES[key]
    return pointwise if is_pointwise(func) else movement.refused
