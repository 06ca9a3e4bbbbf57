"""Contractions: products of two tensors summed over common axes.

The contracted axis is where a neuron's signal leaves: it must be taken up by a parameter whose
value is linear in what the share scales (the *consumer*). Of two such operands the second one is
the consumer. A contraction's output is no parameter any more.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fxplastic.identity import Field, Names, add_field, classes, opaque_classes, same_names
from fxplastic.ledger import mix
from fxplastic.rules.base import Call, rule
from fxplastic.rules.combine import blend, meet, note_use
from fxplastic.rules.pointwise import align


def _layout(field: Field, letters: str, joint: str) -> Field:
    """The field over the axes of `joint`, size 1 on those that it lacks."""
    order = [letters.index(x) for x in joint if x in letters]
    ids = field.ids.permute(order)
    shape, at = [], 0
    for x in joint:
        shape.append(ids.shape[at] if x in letters else 1)
        at += x in letters
    return field.laid_out(ids.reshape(shape))


def contract(call: Call, a: Names, b: Names, equation: str) -> Names:
    """Names of ``einsum(equation, a, b)``; every letter stands for one axis.

    Denies: a neuron that is contracted with anything but a consumer; with two operands that both
    depend on the input, every neuron of either (attention), and what names whole heads beside the
    channels in them.
    """
    left, out = equation.split("->")
    la, lb = left.split(",")
    joint = "".join(dict.fromkeys(la + lb))
    fa = [_layout(f, la, joint) for f in a.fields]
    fb = [_layout(f, lb, joint) for f in b.fields]
    if a.data and b.data:
        batch = {joint.index(x) for x in joint if x in la and x in lb and x in out}
        fa, fb = _heads_apart(call, fa, fb, batch), _heads_apart(call, fb, fa, batch)
    pairs = meet(call.ledger, fa, fb)
    summed = {i for i, x in enumerate(joint) if x not in out}
    gone = [f for f in (*fa, *fb) if summed.intersection(f.axes)]
    for f in gone:
        _lines_stay_apart(call, f, summed)
    if same_names(fa, fb):  # then they met without a record
        for f in (f for f in fa if f.neural and summed.intersection(f.axes)):
            note_use(call.ledger, f, [g for g in fa if g is not f])
    _take_up(call, fa, fb, summed, attention=a.data and b.data)
    if a.data and b.data:
        reason = f"{call.ledger.op} multiplies two activations (attention)"
        call.ledger.freeze_fields([*fa, *fb], reason, "attention")
    keep_a = [i for i, f in enumerate(fa) if not summed.intersection(f.axes)]
    keep_b = [j for j, f in enumerate(fb) if not summed.intersection(f.axes)]
    left_over = [
        (keep_a.index(i), keep_b.index(j)) for i, j in pairs if i in keep_a and j in keep_b
    ]
    ra, rb = [fa[i] for i in keep_a], [fb[j] for j in keep_b]
    fields = blend(call.ledger, ra, rb, left_over)
    return Names(_after(fields, gone, [joint.index(x) for x in out]), a.data or b.data)


def _heads_apart(
    call: Call, fields: Sequence[Field], others: Sequence[Field], batch: set[int]
) -> list[Field]:
    """Neurons on batch axes alone stay where the other side's neurons lie on further axes, too.

    Such is a bias per attention head that meets the head's value channels: as one neuron with all
    of them it would be the head, which nothing could replace; as a fixed name it tells heads apart.
    """
    kept: list[Field] = []
    wider = [set(g.axes) for g in others if g.neural]
    for f in fields:
        axes = set(f.axes)
        if not (f.neural and axes <= batch and any(axes < other for other in wider)):
            add_field(kept, f)
            continue
        call.ledger.release(f.carriers)
        reason = f"{call.ledger.op} uses it as one value for a whole attention head"
        call.ledger.freeze(f.array, reason, "law")
        for g in opaque_classes(f.array, f.axes):
            add_field(kept, g)
    return kept


def _lines_stay_apart(call: Call, f: Field, summed: set[int]) -> None:
    """What is summed up along one axis stays in its place along the others: nothing moves there."""
    outside = set(f.axes) - summed
    if f.neural and outside:
        call.ledger.context(f.array, mix(classes(f.array, outside)))


def _take_up(
    call: Call, fa: Sequence[Field], fb: Sequence[Field], summed: set[int], *, attention: bool
) -> None:
    """Decide the consumer of the contracted neurons, or freeze them."""
    ca = [f for f in fa if summed.intersection(f.axes)]
    cb = [f for f in fb if summed.intersection(f.axes)]
    for mine, others in ((ca, cb), (cb, ca)):
        for f in mine:
            _needs_partner(call, f, others, attention=attention)
    na, nb = ([f for f in c if f.neural] for c in (ca, cb))
    if not na or not nb:
        return
    for consumers, rest in ((nb, na), (na, nb)):
        if all(f.carriers is not None for f in consumers):
            for f in consumers:
                call.ledger.consume(f.carriers)
            call.ledger.release_all(rest)
            return
    what = (
        "two activations (attention)"
        if attention
        else "an activation and a value that is not linear in a parameter"
    )
    call.ledger.freeze_fields([*na, *nb], f"{call.ledger.op} contracts {what} over it", "law")


def _needs_partner(call: Call, f: Field, others: Sequence[Field], *, attention: bool) -> None:
    """Atoms of `f` that nothing named meets on the other side are frozen."""
    if not f.neural:
        return
    met = np.zeros((), bool)
    for g in others:
        met = met | (g.array > 0)
    ids, met = np.broadcast_arrays(f.array, met)
    what = (
        "contracts two activations (attention) over it"
        if attention
        else "sums over it against an axis without neurons (an input, a constant)"
    )
    call.ledger.freeze(ids[~met], f"{call.ledger.op} {what}", "law")


def _after(fields: Sequence[Field], gone: Sequence[Field], order: list[int]) -> tuple[Field, ...]:
    """Surviving fields in the output's order; what was summed leaves an opaque trace."""
    result: list[Field] = []
    traces = [g for f in gone for g in opaque_classes(f.array, order)]
    for f in (*fields, *traces):
        rest = [i for i in range(f.ids.ndim) if i not in order]
        shape = [f.ids.shape[i] for i in order]
        add_field(result, f.laid_out(f.ids.permute([*order, *rest]).reshape(shape)))
    return tuple(result)


