"""Tensors end to end: `cat` and `stack`."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch

from fxplastic.identity import Field, Names, add_field, canonical, determines
from fxplastic.rules.base import Call, rule
from fxplastic.rules.combine import meet


@rule("cat", "stack")
def cat(call: Call) -> Names:
    """Operands end to end. Along the other axes they meet: the same position is one neuron."""
    tensors = list(call.args[0])
    dim, names = int(call.arg(1, "dim", 0)), [call.lookup(t) for t in tensors]
    if call.func.overloadpacket.__name__ == "stack":
        dim %= call.out.ndim
        names = [_unsqueezed(n, dim) for n in names]
        lengths = [1] * len(names)
    else:
        keep = [i for i, t in enumerate(tensors) if t.ndim == call.out.ndim]
        names, tensors = [names[i] for i in keep], [tensors[i] for i in keep]
        dim %= call.out.ndim
        lengths = [t.shape[dim] for t in tensors]
    _meet_across(call, names, dim)
    fields: list[Field] = []
    for neural in (True, False):
        columns = [[f for f in n.fields if f.neural == neural] for n in names]
        for column in _aligned(columns, dim):
            add_field(fields, _joined(call, column, lengths, dim))
    add_field(fields, _operand_index(call.out.shape, lengths, dim))
    return Names(tuple(fields), any(n.data for n in names))


def _unsqueezed(names: Names, dim: int) -> Names:
    return Names(tuple(f.laid_out(f.ids.unsqueeze(dim)) for f in names.fields), names.data)


def _meet_across(call: Call, names: Sequence[Names], dim: int) -> None:
    """Fields that do not vary along `dim` have to agree in all operands."""
    still = [[f for f in n.fields if dim not in f.axes] for n in names]
    for a, b in pairwise(still):
        meet(call.ledger, a, b)


def _aligned(columns: Sequence[Sequence[Field]], dim: int) -> list[list[Field | None]]:
    """One field of each operand at a time: those on the same axes go together."""
    pools = [list(c) for c in columns]
    rows: list[list[Field | None]] = []
    while any(pools):
        lead = next(p for p in pools if p)[0]
        key = (dim in lead.axes, tuple(a for a in lead.axes if a != dim))
        row: list[Field | None] = []
        for pool in pools:
            match = next(
                (f for f in pool if (dim in f.axes, tuple(a for a in f.axes if a != dim)) == key),
                None,
            )
            row.append(match)
            if match is not None:
                pool.remove(match)
        rows.append(row)
    return rows


def _joined(call: Call, column: Sequence[Field | None], lengths: Sequence[int], dim: int) -> Field:
    """One field over the joined axis; an operand without one has no name there."""
    present = [f for f in column if f is not None]
    carriers = _common(call, column)
    first = present[0]
    shared = dim not in first.axes and len(present) == len(column)
    if shared and all(determines(first.array, f.array) for f in present):
        return Field(first.ids, carriers)
    ndim = first.ids.ndim
    sizes = [max(f.ids.shape[a] for f in present) for a in range(ndim)]
    parts = []
    for f, n in zip(column, lengths, strict=True):
        shape = [n if a == dim else sizes[a] for a in range(ndim)]
        parts.append(
            (torch.zeros([1] * ndim, dtype=torch.int32) if f is None else f.ids).expand(shape)
        )
    return Field(canonical(torch.cat(parts, dim)), carriers)


def _common(call: Call, column: Sequence[Field | None]) -> frozenset[int] | None:
    """The whole is linear only where every part is."""
    carriers = [f.carriers for f in column if f is not None]
    if all(c is not None for c in carriers):
        return frozenset().union(*(c for c in carriers if c is not None))
    for c in carriers:
        call.ledger.release(c)
    return None


def _operand_index(shape: Sequence[int], lengths: Sequence[int], dim: int) -> Field:
    """Which operand a position comes from: two constants side by side are not one constant."""
    index = torch.arange(1, len(lengths) + 1).repeat_interleave(torch.tensor(lengths))
    size = [-1 if a == dim else 1 for a in range(len(shape))]
    return Field(canonical(-index.to(torch.int32).reshape(size)))
