"""The dispatch mode that runs a program on names: each ATen call on meta tensors, and its rule.

What a rule must not have to think of is here: writes into memory that other tensors show, neurons
that stand alone, arguments that a rule does not look at.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch._ops import OpOverload

from fxplastic import witness
from fxplastic.atom_set import AtomSet
from fxplastic.identity import Field, Names, add_field, opaque, same_names
from fxplastic.ledger import Ledger, Mark
from fxplastic.memo import MetaMode, key_of, on_meta_tensors
from fxplastic.modes import Apart, place_of
from fxplastic.repeats import Repeats, Told, look
from fxplastic.rules import UNREAD, Call, find, refused
from fxplastic.rules.base import flat_tensors, geometry
from fxplastic.rules.combine import meet, merge

LOST = "takes it in, and the rule for it does not say what becomes of it: please report this"


class NamesMode(MetaMode):
    """Executes ATen calls on meta tensors and their names beside them."""

    def __init__(
        self, ledger: Ledger, repeats: Repeats | None = None, apart: Apart | None = None
    ) -> None:
        super().__init__()
        self.ledger, self.apart = ledger, apart
        self._told = (repeats or Repeats()).told
        self._names: Any = torch.utils.weak.WeakIdKeyDictionary()
        self._seeded: dict[int, Tensor] = {}  # kept alive, so that no id is used again
        self._known: dict[int, str] = {}
        self._witness: bytes | None = None  # of the last call that a rule was asked about
        self._views: dict[int, list[weakref.ref[Tensor]]] = {}

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        before = geometry(args[0]) if args and isinstance(args[0], Tensor) else None
        key = key_of(func, args, kwargs)
        result = on_meta_tensors(func, args, kwargs, key)
        outs = tuple(flat_tensors([result]))
        self.ledger.op = str(func)
        call = Call(func, args, kwargs, outs, self.ledger, self.names, self._assign, before)
        written = _written(call)
        if self.apart is not None:
            self.apart.see(flat_tensors((*args, *kwargs.values())), written)
        if not outs or any(all(t is not out for out in outs) for t in written):
            self._unknown_write(call, written)
            return result
        drawn = torch.Tag.nondeterministic_seeded in func.tags
        if key is not None and not written and not drawn:
            for out, names in zip(outs, self._tell_once(call, key), strict=True):
                self.give(out, names)
            return result
        for out, names in zip(outs, self._tell(call), strict=True):
            self._write(out, names, in_place=any(out is t for t in written))
        return result

    def _tell_once(self, call: Call, key: object) -> tuple[Names, ...]:
        """What the call's rule says, or has said when it was asked the same."""
        given = tuple(map(self.names, flat_tensors((*call.args, *call.kwargs.values()))))
        key = key, call.before, tuple(map(look, given))
        told = self._told.get(key)
        if told is not None:
            if told.witness is not None:
                self.ledger.bear_witness(told.witness)
            return told.named
        atoms, assigned = self.ledger.atom_count, []

        def assign(tensor: Tensor, names: Names) -> None:
            assigned.append(tensor)
            self._assign(tensor, names)

        named = self._tell(replace(call, assign=assign))
        named = tuple(
            self._settled(out, names) for out, names in zip(call.outs, named, strict=True)
        )
        if not assigned and self.ledger.atom_count == atoms:
            self._told[key] = Told(named, given, self._witness)
        return named

    def _tell(self, call: Call) -> tuple[Names, ...]:
        """What the call's rule says of its results."""
        rule = find(call.func)
        reads = rule not in UNREAD
        if reads:
            self._freeze_lone(call.tensors())
        self._witness = None
        if self.ledger.witness is not None:
            self._witness = witness.of_call(call, reads=reads)
            self.ledger.bear_witness(self._witness)
        mark = self.ledger.mark()
        named = rule(call)
        named = (named,) if isinstance(named, Names) else named
        if reads:
            self._account(call, named, mark)
        return named

    def _unknown_write(self, call: Call, written: Sequence[Tensor]) -> None:
        """An op that writes to what it does not return, or returns no tensor at all."""
        if not written and call.func.overloadpacket.__name__.startswith("_assert"):
            return
        for out, names in zip(call.outs, refused(call), strict=True):
            self._write(out, names, in_place=any(out is t for t in written))
        for tensor in written:
            self._write(tensor, Names(opaque(tensor.shape), data=True), in_place=True)

    def _account(self, call: Call, named: Sequence[Names], mark: Mark) -> None:
        """Freeze the neurons that a rule lost: no result names them, and nothing was said of them.

        No rule should do so; this is what stands between a mistake in one and a wrong model.
        """
        # An index of fewer axes beside the result (`_embedding_bag`) depends on indices alone.
        told = [
            n
            for out, n in zip(call.outs, named, strict=True)
            if out.numel() and (out.is_floating_point() or out.ndim >= call.out.ndim)
        ]
        gone = [
            f
            for t in call.tensors()
            for f in self.names(t).fields
            if f.neural and not all(any(g.root is f.root for g in n.fields) for n in told)
        ]
        if not gone:
            return
        lost = self.ledger.unaccounted(gone, mark)
        lost = lost[lost > 0]
        if not lost.size:
            return
        still = np.ones(lost.size, bool)
        for names in told:
            kept = AtomSet()
            for f in names.fields:
                kept.add(f.array)
            still &= kept.holds(lost)
        self.ledger.freeze(lost[~still], f"{self.ledger.op} {LOST}", "unknown")

    def _freeze_lone(self, tensors: Iterable[Tensor]) -> None:
        """A neuron whose name no axis carries any more takes part in what is computed here."""
        alone = set().union(*(self.names(t).lone for t in tensors))
        if not alone:
            return
        reason = f"{self.ledger.op} uses this neuron alone, beside the others of its axis"
        self.ledger.freeze(np.array(sorted(alone), np.int32), reason, "law")

    def names(self, tensor: Tensor) -> Names:
        """Names of a tensor; one that nothing is known of is opaque."""
        found = self._names.get(tensor)
        return found if found is not None else Names(opaque(tensor.shape))

    def seed(self, tensor: Tensor, names: Names, label: str) -> None:
        """Attach names to a parameter, buffer or constant, which outlives the run."""
        self._seeded[id(tensor)] = tensor
        if names.known is not None:
            self._known[id(tensor)] = label
        if self.apart is not None:
            self.apart.lasting.add(place_of(tensor))
        self.give(tensor, names)

    def give(self, tensor: Tensor, names: Names) -> None:
        """Attach names to a tensor."""
        self._names[tensor] = names
        refs = self._views.setdefault(tensor.untyped_storage()._cdata, [])
        refs.append(weakref.ref(tensor))

    def _assign(self, tensor: Tensor, names: Names) -> None:
        """A call writes to a tensor without saying so."""
        if self.apart is not None:
            self.apart.write(tensor)
        self.give(tensor, names)

    def _write(self, out: Tensor, names: Names, *, in_place: bool) -> None:
        """Attach names to an output; a write into memory that others see must not rename it."""
        if in_place:
            names = self._written_over(out, names)
        self.give(out, self._settled(out, names))

    def _written_over(self, out: Tensor, names: Names) -> Names:
        """What `out` is called after a write; other tensors on the same memory are told."""
        before = self.names(out)
        self._note_stale(out)
        sharing = self._sharing(out)
        same = [t for t in sharing if t is not out and _same_geometry(t, out)]
        for t in (out, *same):
            if id(t) in self._seeded:  # what a buffer holds next time is what is written now
                old = self.names(t).fields
                pairs = meet(self.ledger, old, names.fields)
                fields = merge(self.ledger, old, names.fields, pairs, "none")
                names = Names(fields, names.data)
        for t in same:
            self.give(t, names)  # another handle on the very same elements
        others = [t for t in sharing if t is not out and not _same_geometry(t, out)]
        return self._overwrite(before, names, others, out) if others else names

    def _note_stale(self, out: Tensor) -> None:
        """Values that were known of a buffer are none, once some call of the model writes to it."""
        for tensor in (out, *self._sharing(out)):
            name = self._known.get(id(tensor))
            if name is not None:
                self.ledger.stale.add(name)

    def _settled(self, out: Tensor, names: Names) -> Names:
        """Atoms that can never move again are opaque from here on: fewer names to compare."""
        fixed = self.ledger.fixed
        kept: list[Field] = []
        lost: set[int] = set()
        for f in names.fields:
            ids = f.array
            if not fixed.empty and f.neural and bool((fixed.holds(ids) | (ids <= 0)).all()):
                self.ledger.release(f.carriers)
                lost.update(f.axes)
            else:
                kept.append(f)
        if not lost:
            return names
        for g in opaque(out.shape, lost):
            add_field(kept, g)
        return replace(names, fields=tuple(kept))

    def _sharing(self, tensor: Tensor) -> list[Tensor]:
        refs = self._views.get(tensor.untyped_storage()._cdata, [])
        alive = [t for t in (r() for r in refs) if t is not None]
        return list({id(t): t for t in alive}.values())

    def _overwrite(self, before: Names, after: Names, others: list[Tensor], out: Tensor) -> Names:
        self.ledger.release_all((*before.fields, *after.fields))
        whole = all(t.numel() == out.numel() for t in others)
        if whole and same_names(before.fields, after.fields):
            return Names(tuple(Field(f.ids) for f in after.fields), after.data)
        reason = (
            f"{self.ledger.op} writes into memory that another tensor shows: build the result with "
            "torch.cat or an out-of-place op"
        )
        for t in others:
            self.ledger.freeze_fields(self.names(t).fields, reason, "unknown")
            self.give(t, Names(opaque(t.shape), True))
        self.ledger.freeze_fields((*before.fields, *after.fields), reason, "unknown")
        return Names(opaque(out.shape), True)


def _same_geometry(a: Tensor, b: Tensor) -> bool:
    same = a.shape == b.shape and a.stride() == b.stride()
    return bool(same and a.storage_offset() == b.storage_offset())


def _written(call: Call) -> list[Tensor]:
    """Tensors that the op's schema says it writes to."""
    return list(flat_tensors(call.arg(i, name) for i, name in _writable(call.func)))


@cache
def _writable(func: OpOverload) -> tuple[tuple[int, str], ...]:
    """Arguments that an op writes to, by position and name."""
    return tuple(
        (position, argument.name)
        for position, argument in enumerate(func._schema.arguments)
        if argument.alias_info is not None and argument.alias_info.is_write
    )