def _plus(call: Call, names: Names, bias: Names) -> Names:
    """A bias is added position by position."""
    ndim = call.out.ndim
    right = tuple(align(f, ndim) for f in bias.fields)
    pairs = meet(call.ledger, names.fields, right)
    return Names(blend(call.ledger, names.fields, right, pairs), names.data or bias.data)


@rule("mm")
def mm(call: Call) -> Names:
    """Matrix product."""
    return contract(call, call.names(0), call.names(1), "ik,kj->ij")


@rule("addmm")
def addmm(call: Call) -> Names:
    """Matrix product plus bias (beta and alpha are plain numbers)."""
    return _plus(call, contract(call, call.names(1), call.names(2), "ik,kj->ij"), call.names(0))


@rule("bmm")
def bmm(call: Call) -> Names:
    """Batched matrix product."""
    return contract(call, call.names(0), call.names(1), "bik,bkj->bij")


@rule("baddbmm")
def baddbmm(call: Call) -> Names:
    """Batched matrix product plus bias."""
    return _plus(call, contract(call, call.names(1), call.names(2), "bik,bkj->bij"), call.names(0))


@rule("mv")
def mv(call: Call) -> Names:
    """Matrix times vector."""
    return contract(call, call.names(0), call.names(1), "ik,k->i")


@rule("dot", "vdot")
def dot(call: Call) -> Names:
    """Inner product."""
    return contract(call, call.names(0), call.names(1), "k,k->")
