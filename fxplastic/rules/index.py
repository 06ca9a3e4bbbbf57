"""Lookups: rows taken by an index."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fxplastic.identity import Field, Names, add_field, canonical, opaque
from fxplastic.rules.base import Call, rule
from fxplastic.rules.combine import plain
from fxplastic.rules.movement import moved


@rule("embedding")
def embedding(call: Call) -> Names:
    """``weight[index]``: features pass, the vocabulary is chosen by data."""
    table, index = call.names(0), call.names(1)
    call.freeze_argument(call.args[1], "an index")
    lead = call.out.ndim - 1
    fields = [f.laid_out(f.ids.reshape(*[1] * lead, -1)) for f in _features(call, table)]
    for g in opaque(call.out.shape, range(lead)):
        add_field(fields, g)
    return Names(tuple(fields), table.data or index.data)


def _features(call: Call, table: Names) -> list[Field]:
    """The fields of a table that a lookup of rows leaves alone."""
    for f in table.fields:
        if f.neural and 0 in f.axes:
            call.ledger.freeze(f.array, f"{call.ledger.op} looks rows up along it", "law")
    return [f for f in table.fields if 0 not in f.axes]


@rule("_embedding_bag")
def embedding_bag(call: Call) -> tuple[Names, ...]:
    """Sums, means or maxima of rows: features pass, the vocabulary is chosen by data."""
    call.freeze_argument([*call.args[1:], *call.kwargs.values()], "an index or a weight")
    fields = plain(call.ledger, _features(call, call.names(0)))
    for g in opaque(call.outs[0].shape, (0,)):
        add_field(fields, g)
    result = Names(tuple(fields), True)  # of each maximum, one index a feature
    rest = (result if o.ndim == 2 else Names(opaque(o.shape), True) for o in call.outs[1:])
    return (result, *rest)


@rule("index", reads=False)
def index(call: Call) -> tuple[Names, ...]:
    """``x[i, j]`` with tensor indices. With known values it is movement.

    Denies: neurons along an axis that is indexed by values which are not known, or by the same
    value twice; neurons in the index itself.
    """
    return _indexed(call, list(call.args[1]))


@rule("index_select", reads=False)
def index_select(call: Call) -> tuple[Names, ...]:
    """Rows along `dim`, by known values or not at all."""
    dim = int(call.args[1]) % call.args[0].ndim
    return _indexed(call, [*[None] * dim, call.args[2]])


def _indexed(call: Call, indices: Sequence[Tensor | None]) -> tuple[Names, ...]:
    known = [None if t is None else call.lookup(t).known for t in indices]
    if any(k is None for k, t in zip(known, indices, strict=True) if t is not None):
        return (_unknown_index(call, call.names(0), indices),)
    if any(k is not None and np.unique(k.numpy()).size < k.numel() for k in known):
        _freeze_repeated(call, call.names(0), [i for i, k in enumerate(known) if k is not None])
    shape = call.args[0].shape
    return moved(call, lambda ids: _take(ids, shape, known), lambda values: values[_slots(known)])


def _freeze_repeated(call: Call, x: Names, used: Sequence[int]) -> None:
    """A table whose rows are looked up more than once mixes places: its rows stay."""
    reason = f"{call.ledger.op} looks its rows up more than once"
    for f in x.fields:
        if set(f.axes).intersection(used):
            call.ledger.freeze_fields([f], reason, "law")


def _slots(indices: Sequence[Tensor | None]) -> tuple[Tensor | slice, ...]:
    return tuple(slice(None) if t is None else t for t in indices)


def _take(ids: Tensor, shape: Sequence[int], indices: Sequence[Tensor | None]) -> Tensor:
    """Index the ids, without spelling out axes along which they do not vary."""
    used = [i for i, t in enumerate(indices) if t is not None]
    if not any(ids.shape[a] > 1 for a in used):
        ones = [None if t is None else torch.zeros([1] * t.ndim, dtype=torch.long) for t in indices]
        return ids[_slots(ones)]
    sizes = [shape[a] if a in used else ids.shape[a] for a in range(len(shape))]
    return ids.expand(sizes)[_slots(indices)]


def _unknown_index(call: Call, x: Names, indices: Sequence[Tensor | None]) -> Names:
    used = [i for i, t in enumerate(indices) if t is not None]
    call.freeze_argument([t for t in indices if t is not None], "an index")
    reason = f"{call.ledger.op} looks it up by values that are not known"
    call.ledger.freeze(np.array(sorted(x.lone), np.int32), reason, "law")
    fields: list[Field] = []
    for f in plain(call.ledger, x.fields):
        ids = None if set(f.axes).intersection(used) else _take(f.ids, call.args[0].shape, indices)
        if ids is None or ids.ndim != call.out.ndim:  # a mask changes the number of axes
            call.ledger.freeze_fields([f], reason, "law")
        else:
            add_field(fields, Field(canonical(ids)))
    data = x.data or any(call.lookup(t).data for t in indices if t is not None)
    free = {a for f in fields if f.neural for a in f.axes}
    for g in opaque(call.out.shape, [a for a in range(call.out.ndim) if a not in free]):
        add_field(fields, g)
    return Names(tuple(fields), data)
