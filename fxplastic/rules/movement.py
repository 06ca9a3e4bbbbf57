"""Data movement: executed on the names, not modelled.

Whatever an op does to values it does to their names, so there is no rule to get wrong. All that
is written down here is along which axes an op moves data, so that the other axes need not be
spelled out (`None`: all of them).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fxplastic.identity import Field, Names, add_field, canonical, opaque
from fxplastic.rules.base import Call, across, flat_tensors, rule
from fxplastic.rules.combine import blend, meet, plain
from fxplastic.rules.pointwise import align


def moved(
    call: Call,
    execute: Callable[[Tensor], Any],
    on_values: Callable[[Tensor], Any] | None = None,
) -> tuple[Names, ...]:
    """Run `execute` on every field; an op with several outputs gives several names.

    An atom that is left with no axis to carry its name is noted as standing alone. `on_values`
    does the same to values that are known; by default the op itself.
    """
    x = call.names(0)
    outs: list[list[Field]] = [[] for _ in call.outs]
    lone = [set(x.lone) for _ in call.outs]
    for f in x.fields:
        results = list(flat_tensors([execute(f.ids)]))
        for fields, single, ids in zip(outs, lone, results, strict=True):
            one = canonical(ids)
            if f.axes and one.numel() == 1 and int(one) > 0:
                single.add(int(one))
            add_field(fields, f.with_ids(one))
    known: list[Tensor | None] = [None] * len(outs)
    if x.known is not None:
        if on_values is None:
            known = list(flat_tensors([call.func(x.known, *call.args[1:], **call.kwargs)]))
        else:
            known = list(flat_tensors([on_values(x.known)]))
    return tuple(
        Names(tuple(fields), x.data, values, frozenset(single))
        for fields, values, single in zip(outs, known, lone, strict=True)
    )


def _spelled(ids: Tensor, shape: Sequence[int], dims: Sequence[int] | None) -> Tensor:
    """Expand the axes along which the op moves data."""
    chosen = range(len(shape)) if dims is None else [d % len(shape) for d in dims]
    return ids.expand([shape[a] if a in chosen else n for a, n in enumerate(ids.shape)])


@rule("view", "_unsafe_view", reads=False)
def view(call: Call) -> tuple[Names, ...]:
    """A new shape over the same order of elements (`view(dtype)` has no rule)."""
    if not isinstance(call.args[1], list | tuple):
        return refused(call)
    old, new = tuple(call.args[0].shape), tuple(call.out.shape)
    # Known values may lie in memory in another way than the tensor does (a clone keeps theirs).
    return moved(call, lambda ids: reshape_ids(ids, old, new), lambda values: values.reshape(new))


def reshape_ids(ids: Tensor, old: Sequence[int], new: Sequence[int]) -> Tensor:
    """Reshape, spelling out only the runs of axes within which the ids vary."""
    spelled, target = list(ids.shape), [1] * len(new)
    for before, after in _runs(old, new):
        if any(ids.shape[a] > 1 for a in before):
            for a in before:
                spelled[a] = old[a]
            for b in after:
                target[b] = new[b]
    return ids.expand(spelled).reshape(target)


def _runs(old: Sequence[int], new: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Smallest runs of axes with equal products, pairwise."""
    runs: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(old) or j < len(new):
        before: list[int] = []
        after: list[int] = []
        p = q = 1
        while True:
            if p <= q and i < len(old) and (p < q or not before):
                p *= old[i]
                before.append(i)
                i += 1
            elif j < len(new) and (q < p or not after):
                q *= new[j]
                after.append(j)
                j += 1
            else:
                break
        runs.append((before, after))
    return runs


