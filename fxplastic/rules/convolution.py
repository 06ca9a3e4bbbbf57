"""Convolution, grouped, depthwise and transposed, in any number of spatial dimensions.

Over channels it is a contraction inside each group; over space it mixes positions. With several
groups, one index of the weight's group-local axis stands for another neuron in every group, so
that axis is told apart by rows (`Ledger.split_site`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from fxplastic.identity import Field, Names, add_field, canonical, opaque, opaque_axis
from fxplastic.rules.base import Call, across, rule
from fxplastic.rules.contraction import _plus, contract


@rule("convolution")
def convolution(call: Call) -> Names:
    """``out[n, o, *] = sum_c weight[o, c, *] x[n, c, *]`` in each group.

    Denies: neurons along space (where the kernel has more than one position) or along the kernel;
    a grouped weight that is not a parameter as it stands, as its group-local axis cannot be told
    apart then.
    """
    x, weight = call.names(0), call.names(1)
    transposed, groups = bool(call.args[6]), int(call.args[8])
    every = range(2, call.args[0].ndim)
    passing = _passing(call, x)
    space = [a for a in every if a not in passing]
    x_fields = across(call, x, space, reason=f"{call.ledger.op} slides along it")
    x_fields = _flat(x_fields, passing)
    w_fields = across(call, weight, every, reason="it is a kernel axis of a convolution")
    w_fields = _flat(w_fields)
    if groups > 1:
        w_fields = _grouped_weight(call, w_fields, groups)
        x_fields = [_split_axis(f, 1, groups) for f in x_fields]
    a, b = replace(x, fields=tuple(x_fields)), replace(weight, fields=tuple(w_fields))
    names = contract(call, a, b, _equation(grouped=groups > 1, transposed=transposed, more=passing))
    result: list[Field] = []
    for f in names.fields:
        if groups > 1:
            f = Field(_join_axes(f.ids, call.out.shape[1], groups))
        sizes = dict(zip(passing, f.ids.shape[2:], strict=True))
        shape = (*f.ids.shape[:2], *(sizes.get(a, 1) for a in every))
        add_field(result, f.laid_out(f.ids.reshape(shape)))
    for g in opaque(call.out.shape, space):
        add_field(result, g)
    names = replace(names, fields=tuple(result))
    if call.args[2] is None:
        return names
    bias = call.names(2)
    shape = (1, -1, *[1] * len(every))
    bias = replace(bias, fields=tuple(f.laid_out(f.ids.reshape(shape)) for f in bias.fields))
    return _plus(call, names, bias)


def _equation(*, grouped: bool, transposed: bool, more: Sequence[int]) -> str:
    if grouped:
        return "ngc,gco->ngo" if transposed else "ngc,goc->ngo"
    rest = "xyz"[: len(more)]
    return f"nc{rest},{'co' if transposed else 'oc'}->no{rest}"


def _passing(call: Call, x: Names) -> list[int]:
    """Axes of space that hold neurons and along which each position is computed by itself."""
    _, weight, _, stride, padding, _, transposed, added, groups = call.args
    if groups != 1 or transposed:
        return []
    alone = [
        weight.shape[2 + i] == 1 and stride[i % len(stride)] == 1 and not padding[i % len(padding)]
        for i in range(call.args[0].ndim - 2)
    ]
    named = {a for f in x.fields if f.neural for a in f.axes}
    return [a for a, good in enumerate(alone, 2) if good and a in named and not any(added)]


def _flat(fields: Sequence[Field], passing: Sequence[int] = ()) -> list[Field]:
    """Fields over the first two axes and `passing` (the others have size 1 by now)."""
    rest = [a for f in fields[:1] for a in range(2, f.ids.ndim) if a not in passing]
    kept = [f for f in fields if all(f.ids.shape[a] == 1 for a in rest)]
    return [
        f.laid_out(f.ids.reshape(*f.ids.shape[:2], *(f.ids.shape[a] for a in passing)))
        for f in kept
    ]


def _split_axis(f: Field, axis: int, groups: int) -> Field:
    """``[..., g * c, ...] -> [..., g, c, ...]``; a field that does not vary there stays 1 x 1."""
    shape = list(f.ids.shape)
    inner = [groups, shape[axis] // groups] if shape[axis] > 1 else [1, 1]
    return f.with_ids(canonical(f.ids.reshape(*shape[:axis], *inner, *shape[axis + 1 :])))


def _join_axes(ids: torch.Tensor, channels: int, groups: int) -> torch.Tensor:
    """``[n, g, o] -> [n, g * o]``."""
    if ids.shape[1] == 1 and ids.shape[2] == 1:
        return ids.reshape(ids.shape[0], 1)
    full = ids.expand(ids.shape[0], groups, channels // groups)
    return canonical(full.reshape(ids.shape[0], channels))


def _grouped_weight(call: Call, fields: Sequence[Field], groups: int) -> list[Field]:
    """Weight fields over (group, first-axis rest, local axis)."""
    rows = next((f for f in fields if f.axes == (0,)), None)
    result = [
        _told_apart(call, f, rows, groups) if 1 in f.axes else _split_axis(f, 0, groups)
        for f in fields
    ]
    if any({0, 1} <= set(f.axes) for f in fields):
        # What is left of such a field tells no rows apart, and they are not alike: a weight that
        # is computed for each sample has rows that no other name may speak of.
        height = int(call.args[1].shape[0])
        every = opaque_axis((height,), 0).ids
        result.append(Field(every.reshape(groups, height // groups, 1)))
    return result


def _told_apart(call: Call, f: Field, rows: Field | None, groups: int) -> Field:
    """The local axis, one set of atoms for each group; frozen if it is not a parameter's own.

    Which rows are a group's is known only where the weight has the rows of the parameter, all of
    them and in their order.
    """
    ledger, site = call.ledger, _whole_axis(call, f, 1)
    first = None if rows is None else _whole_axis(call, rows, 0)
    if site is not None and first is not None:
        one, other = ledger.sites[site], ledger.sites[first]
        if (one.parameter, one.axis, other.axis) == (other.parameter, 1, 0):
            split = ledger.split_site(site, groups)
            return Field(ledger.atoms(split).reshape(groups, 1, -1), frozenset({split}))
    reason = f"{ledger.op} uses a weight in groups that is computed from the parameter"
    ledger.freeze_fields([f], reason, "law")
    local = call.args[1].shape[1]
    return Field(opaque_axis((groups * local,), 0).ids.reshape(groups, 1, local))


def _whole_axis(call: Call, f: Field, axis: int) -> int | None:
    """The one site whose atoms, all of them and in their order, `f` is along `axis`."""
    sites = sorted(f.carriers or ())
    if f.axes != (axis,) or len(sites) != 1:
        return None
    site = sites[0]
    whole = torch.equal(call.ledger.atoms(site), f.ids.reshape(-1))
    return site if whole else None
