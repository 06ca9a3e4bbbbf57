"""Pointwise ops: each output position depends on the same position of every operand.

Which ops these are: `torch.Tag.pointwise`, corrected by two short reviewed tables. The operands'
names meet; what the result is still linear in follows from `_LAW`, nothing else is linear.
"""

from __future__ import annotations

import torch
from torch._ops import OpOverload

from fxplastic.identity import Field, Names
from fxplastic.rules.base import Call
from fxplastic.rules.combine import Law, meet, merge, plain

# Pointwise by meaning, though no release so far tags them (some overloads of the last four are).
UNTAGGED = frozenset(
    "_prelu_kernel alias detach gelu_ hardswish hardswish_ "
    "log_sigmoid_forward mish_ threshold_ masked_fill masked_fill_ where _to_copy".split()
)
# Tagged only since a release after 2.11.
TAGGED_LATER = frozenset("celu_ elu_ hardsigmoid_ hardtanh_ leaky_relu leaky_relu_".split())
# Tagged in some release, though what comes out is not a function of one position.
NOT_POINTWISE = frozenset({"equal"})

_LAW: dict[str, Law] = {"mul": "product", "div": "quotient", "add": "sum", "sub": "sum"}
_COPIES = frozenset({"_to_copy", "clone", "detach", "alias"})
_HOMOGENEOUS = _COPIES | {"neg", "positive"}


def is_pointwise(func: OpOverload) -> bool:
    """Whether the reviewed tables and the tag say that `func` is pointwise."""
    name = func.overloadpacket.__name__
    if name in NOT_POINTWISE:
        return False
    return torch.Tag.pointwise in func.tags or name in UNTAGGED | TAGGED_LATER


def align(field: Field, ndim: int) -> Field:
    """A field with leading axes added, as broadcasting does."""
    missing = ndim - field.ids.ndim
    return field if missing == 0 else field.laid_out(field.ids[(None,) * missing])


def pointwise(call: Call) -> tuple[Names, ...]:
    """Operands meet position by position.

    Denies: linearity in a parameter, unless the op is a product, a quotient's numerator, a sum
    whose every term is linear, a copy or a sign change, and rounds nothing.
    """
    name = call.func.overloadpacket.__name__
    name = name.removesuffix("_") if name.removesuffix("_") in _LAW else name
    law = _law(call, name)
    first, *others = (call.lookup(t) for t in call.tensors())
    fields = tuple(align(f, call.out.ndim) for f in first.fields)
    if not others and not _scales(call, name, law):
        fields = tuple(plain(call.ledger, fields))
    for other in others:
        right = tuple(align(f, call.out.ndim) for f in other.fields)
        pairs = meet(call.ledger, fields, right)
        fields = merge(call.ledger, fields, right, pairs, law)
    known = _known(call, first) if name in _COPIES else None
    names = Names(fields, first.data or any(o.data for o in others), known)
    return (names,) * len(call.outs)


def _scales(call: Call, name: str, law: Law) -> bool:
    """Whether an op on one tensor is a multiple of it: of ``2 / w`` and ``w / 2`` the latter."""
    if name in _HOMOGENEOUS:
        return not _rounds(call)
    leads = bool(call.args) and isinstance(call.args[0], torch.Tensor)
    return law in ("product", "quotient") and leads


def _law(call: Call, name: str) -> Law:
    """What the op is linear in; division with a rounding mode is not linear in anything."""
    if call.kwargs.get("rounding_mode") is not None or _rounds(call):
        return "none"
    return _LAW.get(name, "none")


def _rounds(call: Call) -> bool:
    """Whether the result is of a type that holds no fractions: a share would be rounded away."""
    return not (call.out.is_floating_point() or call.out.is_complex())


def _known(call: Call, source: Names) -> torch.Tensor | None:
    """Values of an index, converted; a mask is no index."""
    known, dtype = source.known, call.out.dtype
    return None if known is None or dtype == torch.bool else known.to(dtype)
