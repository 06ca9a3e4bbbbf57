"""Pointwise ops: each output position depends on the same position of every operand.

Which ops these are: `torch.Tag.pointwise`, corrected by two short reviewed tables. The operands'
names meet; what the result is still linear in follows from `_LAW`, nothing else is linear.
"""

from __future__ import annotations

import torch
from torch._ops import OpOverload

from fxplastic.identity import Field, Names
from fxplastic.rules.base import Call
from fxplastic.rules.combine import Law, meet, merge

# Pointwise by meaning, though the tag is missing in some torch release.
UNTAGGED = frozenset(
    "hardswish hardswish_ mish mish_ hardsigmoid hardsigmoid_ masked_fill masked_fill_ where "
    "_prelu_kernel prelu softplus logit logit_ addcmul addcmul_ addcdiv addcdiv_ clamp clamp_ "
    "leaky_relu leaky_relu_ elu elu_ celu selu gelu gelu_ silu silu_ relu relu_ relu6 hardtanh "
    "hardtanh_ hardshrink softshrink threshold threshold_ log_sigmoid_forward sigmoid sigmoid_ "
    "rrelu_with_noise nan_to_num _to_copy clone detach alias lift_fresh lift_fresh_copy".split()
)
# Tagged, though what comes out is not a function of one position.
NOT_POINTWISE = frozenset({"equal"})

_LAW: dict[str, Law] = {"mul": "product", "div": "quotient", "add": "sum", "sub": "sum"}
_HOMOGENEOUS = frozenset(
    {"neg", "_to_copy", "clone", "detach", "alias", "lift_fresh", "lift_fresh_copy", "positive"}
)


def is_pointwise(func: OpOverload) -> bool:
    """Whether the reviewed tables and the tag say that `func` is pointwise."""
    name = func.overloadpacket.__name__
    if name in NOT_POINTWISE:
        return False
    return torch.Tag.pointwise in func.tags or name in UNTAGGED


def align(field: Field, ndim: int) -> Field:
    """A field with leading axes added, as broadcasting does."""
    missing = ndim - field.ids.ndim
    return field if missing == 0 else field.with_ids(field.ids[(None,) * missing])


def pointwise(call: Call) -> tuple[Names, ...]:
    """Operands meet position by position.

    Denies: linearity in a parameter, unless the op is a product, a quotient's numerator, a sum
    whose every term is linear, or a sign change.
    """
    name = call.func.overloadpacket.__name__.rstrip("_") or call.func.overloadpacket.__name__
    name = call.func.overloadpacket.__name__ if name not in _LAW else name
    ndim = call.out.ndim
    operands = [call.lookup(t) for t in call.tensors()]
    data = any(o.data for o in operands)
    scalar = len(operands) == 1
    law: Law = _LAW.get(name, "none")
    if scalar and (name in _HOMOGENEOUS or (law in ("product", "quotient") and _first(call))):
        known = operands[0].known if name in _HOMOGENEOUS else None
        return (Names(operands[0].fields, data, known),) * len(call.outs)
    fields = tuple(align(f, ndim) for f in operands[0].fields)
    if scalar:
        fields = merge(call.ledger, fields, (), [], "none")
    for other in operands[1:]:
        right = tuple(align(f, ndim) for f in other.fields)
        pairs = meet(call.ledger, fields, right)
        fields = merge(call.ledger, fields, right, pairs, law)
    return (Names(fields, data),) * len(call.outs)


def _first(call: Call) -> bool:
    """The tensor is the first operand: of ``2 / w`` only ``w / 2`` is linear in w."""
    return bool(call.args) and isinstance(call.args[0], torch.Tensor)
