"""What an op works on besides neurons: numbers, and positions that never move.

Two runs on names of one program at two widths must agree in these, op by op. A hook that divides
by the number of channels, or inputs that a literal roll brings into another order, change no
neuron and no shape, and are seen here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.overrides import TorchFunctionMode

from fxplastic.identity import Field, Names
from fxplastic.rules.base import Call, flat_tensors
from fxplastic.rules.movement import MOVES
from fxplastic.rules.pointwise import is_pointwise

# Numbers that follow widths, and whose effect is checked elsewhere, by the place of the argument:
# shapes, bounds, groups. `None` stands for every number. What is not listed is part of the program.
_SIZES: dict[str, frozenset[int] | None] = {
    "as_strided": frozenset({1, 2}),
    "as_strided_": frozenset({1, 2}),
    **dict.fromkeys((*MOVES, "view", "_unsafe_view", "expand", "repeat", "squeeze", "im2col")),
    **dict.fromkeys(("zeros", "ones", "empty", "new_zeros", "new_ones", "new_empty")),
    "constant_pad_nd": frozenset({1}),
    "full": frozenset({0}),
    "new_full": frozenset({1}),
    "convolution": frozenset({8}),
    "native_group_norm": frozenset({3, 4, 5, 6}),
    "native_layer_norm": frozenset({1}),
}
# Functions that make tensors of numbers: on meta, no op shows which.
_MAKERS = frozenset(
    {torch.tensor, torch.as_tensor, torch.asarray, torch.from_numpy, torch.Tensor.new_tensor}
)


class Data(TorchFunctionMode):
    """Shows the numbers that tensors are made of to `tell`."""

    def __init__(self, tell: Callable[[object], None]) -> None:
        super().__init__()
        self.tell = tell

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func in _MAKERS:
            given = [*args, *(kwargs or {}).values()]
            given = [g.tolist() if isinstance(g, np.ndarray) else g for g in given]
            self.tell(" ".join(_said(g) for g in given if _is_plain(g)))
        return func(*args, **(kwargs or {}))


def of_call(call: Call, *, reads: bool) -> bytes:
    """A digest of the numbers and, where values are read, the fixed positions in a call."""
    skip = _SIZES.get(call.func.overloadpacket.__name__, frozenset())
    given = [] if skip is None else [a for i, a in enumerate(call.args) if i not in skip]
    given += [] if skip is None else call.kwargs.values()
    numbers = [_said(a) for a in given if _is_plain(a)]
    tensors = list(flat_tensors((*call.args, *call.kwargs.values())))
    numbers += [repr(t.tolist()) for t in tensors if not t.is_meta]
    if not reads:
        return _digest(numbers)
    operands = [call.lookup(t) for t in tensors]
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


def _said(value: Any) -> str:
    """Numbers as text, whatever kind of sequence they are in."""
    if isinstance(value, list | tuple):
        return f"({','.join(_said(v) for v in value)})"
    return repr(value)


def _is_plain(value: Any) -> bool:
    """Whether an argument is a number or a list of numbers."""
    if isinstance(value, list | tuple):
        return all(_is_plain(v) for v in value)
    return isinstance(value, int | float | complex) and not isinstance(value, Tensor)
