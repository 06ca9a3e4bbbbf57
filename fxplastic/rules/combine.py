"""How the names of two operands meet: the one place where neurons are united or given context.

Both operands come with their fields laid out over common axes (size 1 where a field does not
vary), so that "the same position" means the same index.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import numpy as np
import torch

from fxplastic.identity import (
    Carriers,
    Field,
    add_field,
    classes,
    determines,
    opaque_axis,
    same_names,
)
from fxplastic.ledger import Hashes, Ledger, mix

Law = Literal["product", "quotient", "sum", "none"]
Pairs = list[tuple[int, int]]


def co_labels(ledger: Ledger, grid: set[int], others: Iterable[Field]) -> Hashes | None:
    """What else tells the positions of `grid` apart, as one hash per position.

    A field that varies outside the grid as well is replaced by its classes on the axes that it
    shares: two positions may be exchanged only if the field is the same on the whole line.
    """
    labels = []
    for g in others:
        shared = grid.intersection(g.axes)
        if not shared:
            continue
        ids = ledger.in_origin(g.array)
        labels.append(ids if grid.issuperset(g.axes) else classes(ids, shared))
    return mix(*labels) if labels else None


def plain(ledger: Ledger, fields: Iterable[Field]) -> list[Field]:
    """The fields of something that is linear in no parameter: parameters in it are used as is."""
    kept = []
    for f in fields:
        ledger.release(f.carriers)
        kept.append(f.with_carriers(None))
    return kept


def note_use(ledger: Ledger, f: Field, others: Iterable[Field]) -> None:
    """Record that the neurons of `f` are taken up here, and what tells their positions apart.

    Without it, two neurons of which one is taken up here and the other is not would look alike.
    """
    labels = co_labels(ledger, set(f.axes), others)
    ledger.use(f.array, np.zeros(1, np.uint64) if labels is None else labels)


def meet(ledger: Ledger, a: Sequence[Field], b: Sequence[Field]) -> Pairs:
    """Unite or give context to every field of `a` with every field of `b` that shares an axis.

    Neuron fields on the same axes, or one on a part of the other's, are one neuron. In every
    other overlap each side rides with the other: it may move only where the other's name stays.
    """
    if same_names(a, b):
        return [(i, i) for i, f in enumerate(a) if f.neural]
    pairs: Pairs = []
    for i, f in enumerate(a):
        for j, g in enumerate(b):
            if f.neural and g.neural and _nested(f, g):
                rest = [x for x in (*a, *b) if x is not f and x is not g]
                tags = co_labels(ledger, set(f.axes) | set(g.axes), rest)
                if tags is None and f.ids.shape == g.ids.shape and f.whole and g.whole:
                    ledger.unite_whole(f, g)
                else:
                    full = None if tags is None else _spread(tags, f, g)
                    ledger.unite(f.array, g.array, full)
                pairs.append((i, j))
    _ride(ledger, a, b, {i for i, _ in pairs})
    _ride(ledger, b, a, {j for _, j in pairs})
    return pairs


def _nested(f: Field, g: Field) -> bool:
    x, y = set(f.axes), set(g.axes)
    return bool(x & y) and (x <= y or y <= x)


def _spread(tags: Hashes, f: Field, g: Field) -> Hashes:
    shape = np.broadcast_shapes(f.array.shape, g.array.shape)
    return np.broadcast_to(tags, shape)


def _ride(ledger: Ledger, a: Sequence[Field], b: Sequence[Field], united: set[int]) -> None:
    for i, f in enumerate(a):
        if i in united or not f.neural:
            continue
        axes = set(f.axes)
        if any(axes.intersection(g.axes) for g in b):
            tags = co_labels(ledger, axes, [x for x in (*a, *b) if x is not f])
            if tags is not None:
                ledger.context(f.array, tags)


def merge(
    ledger: Ledger, a: Sequence[Field], b: Sequence[Field], pairs: Pairs, law: Law
) -> tuple[Field, ...]:
    """The fields of a position-by-position result, with what it is still linear in."""
    joint, alone_a, alone_b = _LAWS[law]
    result: list[Field] = []
    taken: set[int] = set()
    for i, f in enumerate(a):
        mates = [j for k, j in pairs if k == i]
        if not mates:
            add_field(result, f.with_carriers(alone_a(ledger, f.carriers)))
            continue
        kept = f
        for j in mates:
            kept = _keep(ledger, kept, b[j], joint)
        taken.update(mates)
        add_field(result, kept)
    for j, g in enumerate(b):
        if j not in taken:
            add_field(result, g.with_carriers(alone_b(ledger, g.carriers)))
    return tuple(result)


def blend(
    ledger: Ledger, a: Sequence[Field], b: Sequence[Field], pairs: Pairs
) -> tuple[Field, ...]:
    """`merge` where the result is linear in nothing."""
    return merge(ledger, a, b, pairs, "none")


def _keep(ledger: Ledger, f: Field, g: Field, joint: _Joint) -> Field:
    """The finer one of two united fields; frozen where neither tells all positions apart.

    Where the finer one has no name (padding), the other's stands.
    """
    carriers = joint(ledger, f.carriers, g.carriers)
    for fine, coarse in ((f, g), (g, f)):
        if len(coarse.axes) <= len(fine.axes) and _tells(fine, coarse):
            bare = not fine.whole and bool(((fine.array == 0) & (coarse.array > 0)).any())
            if not bare:
                return fine.with_carriers(carriers)
            return Field(torch.where(fine.ids == 0, coarse.ids, fine.ids), carriers)
    reason = f"{ledger.op} combines its neurons with themselves, laid out in two ways"
    ledger.freeze_fields((f, g), reason, "law")
    return Field(opaque_axis((f.ids.numel(),), 0).ids.reshape(f.ids.shape))


def _tells(fine: Field, coarse: Field) -> bool:
    """Whether `fine` tells every two positions apart that `coarse` does."""
    if fine.distinct and fine.ids.shape == coarse.ids.shape:
        return True
    return determines(fine.array, coarse.array)


# ---------------------------------------------------------------- what stays linear in what
_Joint = Callable[[Ledger, Carriers, Carriers], Carriers]
_Alone = Callable[[Ledger, Carriers], Carriers]


def _drop(ledger: Ledger, x: Carriers) -> Carriers:
    ledger.release(x)
    return None


def _hold(ledger: Ledger, x: Carriers) -> Carriers:
    return x


def _drop_both(ledger: Ledger, x: Carriers, y: Carriers) -> Carriers:
    ledger.release(x)
    ledger.release(y)
    return None


def _one_factor(ledger: Ledger, x: Carriers, y: Carriers) -> Carriers:
    """Of a product one factor is scaled, the other is used as it is: a mask stays a mask."""
    if x is None:
        return y
    if y is not None and _untrained(ledger, x) and not _untrained(ledger, y):
        x, y = y, x
    ledger.release(y)
    return x


def _untrained(ledger: Ledger, x: frozenset[int]) -> bool:
    return all(ledger.sites[site].parameter in ledger.buffers for site in x)


def _numerator(ledger: Ledger, x: Carriers, y: Carriers) -> Carriers:
    ledger.release(y)
    return x


def _all_terms(ledger: Ledger, x: Carriers, y: Carriers) -> Carriers:
    """A sum scales only when every term does."""
    return x | y if x is not None and y is not None else _drop_both(ledger, x, y)


_LAWS: dict[Law, tuple[_Joint, _Alone, _Alone]] = {
    "product": (_one_factor, _hold, _hold),
    "quotient": (_numerator, _hold, _drop),
    "sum": (_all_terms, _drop, _drop),
    "none": (_drop_both, _drop, _drop),
}
