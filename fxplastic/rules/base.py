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

from fxplastic.identity import Field, Names, add_field, canonical, opaque_classes
from fxplastic.ledger import Ledger

Geometry = tuple[tuple[int, ...], tuple[int, ...], int]


def geometry(tensor: Tensor) -> Geometry:
    """Shape, strides and storage offset of a tensor."""
    return tuple(tensor.shape), tensor.stride(), int(tensor.storage_offset())


@dataclass(frozen=True, eq=False)
class Call:
    """One ATen call.

    Attributes:
        func: the overload.
        args, kwargs: as dispatched, on meta tensors.
        outs: the tensors among its results, in order.
        ledger: where to write.
        lookup: names of an input tensor.
        assign: give names to an input tensor that the op writes to without saying so.
        before: shape, strides and offset of the first argument, as they were before the call.
    """

    func: OpOverload
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    outs: tuple[Tensor, ...]
    ledger: Ledger
    lookup: Callable[[Tensor], Names]
    assign: Callable[[Tensor, Names], None]
    before: Geometry | None = None

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
        """Every tensor that the op reads, lists opened: not `out`, nor what is copied over."""
        named = (value for key, value in self.kwargs.items() if key != "out")
        first = 1 if self.func.overloadpacket.__name__ == "copy_" else 0
        return list(flat_tensors((*self.args[first:], *named)))

    def freeze_argument(self, value: object, role: str) -> None:
        """Freeze the neurons in an argument that decides in another way than by being computed on.

        Args:
            value: an argument of any kind; what is no tensor, or carries no neuron, passes.
            role: what the op uses it as, such as "an index".
        """
        for tensor in flat_tensors([value]):
            fields = self.lookup(tensor).fields
            self.ledger.freeze_fields(fields, f"{self.ledger.op} uses it as {role}", "law")

    def dims(self, value: int | Sequence[int] | None, ndim: int) -> tuple[int, ...]:
        """Axes as non-negative ints; all of them for ``None`` or an empty list."""
        if value is None or (not isinstance(value, int) and len(value) == 0):
            return tuple(range(ndim))
        chosen = (value,) if isinstance(value, int) else tuple(value)
        return tuple(sorted({int(d) % max(ndim, 1) for d in chosen}))


Rule = Callable[[Call], Names | tuple[Names, ...]]
RULES: dict[str, Rule] = {}
UNREAD: set[Rule] = set()
"""Rules of ops whose result does not depend on values: they move them, or look at sizes alone."""


def rule(*ops: str, reads: bool = True) -> Callable[[Rule], Rule]:
    """Register a rule for ATen ops, named ``"add"`` (all overloads) or ``"add.Tensor"``.

    With ``reads=False`` the op takes no part in what values become (movement, shapes): a neuron
    that stands alone passes through it, and is frozen only by the first op that reads it.
    """

    def register(function: Rule) -> Rule:
        for op in ops:
            if op in RULES:
                raise ValueError(f"two rules for aten.{op}")
            RULES[op] = function
        if not reads:
            UNREAD.add(function)
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
    remains of any other field is an opaque name on its other axes, which tells lines apart.
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
            # The largest name of a line is an atom wherever the line has one (padding has none).
            lead = f.ids.amax(inside, keepdim=True)
            index = torch.arange(int(torch.tensor([f.ids.shape[a] for a in inside]).prod()))
            shape = [n if a in inside else 1 for a, n in enumerate(f.ids.shape)]
            tags = index.reshape(shape).expand(f.ids.shape).numpy().astype("uint64")
            call.ledger.unite(f.array, lead.expand(f.ids.shape).numpy(), tags.ravel())
            add_field(kept, Field(canonical(lead)))
        elif f.neural:
            call.ledger.freeze(f.array, reason, kind)
        else:
            for g in opaque_classes(f.array, outside):
                add_field(kept, g)
    return kept
