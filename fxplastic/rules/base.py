"""What a rule is, and the table of rules.

A rule is a function from a `Call` (one ATen call, executed on meta tensors) to the `Names` of its
tensor outputs. It states what it may assume, writes unions, contexts, roles and refusals to the
call's ledger, and is registered for the names of the ops it covers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

from fxplastic.identity import Field, Names, add_field, opaque
from fxplastic.ledger import Ledger


@dataclass(frozen=True, eq=False)
class Call:
    """One ATen call.

    Attributes:
        func: the overload.
        args, kwargs: as dispatched, on meta tensors.
        outs: the tensors among its results, in order.
        ledger: where to write.
        lookup: names of an input tensor.
    """

    func: OpOverload
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    outs: tuple[Tensor, ...]
    ledger: Ledger
    lookup: Callable[[Tensor], Names]

    @property
    def out(self) -> Tensor:
        """The first tensor output."""
        return self.outs[0]

    def arg(self, index: int, name: str, default: Any = None) -> Any:
        """An argument by position or by name."""
        if len(self.args) > index:
            return self.args[index]
        return self.kwargs.get(name, default)

    def names(self, index: int) -> Names:
        """Names of the tensor at position `index`."""
        return self.lookup(self.args[index])

    def tensors(self) -> list[Tensor]:
        """Every tensor among the arguments, lists opened."""
        return list(flat_tensors((*self.args, *self.kwargs.values())))

    def dims(self, value: int | Sequence[int] | None, ndim: int) -> tuple[int, ...]:
        """Axes as non-negative ints; all of them for ``None`` or an empty list."""
        if value is None or (not isinstance(value, int) and len(value) == 0):
            return tuple(range(ndim))
        chosen = (value,) if isinstance(value, int) else tuple(value)
        return tuple(sorted({int(d) % max(ndim, 1) for d in chosen}))


Rule = Callable[[Call], Names | tuple[Names, ...]]
RULES: dict[str, Rule] = {}


def rule(*ops: str) -> Callable[[Rule], Rule]:
    """Register a rule for ATen ops, named ``"add"`` (all overloads) or ``"add.Tensor"``."""

    def register(function: Rule) -> Rule:
        for op in ops:
            if op in RULES:
                raise ValueError(f"two rules for aten.{op}")
            RULES[op] = function
        return function

    return register


def flat_tensors(values: Iterable[Any]) -> Iterable[Tensor]:
    """Tensors in nested lists and tuples, in order."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from flat_tensors(value)


def across(
    call: Call, source: Names, dims: Sequence[int], *, reason: str, kind: str = "law"
) -> list[Field]:
    """Fields of `source` after something that mixes positions along `dims`, ids not yet resized.

    Fields that do not vary along `dims` pass. A neuron that varies along them alone is frozen. One
    that varies along other axes as well is united along `dims`: it becomes the whole line. What
    remains of any other field is an opaque name on its other axes.
    """
    kept: list[Field] = []
    for f in source.fields:
        inside = [a for a in f.axes if a in dims]
        outside = [a for a in f.axes if a not in dims]
        if not inside:
            add_field(kept, f)
            continue
        call.ledger.release(f.carriers)
        if f.neural and outside:
            first = f.ids
            for a in inside:
                first = first.narrow(a, 0, 1)
            index = torch.arange(int(torch.tensor([f.ids.shape[a] for a in inside]).prod()))
            shape = [n if a in inside else 1 for a, n in enumerate(f.ids.shape)]
            tags = index.reshape(shape).expand(f.ids.shape).numpy().astype("uint64")
            call.ledger.unite(f.array, first.expand(f.ids.shape).numpy(), tags.ravel())
            add_field(kept, Field(first))
        elif f.neural:
            call.ledger.freeze(f.array, reason, kind)
        else:
            for g in opaque(f.ids.shape, outside):
                add_field(kept, g)
    return kept
