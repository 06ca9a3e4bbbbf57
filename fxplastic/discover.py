"""Discovery: run both graphs once on names, and read the channel groups off the ledger.

The graphs are executed on meta tensors under a dispatch mode, so that whatever a module does
arrives as ATen calls, each tied to its FX node and the user's source line. No activation and no
weight is touched.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from fxplastic.errors import DiscoverError, FxPlasticError
from fxplastic.groups import ChannelGroup, FrozenAxis
from fxplastic.guards import CHECKS
from fxplastic.identity import Field, Names, opaque
from fxplastic.ledger import Ledger, Place
from fxplastic.partition import partition
from fxplastic.propagate import NamesMode
from fxplastic.trace import Traced, on_meta


@dataclass(frozen=True)
class Discovery:
    """What discovery found."""

    groups: Mapping[str, ChannelGroup]
    frozen: tuple[FrozenAxis, ...]


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
        return self._constant(str(target), value)

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Tensors that the graph makes on a device are made on meta; guards have no part here."""
        if target in CHECKS:
            return None
        with torch.device("meta"):
            return super().call_function(target, _on_meta(args), _on_meta(kwargs))

    def call_method(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Moves to a device stay on meta."""
        return super().call_method(target, _on_meta(args), _on_meta(kwargs))

    def _constant(self, target: str, value: Any) -> Any:
        if not isinstance(value, Tensor) or value.device.type == "meta":
            return value
        meta = value.detach().to("meta")
        known = None if target in self.mode.ledger.stale else _index_values(value)
        self.mode.seed(meta, Names(opaque(meta.shape), known=known), target)
        return meta

    def output(self, target: Any, args: Any, kwargs: Any) -> Any:
        """What the model returns is fixed, on every axis."""
        reason = "it is an output of the model: whoever calls it relies on its width"
        ledger = self.mode.ledger
        for tensor in _tensors_in(args):
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


def _tensors_in(value: Any) -> Iterator[Tensor]:
    """Every tensor that can be reached from `value`: in containers, dataclasses, plain objects."""
    if isinstance(value, Tensor):
        yield value
        return
    if isinstance(value, Mapping):
        inner: Iterable[Any] = value.values()
    elif isinstance(value, list | tuple | set | frozenset):
        inner = value
    else:
        inner = getattr(value, "__dict__", {}).values() if not isinstance(value, type) else ()
    for item in inner:
        yield from _tensors_in(item)


def _index_values(value: Tensor) -> Tensor | None:
    is_index = value.ndim > 0 and not (  # single numbers are counters, and change
        value.is_floating_point() or value.is_complex() or value.dtype == torch.bool
    )
    return value.detach().cpu() if is_index and value.device.type != "meta" else None


def _seed(model: nn.Module, ledger: Ledger) -> dict[str, list[Field]]:
    """A site for every axis of every parameter and buffer, tied tensors once.

    A buffer that `state_dict` leaves out is a constant: a stock model that loads the weights has
    its own, in the order that its code gave it.
    """
    seeded: dict[str, list[Field]] = {}
    constants = {
        f"{path}.{name}" if path else name
        for path, module in model.named_modules()
        for name in module._non_persistent_buffers_set
    }
    tensors = [*model.named_parameters(), *model.named_buffers()]
    for name, tensor in tensors:
        fields = list(opaque(tensor.shape)) if name in constants else []
        for axis, length in enumerate(() if name in constants else tensor.shape):
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
    values = {
        name: _index_values(b) for name, b in model.named_buffers() if name not in mode.ledger.stale
    }
    with on_meta(model, training):
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            if tensor.is_floating_point() or tensor.is_complex():
                names = Names(tuple(seeded[name]))
            else:
                names = Names(opaque(tensor.shape), known=values.get(name))
            mode.seed(tensor, names, name)
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
                for tensor in _tensors_in(inputs):
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


def _ledger(model: nn.Module, traced: Traced) -> Ledger:
    """The record of both graphs; made again while values taken for known turn out to change."""
    stale: set[str] = set()
    while True:
        ledger = Ledger(stale=set(stale))
        run_on_names(model, traced, ledger)
        if ledger.stale == stale:
            return ledger
        stale = ledger.stale


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
    ledger = _ledger(model, traced)
    groups, frozen = partition(
        model, ledger, open_attention=attention == "value", approximate=approximate, freeze=freeze
    )
    return Discovery(groups, frozen)
