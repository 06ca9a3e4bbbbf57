"""Identity fields: what each position of a tensor is called, instead of what it holds.

A tensor carries `Names`: a tuple of fields. A `Field` gives every position of the tensor an
integer, and is stored with size 1 on every axis along which it does not vary:

* ``> 0``: an *atom*, one position of one parameter axis (atoms that meet are one neuron);
* ``< 0``: an *opaque* position (a batch index, a token, a pixel, an input channel): something
  that no plan moves, told apart by its index along the axis;
* ``0``: nothing, a constant such as padding.

The one invariant: *the value at a position is a function of the tuple of its names*. An axis
along which no field varies holds the same value all along.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Ids = NDArray[np.int32]
Carriers = frozenset[int] | None


@dataclass(frozen=True, eq=False)
class Field:
    """One name per position, and which parameter sites the value is linear in along it.

    Attributes:
        ids: int32, as many axes as the tensor, size 1 where the field does not vary.
        carriers: sites such that scaling all of them by a neuron's share scales the tensor by
            that share; ``None`` once the value is no longer homogeneous of degree one.
    """

    ids: Tensor
    carriers: Carriers = None

    @cached_property
    def root(self) -> Tensor:
        """The ids that these are another layout of: the same atoms."""
        return self.ids

    @classmethod
    def of_site(cls, ids: Tensor, site: int) -> Field:
        """All atoms of a site, in their order."""
        field = cls(ids, frozenset({site}))
        field.__dict__.update(neural=True, whole=True, distinct=True)
        return field

    @cached_property
    def array(self) -> Ids:
        """The ids as a numpy array (no copy)."""
        result: Ids = self.ids.numpy()
        return result

    @cached_property
    def axes(self) -> tuple[int, ...]:
        """Axes along which the field varies."""
        return tuple(i for i, n in enumerate(self.ids.shape) if n != 1)

    @cached_property
    def neural(self) -> bool:
        """Whether any position is an atom of a parameter."""
        return bool((self.array > 0).any())

    @cached_property
    def whole(self) -> bool:
        """Whether every position is an atom of a parameter."""
        return bool((self.array > 0).all())

    @cached_property
    def distinct(self) -> bool:
        """Whether no two positions have the same name."""
        ids = self.array.ravel()
        if int(ids.max(initial=0)) - int(ids.min(initial=0)) + 1 < ids.size:
            return False  # there are not as many names
        if bool((np.diff(ids) < 0).all()):
            return True
        place = _places(ids)
        if place is None:
            return bool(np.unique(ids).size == ids.size)
        seen = np.zeros(int(place.max(initial=0)) + 1, bool)
        seen[place] = True
        return int(seen.sum()) == ids.size

    def with_ids(self, ids: Tensor) -> Field:
        """The same carriers over other positions."""
        return Field(ids, self.carriers) if ids is not self.ids else self

    def laid_out(self, ids: Tensor) -> Field:
        """The same names in another layout (reshaped, permuted); what is known of them is kept."""
        if ids is self.ids:
            return self
        twin = Field(ids, self.carriers)
        own = self.__dict__
        twin.__dict__.update({n: own[n] for n in ("neural", "whole", "distinct") if n in own})
        twin.__dict__["root"] = self.root
        return twin

    def with_carriers(self, carriers: Carriers) -> Field:
        """The same positions, linear in other sites; what is known of the ids is kept."""
        if carriers == self.carriers:
            return self
        twin = Field(self.ids, carriers)
        known = {k: v for k, v in self.__dict__.items() if k not in ("ids", "carriers")}
        twin.__dict__.update(known)
        return twin


def _places(ids: Ids) -> Ids | None:
    """Ids counted from 0, where a table that has them all is not much longer than they are."""
    if not ids.size:
        return ids
    low = int(ids.min())
    return ids - low if int(ids.max()) - low <= 8 * ids.size + 1024 else None


def each_once(ids: Ids) -> Ids:
    """The names in an array that is not empty, sorted, each once."""
    place = _places(ids)
    if place is None:
        return np.unique(ids)
    seen = np.zeros(int(place.max()) + 1, bool)
    seen[place] = True
    return (np.flatnonzero(seen) + int(ids.min())).astype(ids.dtype)


@dataclass(frozen=True, eq=False)
class Names:
    """All that is known of a tensor without its values.

    Attributes:
        fields: its identity fields.
        data: whether it depends on a model input (if not, it is made of parameters alone).
        known: the real values, on the CPU, of integer tensors that index others.
        lone: atoms that were taken out of their axis one at a time (``h[:, :1]``): no axis
            carries their name any more, so whatever reads the tensor freezes them.
    """

    fields: tuple[Field, ...] = ()
    data: bool = False
    known: Tensor | None = None
    lone: frozenset[int] = frozenset()


def opaque_axis(shape: Sequence[int], axis: int) -> Field:
    """A field that tells the positions along `axis` apart and never moves."""
    return _opaque_axis(len(shape), int(shape[axis]), axis)


@lru_cache(maxsize=1024)
def _opaque_axis(ndim: int, length: int, axis: int) -> Field:
    """One object for all tensors: what is known of it is found once."""
    size = [1] * ndim
    size[axis] = length
    ids = -torch.arange(1, length + 1, dtype=torch.int32, device="cpu").reshape(size)
    field = Field(ids)
    field.__dict__.update(neural=False, whole=False, distinct=True)
    return field


def opaque(shape: Sequence[int], axes: Iterable[int] | None = None) -> tuple[Field, ...]:
    """Opaque fields on `axes` (all by default) of a tensor of `shape`."""
    chosen = range(len(shape)) if axes is None else axes
    return tuple(opaque_axis(shape, a) for a in sorted(set(chosen)) if shape[a] > 1)


def classes(ids: Ids, axes: Iterable[int]) -> Ids:
    """Which positions along `axes` (jointly) have the same ids along all the other axes.

    Returns int32 with the size of `ids` on `axes` and 1 elsewhere; equal numbers, from 0, mean
    equal slices. It is the coarsest name on `axes` that, with the other axes' own, tells all that
    `ids` tells; a bare index would tell apart what `ids` does not.
    """
    kept = sorted(set(axes))
    order = [*kept, *(a for a in range(ids.ndim) if a not in kept)]
    shape = [n if a in kept else 1 for a, n in enumerate(ids.shape)]
    rows = np.ascontiguousarray(ids.transpose(order)).reshape(int(np.prod(shape)), -1)
    labels: dict[bytes, int] = {}
    found = [labels.setdefault(row.tobytes(), len(labels)) for row in rows]
    return np.array(found, np.int32).reshape(shape)


def opaque_classes(ids: Ids, axes: Iterable[int]) -> Iterable[Field]:
    """For each of `axes`, an opaque field with the classes of `ids` along it."""
    for axis in sorted(set(axes)):
        if ids.shape[axis] > 1:
            yield Field(canonical(torch.from_numpy(-1 - classes(ids, (axis,)))))


def canonical(ids: Tensor) -> Tensor:
    """`ids` with size 1 on every axis along which it does not vary."""
    for axis, stride in enumerate(ids.stride()):
        if stride == 0 and ids.shape[axis] > 1:
            ids = ids.narrow(axis, 0, 1)
    for axis in range(ids.ndim):
        if ids.shape[axis] > 1 and bool((ids == ids.narrow(axis, 0, 1)).all()):
            ids = ids.narrow(axis, 0, 1)
    return ids


_GLANCE = 4096


def determines(finer: Ids, coarser: Ids) -> bool:
    """Whether `finer` tells every two positions apart that `coarser` does (broadcast together)."""
    if finer is coarser:
        return True
    a, b = (x.ravel() for x in np.broadcast_arrays(finer, coarser))
    if a.size > 4 * _GLANCE and not determines(a[:_GLANCE], b[:_GLANCE]):
        return False  # most of what is wrong can be seen at once
    steps = np.diff(a)
    if a.size < 2 or bool((steps > 0).all()) or bool((steps < 0).all()):
        return True
    place = _places(a)
    if place is not None:  # one of the values beside each id, and whether the others are the same
        beside = np.empty(int(place.max()) + 1, b.dtype)
        beside[place] = b
        return bool((beside[place] == b).all())
    order = np.argsort(a, kind="stable")
    same = np.diff(a[order]) == 0
    return not bool((same & (np.diff(b[order]) != 0)).any())


MAX_OPAQUE = 8


def add_field(fields: list[Field], new: Field) -> None:
    """Append `new` unless it names nothing, or opaque fields say as much already."""
    if not new.axes:
        return
    if new.neural:
        fields.append(new)
        return
    told_apart = {f.axes[0] for f in fields if len(f.axes) == 1 and not f.neural and f.distinct}
    if told_apart.issuperset(new.axes):
        return
    same = [f for f in fields if f.axes == new.axes and f.ids.shape == new.ids.shape]
    if any(not f.neural and (f.ids is new.ids or determines(f.array, new.array)) for f in same):
        return
    fields.append(new)
    _collapse(fields)


def _collapse(fields: list[Field]) -> None:
    """Too many opaque fields become one per axis, and those that lie on several one index per axis.

    Fields along one axis alone become one that tells exactly what they tell together. An index is
    the finest of labels: it is never wrong, and tells apart what could have changed places.
    """
    loose = [f for f in fields if not f.neural]
    if len(loose) <= MAX_OPAQUE:
        return
    alone: dict[int, list[Field]] = {}
    for f in loose:
        if len(f.axes) == 1:
            alone.setdefault(f.axes[0], []).append(f)
    several = [f for f in loose if len(f.axes) > 1]
    joint = [_jointly(some) for some in alone.values()]
    if len(joint) + len(several) > MAX_OPAQUE:
        joint = list(opaque([max(f.ids.shape[a] for f in loose) for a in range(loose[0].ids.ndim)]))
        several = []
    fields[:] = [*(f for f in fields if f.neural), *several, *joint]


def _jointly(fields: Sequence[Field]) -> Field:
    """One opaque field that tells what several along one axis tell."""
    lines = np.stack([f.array.ravel() for f in fields])
    _, labels = np.unique(lines, axis=1, return_inverse=True)
    return Field(torch.from_numpy(-1 - labels.astype(np.int32)).reshape(fields[0].ids.shape))


def same_names(a: Sequence[Field], b: Sequence[Field]) -> bool:
    """Whether two tensors carry the same ids, field by field."""
    return len(a) == len(b) and all(
        f.ids is g.ids or (f.ids.shape == g.ids.shape and torch.equal(f.ids, g.ids))
        for f, g in zip(a, b, strict=True)
    )
