"""Discovery: run both graphs once on names, and read the channel groups off the ledger.

The graphs are executed on meta tensors under a dispatch mode, so that whatever a module does
arrives as ATen calls, each tied to its FX node and the user's source line. No activation and no
weight is touched.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

from fxplastic.errors import DiscoverError, FxPlasticError
from fxplastic.groups import ChannelGroup, FrozenAxis
from fxplastic.identity import Field, Names, add_field, opaque, same_names
from fxplastic.ledger import Ledger, Mark, Place
from fxplastic.partition import partition
from fxplastic.rules import UNREAD, Call, find, refused
from fxplastic.rules.base import flat_tensors
from fxplastic.rules.combine import meet, merge
from fxplastic.trace import Traced, on_meta


@dataclass(frozen=True)
class Discovery:
    """What discovery found."""

    groups: Mapping[str, ChannelGroup]
    frozen: tuple[FrozenAxis, ...]


LOST = "takes it in, and the rule for it does not say what becomes of it: please report this"


class NamesMode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Executes ATen calls on meta tensors and their names beside them."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.ledger = ledger
        self._names: Any = torch.utils.weak.WeakIdKeyDictionary()
        self._seeded: set[int] = set()
        self._views: dict[int, list[weakref.ref[Tensor]]] = {}

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        outs = tuple(flat_tensors([result]))
        self.ledger.op = str(func)
        call = Call(func, args, kwargs, outs, self.ledger, self.names)
        if not outs:
            self._without_result(call)
            return result
        rule = find(func)
        if rule not in UNREAD:
            self._freeze_lone(call.tensors())
        mark = self.ledger.mark()
        named = rule(call)
        named = (named,) if isinstance(named, Names) else named
        if rule not in UNREAD:
            self._account(call, named, mark)
        written = set(map(id, flat_tensors((*args, *kwargs.values()))))
        for out, names in zip(outs, named, strict=True):
            self._write(out, names, in_place=func._schema.is_mutable and id(out) in written)
        return result

    def _without_result(self, call: Call) -> None:
        """An op that gives no tensor may write to those that it is given; assertions do not."""
        if not call.func.overloadpacket.__name__.startswith("_assert"):
            refused(call)
            for tensor in call.tensors():
                self._write(tensor, Names(opaque(tensor.shape), data=True), in_place=True)

    def _account(self, call: Call, named: Sequence[Names], mark: Mark) -> None:
        """Freeze the neurons that a rule lost: no result names them, and nothing was said of them.

        No rule should do so; this is what stands between a mistake in one and a wrong model.
        """
        # An index beside the result, of fewer axes (`_embedding_bag`), depends on other indices alone.
        told = [
            n
            for out, n in zip(call.outs, named, strict=True)
            if out.numel() and (out.is_floating_point() or out.ndim >= call.out.ndim)
        ]
        gone = [
            f.array
            for t in call.tensors()
            for f in self.names(t).fields
            if f.neural and not all(any(g.ids is f.ids for g in n.fields) for n in told)
        ]
        if not gone:
            return
        kept = [{int(i) for g in n.fields for i in np.unique(g.array)} for n in told]
        lost = {int(i) for ids in gone for i in np.unique(ids[ids > 0])}
        lost -= set.intersection(*kept) | self.ledger.fixed | self.ledger.since(mark)
        self.ledger.freeze(np.array(sorted(lost), np.int32), f"{self.ledger.op} {LOST}", "unknown")

    def _freeze_lone(self, tensors: Iterable[Tensor]) -> None:
        """A neuron whose name no axis carries any more takes part in what is computed here."""
        alone = set().union(*(self.names(t).lone for t in tensors))
        reason = f"{self.ledger.op} uses this neuron alone, beside the others of its axis"
        self.ledger.freeze(np.array(sorted(alone), np.int32), reason, "law")

    def names(self, tensor: Tensor) -> Names:
        """Names of a tensor; one that nothing is known of is opaque."""
        found = self._names.get(tensor)
        return found if found is not None else Names(opaque(tensor.shape))

    def seed(self, tensor: Tensor, names: Names) -> None:
        """Attach names to a parameter or buffer, which outlives the run."""
        self._seeded.add(id(tensor))
        self.give(tensor, names)

    def give(self, tensor: Tensor, names: Names) -> None:
        """Attach names to a tensor."""
        self._names[tensor] = names
        refs = self._views.setdefault(tensor.untyped_storage()._cdata, [])
        refs.append(weakref.ref(tensor))

    def _write(self, out: Tensor, names: Names, *, in_place: bool) -> None:
        """Attach names to an output; a write into memory that others see must not rename it."""
        if in_place:
            before = self.names(out)
            if id(out) in self._seeded:  # what a buffer holds next time is what is written now
                pairs = meet(self.ledger, before.fields, names.fields)
                fields = merge(self.ledger, before.fields, names.fields, pairs, "none")
                names = Names(fields, names.data)
            others = []
            for t in self._sharing(out):
                if t is not out and _same_geometry(t, out):
                    self.give(t, names)  # another handle on the very same elements
                elif t is not out:
                    others.append(t)
            if others:
                names = self._overwrite(before, names, others, out)
        self.give(out, self._settled(out, names))

    def _settled(self, out: Tensor, names: Names) -> Names:
        """Atoms that can never move again are opaque from here on: fewer names to compare."""
        fixed = self.ledger.fixed
        kept: list[Field] = []
        lost: set[int] = set()
        for f in names.fields:
            atoms = np.unique(f.array[f.array > 0]).tolist() if fixed and f.neural else []
            if atoms and fixed.issuperset(atoms):
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


class NamesInterpreter(fx.Interpreter):
    """Runs a traced graph under a `NamesMode` and keeps the ledger's place up to date."""

    def __init__(self, model: nn.Module, graph: fx.Graph, mode: NamesMode, traced: Traced) -> None:
        super().__init__(model, graph=graph)
        self.mode = mode
        self.traced = traced

    def run_node(self, n: fx.Node) -> Any:
        """Run one node; errors name it and its source line."""
        source = str(n.meta.get("source", ""))
        self.mode.ledger.place = Place(n.name, source)
        try:
            return super().run_node(n)
        except FxPlasticError:
            raise
        except Exception as error:
            raise DiscoverError(
                f"{n.format_node()} ({source or 'source unknown'}) cannot run on meta tensors: "
                f"{error}. Give the op a meta implementation, or keep it out of the traced part."
            ) from error

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:  # noqa: ARG002
        """Parameters and buffers are on meta by now; other tensors go there as constants."""
        value = (
            self.traced.constants[target]
            if target in self.traced.constants
            else self.fetch_attr(target)
        )
        return self._constant(value)

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Tensors that the graph makes on a device are made on meta."""
        with torch.device("meta"):
            return super().call_function(target, _on_meta(args), _on_meta(kwargs))

    def call_method(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Moves to a device stay on meta."""
        return super().call_method(target, _on_meta(args), _on_meta(kwargs))

    def _constant(self, value: Any) -> Any:
        if not isinstance(value, Tensor) or value.device.type == "meta":
            return value
        meta = value.detach().to("meta")
        self.mode.give(meta, Names(opaque(meta.shape), known=_index_values(value)))
        return meta

    def output(self, target: Any, args: Any, kwargs: Any) -> Any:
        """What the model returns is fixed, on every axis."""
        reason = "it is an output of the model: whoever calls it relies on its width"
        ledger = self.mode.ledger
        for tensor in flat_tensors(_leaves(args)):
            names = self.mode.names(tensor)
            ledger.release_all(names.fields)
            ledger.freeze_fields(names.fields, reason, "edge")
            ledger.freeze(np.array(sorted(names.lone), np.int32), reason, "edge")
        return super().output(target, args, kwargs)


