"""What an op works on besides neurons: numbers, and positions that never move.

Two runs on names of one program at two widths must agree in these, op by op. A hook that divides
by the number of channels, or inputs that a literal roll brings into another order, change no
neuron and no shape, and are seen here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fxplastic.identity import Field, Names
from fxplastic.rules.base import Call, flat_tensors
from fxplastic.rules.pointwise import is_pointwise

# Arguments that are sizes, by op: they follow widths, and their shapes are checked elsewhere.
_SIZES = {
    "convolution": frozenset({8}),
    "native_group_norm": frozenset({3, 4, 5, 6}),
    "native_layer_norm": frozenset({1}),
}
# Ops that make or move values, with the argument that is a value of its own.
_FILLS = {
    "full": 1,
    "full_like": 1,
    "new_full": 2,
    "fill_": 1,
    "scalar_tensor": 0,
    "constant_pad_nd": 2,
}


def of_call(call: Call, *, reads: bool) -> bytes | None:
    """A digest of the numbers and the fixed positions that go into a call."""
    name = call.func.overloadpacket.__name__
    if not reads:
        return None if name not in _FILLS else _digest([repr(call.arg(_FILLS[name], "value"))])
    skip = _SIZES.get(name, frozenset())
    kept = [a for i, a in enumerate(call.args) if i not in skip]
    numbers = [repr(a) for a in (*kept, *call.kwargs.values()) if _is_plain(a)]
    operands = [call.lookup(t) for t in flat_tensors((*call.args, *call.kwargs.values()))]
    aligned = is_pointwise(call.func)  # only then is the same position the same place
    neural = [f for names in operands for f in names.fields if f.neural and aligned]
    return _digest([*numbers, *(of_names(names, neural) for names in operands)])


def of_names(names: Names, neural: Sequence[Field] = ()) -> str:
    """A digest of the fixed positions of a tensor, in their order, apart from neurons.

    Where any of the `neural` fields of the call (laid over it from the last axis on, as
    broadcasting does) has a neuron, a position is the neuron's and may move with it. Of equal
    names side by side one counts: they hold one value.
    """
    found = set()
    held = [*neural, *(f for f in names.fields if f.neural)]
    for f in (f for f in names.fields if not f.neural):
        alone = np.ones(f.array.shape, bool)
        for g in held:
            taken = _over(g, f)
            if taken is not None:
                alone = alone & ~taken
        left = f.array[alone]
        if len(f.axes) == 1 and left.size:
            left = left[np.concatenate([[True], left[1:] != left[:-1]])]
        if left.size:
            found.add(_digest([left.tobytes().hex()]).hex())
    return ",".join(sorted(found))


def _over(g: Field, f: Field) -> NDArray[np.bool_] | None:
    """Where `g` has a neuron, over the axes of `f`; `None` where they share no axis."""
    array: NDArray[np.bool_] = g.array > 0
    ndim = f.array.ndim
    if array.ndim > ndim:
        array = np.any(array, axis=tuple(range(array.ndim - ndim)))
    array = array.reshape((1,) * (ndim - array.ndim) + array.shape)
    others = tuple(a for a in range(ndim) if a not in f.axes)
    taken: NDArray[np.bool_] = np.any(array, axis=others, keepdims=True)
    same = all(m in (1, n) for m, n in zip(taken.shape, f.array.shape, strict=True))
    return taken if same and taken.size > 1 else None


def _digest(parts: Iterable[str]) -> bytes:
    return hashlib.blake2b("|".join(parts).encode(), digest_size=8).digest()


def _is_plain(value: Any) -> bool:
    """Whether an argument is a number or a list of numbers."""
    if isinstance(value, list | tuple):
        return all(_is_plain(v) for v in value)
    return isinstance(value, int | float | complex) and not isinstance(value, Tensor)
