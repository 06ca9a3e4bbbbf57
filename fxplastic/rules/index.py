"""Lookups: rows taken by an index."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from fxplastic.identity import Field, Names, add_field, canonical, opaque
from fxplastic.rules.base import Call, rule


@rule("embedding")
def embedding(call: Call) -> Names:
    """``weight[index]``: features pass, the vocabulary is chosen by data."""
    table, index = call.names(0), call.names(1)
    lead = call.out.ndim - 1
    fields: list[Field] = []
    for f in table.fields:
        call.ledger.release(f.carriers)
        if 0 in f.axes:
            call.ledger.freeze(f.array, f"{call.ledger.op} looks rows up along it", "law")
        else:
            add_field(fields, Field(f.ids.reshape(*[1] * lead, -1)))
    for g in opaque(call.out.shape, range(lead)):
        add_field(fields, g)
    return Names(tuple(fields), table.data or index.data)


@rule("_embedding_bag")
def embedding_bag(call: Call) -> tuple[Names, ...]:
    """Sums, means or maxima of rows: features pass, the vocabulary is chosen by data."""
    table = call.names(0)
    fields: list[Field] = []
    for f in table.fields:
        call.ledger.release(f.carriers)
        if 0 in f.axes:
            call.ledger.freeze(f.array, f"{call.ledger.op} looks rows up along it", "law")
        else:
            add_field(fields, Field(f.ids))
    for g in opaque(call.outs[0].shape, (0,)):
        add_field(fields, g)
    rest = tuple(Names(opaque(o.shape), True) for o in call.outs[1:])
    return (Names(tuple(fields), True), *rest)


@rule("index", "_unsafe_index")
def index(call: Call) -> Names:
    """``x[i, j]`` with tensor indices. With known values it is movement.

    Denies: neurons along an axis that is indexed by values which are not known.
    """
    x, source = call.names(0), call.args[0]
    indices = list(call.args[1])
    known = [None if t is None else call.lookup(t).known for t in indices]
    if all(k is not None for k, t in zip(known, indices, strict=True) if t is not None):
        if any(k is not None and np.unique(k.numpy()).size < k.numel() for k in known):
            _freeze_repeated(call, x, [i for i, k in enumerate(known) if k is not None])
        moved = [f.with_ids(_take(f, source.shape, known)) for f in x.fields]
        table = None if x.known is None else x.known[_slots(known)]
        return Names(_nonempty(moved), x.data, table)
    return _unknown_index(call, x, indices)


def _freeze_repeated(call: Call, x: Names, used: Sequence[int]) -> None:
    """A table whose rows are looked up more than once mixes places: its rows stay."""
    reason = f"{call.ledger.op} looks its rows up more than once"
    for f in x.fields:
        if set(f.axes).intersection(used):
            call.ledger.freeze_fields([f], reason, "law")


def _slots(indices: Sequence[Tensor | None]) -> tuple[Tensor | slice, ...]:
    return tuple(slice(None) if t is None else t for t in indices)


def _take(f: Field, shape: Sequence[int], indices: Sequence[Tensor | None]) -> Tensor:
    """Index the ids, without spelling out axes along which they do not vary."""
    used = [i for i, t in enumerate(indices) if t is not None]
    sizes = [shape[a] if a in used else f.ids.shape[a] for a in range(len(shape))]
    if not any(f.ids.shape[a] > 1 for a in used):
        ones = [None if t is None else torch.zeros([1] * t.ndim, dtype=torch.long) for t in indices]
        return canonical(f.ids[_slots(ones)])
    return canonical(f.ids.expand(sizes)[_slots(indices)])


def _nonempty(fields: Sequence[Field]) -> tuple[Field, ...]:
    kept: list[Field] = []
    for f in fields:
        add_field(kept, f)
    return tuple(kept)


def _unknown_index(call: Call, x: Names, indices: Sequence[Tensor | None]) -> Names:
    used = [i for i, t in enumerate(indices) if t is not None]
    reason = f"{call.ledger.op} looks it up by values that are not known"
    kept: list[Field] = []
    for f in x.fields:
        call.ledger.release(f.carriers)
        if set(f.axes).intersection(used):
            call.ledger.freeze_fields([f], reason, "law")
        else:
            add_field(kept, Field(_take(f, call.args[0].shape, indices)))
    data = x.data or any(call.lookup(t).data for t in indices if t is not None)
    passed = [f for f in kept if f.ids.ndim == call.out.ndim]
    fields = list(passed)
    free = {a for f in passed if f.neural for a in f.axes}
    for g in opaque(call.out.shape, [a for a in range(call.out.ndim) if a not in free]):
        add_field(fields, g)
    return Names(tuple(fields), data)


@rule("index_select")
def index_select(call: Call) -> Names:
    """Rows along `dim`, by known values or not at all."""
    x, dim = call.names(0), int(call.args[1]) % call.args[0].ndim
    known = call.lookup(call.args[2]).known
    slots = [None] * dim + [call.args[2]]
    if known is None:
        return _unknown_index(call, x, slots)
    values = [None] * dim + [known]
    moved = [f.with_ids(_take(f, call.args[0].shape, values)) for f in x.fields]
    return replace(x, fields=_nonempty(moved), known=None)