def _on_meta(values: Any) -> Any:
    meta = torch.device("meta")
    return torch.utils._pytree.tree_map(
        lambda v: meta if isinstance(v, torch.device) else v, values
    )


def _leaves(value: Any) -> list[Any]:
    leaves: list[Any] = torch.utils._pytree.tree_leaves(value)
    return leaves


def _index_values(value: Tensor) -> Tensor | None:
    is_index = (
        not value.is_floating_point() and not value.is_complex() and value.dtype != torch.bool
    )
    return value.detach().cpu() if is_index and value.device.type != "meta" else None


def _seed(model: nn.Module, ledger: Ledger) -> dict[str, list[Field]]:
    """A site for every axis of every parameter and buffer, tied tensors once."""
    seeded: dict[str, list[Field]] = {}
    tensors = [*model.named_parameters(), *model.named_buffers()]
    for name, tensor in tensors:
        fields = []
        for axis, length in enumerate(tensor.shape):
            if length > 1 and (tensor.is_floating_point() or tensor.is_complex()):
                number = ledger.new_site(name, axis, length)
                size = [length if a == axis else 1 for a in range(tensor.ndim)]
                ids = ledger.atoms(number).reshape(size)
                fields.append(Field(ids, frozenset({number})))
        seeded[name] = fields
    return seeded