# op -> which axes it moves data along, given its arguments and the number of axes
_Axes = Callable[[Call, int], Sequence[int] | None]
_DIM_1: _Axes = lambda call, n: (int(call.arg(1, "dim", 0)),)  # noqa: E731
_SECOND: _Axes = lambda call, n: (int(call.arg(2, "dim", 0)),)  # noqa: E731
_NOWHERE: _Axes = lambda call, n: ()  # noqa: E731
MOVES: dict[str, _Axes] = {
    "permute": _NOWHERE,
    "transpose": _NOWHERE,
    "t": _NOWHERE,
    "unsqueeze": _NOWHERE,
    "slice": _DIM_1,
    "select": _DIM_1,
    "unbind": _DIM_1,
    "unfold": _DIM_1,
    "split": _SECOND,
    "split_with_sizes": _SECOND,
    "unsafe_split": _SECOND,
    "flip": _NOWHERE,
    "roll": _NOWHERE,
    "diagonal": lambda call, n: (int(call.arg(2, "dim1", 0)), int(call.arg(3, "dim2", 1))),
    "constant_pad_nd": lambda call, n: range(n - len(call.args[1]) // 2, n),
    "pixel_shuffle": lambda call, n: (-3, -2, -1),
    "pixel_unshuffle": lambda call, n: (-3, -2, -1),
    "channel_shuffle": lambda call, n: (1,),
}


@rule(*MOVES, reads=False)
def move(call: Call) -> tuple[Names, ...]:
    """Run the op itself on the names; padding has no name."""
    name, shape = call.func.overloadpacket.__name__, call.args[0].shape
    dims = MOVES[name](call, len(shape))
    if name == "roll" and not call.arg(2, "dims"):
        dims = None
    rest = call.args[1:]
    if name == "constant_pad_nd":
        return _padded(call, dims or ())
    return moved(call, lambda ids: call.func(_spelled(ids, shape, dims), *rest, **call.kwargs))


def _padded(call: Call, dims: Sequence[int]) -> tuple[Names, ...]:
    """Positions of the border have no name; a mask along each padded axis tells them apart."""
    shape, pads = call.args[0].shape, call.args[1]
    pairs = {d: pads[2 * i : 2 * i + 2] for i, d in enumerate(reversed(dims))}
    touched = [d for d, pair in pairs.items() if any(pair)]
    used = [n for pair in pairs.values() for n in (pair if any(pair) else (0, 0))]

    def pad(ids: Tensor) -> Tensor:
        if not any(ids.shape[d] > 1 for d in touched):
            return ids  # a name that does not vary there is no less true of the border
        padded = torch.constant_pad_nd(_spelled(ids, shape, touched), used, 0)
        return _border_of_atoms(call, padded, touched)

    (names,) = moved(call, pad)
    fields = list(names.fields)
    for d in touched:
        border = torch.constant_pad_nd(torch.full((shape[d],), -1, dtype=torch.int32), pairs[d], 0)
        add_field(fields, Field(border.reshape([-1 if a == d else 1 for a in range(len(shape))])))
    names = replace(names, fields=tuple(fields), known=None)
    return _affine_pad(call, (names,)) if call.arg(2, "value", 0) else (names,)


def _border_of_atoms(call: Call, ids: Tensor, touched: Sequence[int]) -> Tensor:
    """In a run on sizes, the border of one padded axis follows whatever it meets."""
    for f in call.ledger.named_axes(ids.shape, touched) if len(touched) == 1 else ():
        return torch.where((ids == 0) & (ids.amax() > 0), f.ids, ids)
    return ids


def _affine_pad(call: Call, names: tuple[Names, ...]) -> tuple[Names, ...]:
    """A border that is not zero is no multiple of the parameter."""
    return tuple(replace(n, fields=tuple(plain(call.ledger, n.fields))) for n in names)


@rule("as_strided", "as_strided_", reads=False)
def restrided(call: Call) -> tuple[Names, ...]:
    """Other strides where an axis has one position only: no element moves (pools do this).

    Has no rule where an element would be another one.
    """
    shape, strides, offset = call.before or ((), (), 0)
    size, new = call.args[1], call.args[2]
    start = call.arg(3, "storage_offset")
    same = tuple(size) == shape and start in (None, offset)
    if not same or any(n > 1 and a != b for n, a, b in zip(shape, strides, new, strict=True)):
        return refused(call)
    return (call.names(0),)


@rule("squeeze", reads=False)
def squeeze(call: Call) -> tuple[Names, ...]:
    """Drop axes of size 1 (of the tensor, not of the ids)."""
    shape, dims = call.args[0].shape, call.arg(1, "dim")
    chosen = call.dims(dims, len(shape)) if dims is not None else range(len(shape))
    gone = {a for a in chosen if shape[a] == 1}
    keep = [a for a in range(len(shape)) if a not in gone]
    return moved(call, lambda ids: ids.reshape([ids.shape[a] for a in keep]))


@rule("im2col", reads=False)
def im2col(call: Call) -> tuple[Names, ...]:
    """Patches as columns: every position of the kernel is a channel of its own.

    Has no rule with padding: positions of the border would need a name of their own.
    """
    if any(call.args[3]):
        return refused(call)
    shape = call.args[0].shape

    def unfolded(ids: Tensor) -> Tensor:  # executed in float64, which holds int32 exactly
        full = _spelled(ids, shape, (-3, -2, -1)).to(torch.float64)
        return call.func(full, *call.args[1:], **call.kwargs).to(torch.int32)  # type: ignore[no-any-return]

    return moved(call, unfolded)


@rule("glu")
def glu(call: Call) -> Names:
    """The first half along `dim` times the sigmoid of the second: position by position."""
    x, shape = call.names(0), call.args[0].shape
    dim = int(call.arg(1, "dim", -1)) % len(shape)
    if shape[dim] == 2:  # each half is a single position, which no axis names any more
        reason = f"{call.ledger.op} combines single positions of it"
        return replace(x, fields=tuple(across(call, x, (dim,), reason=reason)))
    halves = [[canonical(h) for h in _spelled(f.ids, shape, [dim]).chunk(2, dim)] for f in x.fields]
    first = [f.with_ids(h[0]) for f, h in zip(x.fields, halves, strict=True)]
    second = [f.with_ids(h[1]) for f, h in zip(x.fields, halves, strict=True)]
    pairs = meet(call.ledger, first, second)
    return Names(blend(call.ledger, first, second, pairs), x.data)


@rule("copy_")
def copy(call: Call) -> Names:
    """What was there is lost; a copy is linear in what it copies, unless it rounds.

    Where a parameter or buffer is written to, `NamesMode` has old and new names meet.
    """
    source, ndim = call.names(1), call.out.ndim
    fields = tuple(align(f, ndim) for f in source.fields)
    if not (call.out.is_floating_point() or call.out.is_complex()):
        fields = tuple(plain(call.ledger, fields))
    return Names(fields, source.data)


@rule("expand", reads=False)
def expand(call: Call) -> tuple[Names, ...]:
    """New positions along an axis hold the same value: no name varies there."""
    extra = call.out.ndim - call.args[0].ndim
    return _with_new_axes(call, moved(call, lambda ids: ids[(None,) * extra]))


@rule("repeat", reads=False)
def repeat(call: Call) -> tuple[Names, ...]:
    """Tiles; an axis along which nothing varies stays as it is."""
    times = list(call.args[1])
    extra = len(times) - call.args[0].ndim

    def tile(ids: Tensor) -> Tensor:
        wide = ids[(None,) * extra]
        return wide.repeat([r if n > 1 else 1 for r, n in zip(times, wide.shape, strict=True)])

    return _with_new_axes(call, moved(call, tile))


def _with_new_axes(call: Call, names: tuple[Names, ...]) -> tuple[Names, ...]:
    """In a run on sizes, axes that had size 1 and now have another follow whatever they meet."""
    extra = call.out.ndim - call.args[0].ndim
    before = (*[1] * extra, *call.args[0].shape)
    new = [a for a, n in enumerate(call.out.shape) if before[a] == 1 and n > 1]
    fields = call.ledger.named_axes(call.out.shape, new)
    return tuple(replace(n, fields=(*n.fields, *fields)) for n in names)


@rule("tril", "triu")
def triangle(call: Call) -> Names:
    """A product with a mask that tells the last two axes apart."""
    x = call.names(0)
    mask = opaque(call.out.shape, (call.out.ndim - 2, call.out.ndim - 1))
    meet(call.ledger, x.fields, mask)
    fields = list(x.fields)
    for g in mask:
        add_field(fields, g)
    return replace(x, fields=tuple(fields), known=None)


def refused(call: Call) -> tuple[Names, ...]:
    """No rule: every neuron that touches the op is frozen, what comes out is opaque."""
    ledger = call.ledger
    sources = [call.lookup(t) for t in call.tensors()]
    reason = (
        f"there is no rule for {ledger.op}: rewrite the line with ops that have one, or add a rule "
        "(CONTRIBUTING.md)"
    )
    for names in sources:
        ledger.freeze_fields(names.fields, reason, "unknown")
        ledger.freeze(np.array(sorted(names.lone), np.int32), reason, "unknown")
    data = any(n.data for n in sources)
    return tuple(Names(opaque(o.shape), data) for o in call.outs)