@contextmanager
def _named(
    model: nn.Module, mode: NamesMode, seeded: Mapping[str, list[Field]], training: bool
) -> Iterator[None]:
    values = {name: _index_values(b) for name, b in model.named_buffers()}
    with on_meta(model, training):
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            if tensor.is_floating_point() or tensor.is_complex():
                names = Names(tuple(seeded[name]))
            else:
                names = Names(opaque(tensor.shape), known=values.get(name))
            mode.seed(tensor, names)
        yield


def run_on_names(model: nn.Module, traced: Traced, ledger: Ledger) -> None:
    """Fill `ledger` from both modes' graphs."""
    seeded = _seed(model, ledger)
    for training, graph in traced.graphs.items():
        ledger.training = training
        mode = NamesMode(ledger)
        fastpath = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            with _named(model, mode, seeded, training), torch.no_grad():
                inputs = _inputs(graph, traced)
                for tensor in flat_tensors(_leaves(inputs)):
                    mode.give(tensor, Names(opaque(tensor.shape), data=True))
                with mode:
                    NamesInterpreter(model, graph, mode, traced).run(*inputs)
        finally:
            torch.backends.mha.set_fastpath_enabled(fastpath)


def _inputs(graph: fx.Graph, traced: Traced) -> list[Any]:
    """Example values in the order of the placeholders."""
    given = list(traced.args)
    values = []
    for node in graph.nodes:
        if node.op != "placeholder":
            continue
        name = str(node.target)
        if name in traced.kwargs:
            values.append(traced.kwargs[name])
        elif given:
            values.append(given.pop(0))
        else:
            values.append(node.args[0] if node.args else None)
    return values


def discover(
    model: nn.Module,
    traced: Traced,
    *,
    attention: str | None = None,
    approximate: bool = False,
    freeze: tuple[str, ...] = (),
) -> Discovery:
    """Find the channel groups of `model`.

    Args:
        model: the module that was traced; it is left as it was.
        traced: its graphs.
        attention: ``None`` freezes every neuron that attention touches; ``"value"`` opens value
            channels inside their head.
        approximate: also return groups that a norm averages over, with ``exact=False``.
        freeze: glob patterns of parameter names to leave alone.

    Raises:
        DiscoverError: a node cannot run on meta tensors.
    """
    ledger = Ledger()
    run_on_names(model, traced, ledger)
    groups, frozen = partition(
        model, ledger, open_attention=attention == "value", approximate=approximate, freeze=freeze
    )
    return Discovery(groups, frozen)
