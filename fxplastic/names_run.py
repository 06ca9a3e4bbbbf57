"""Running both graphs of a model on names, into a ledger.

The graphs are executed on meta tensors under a dispatch mode, so that whatever a module does
arrives as ATen calls, each tied to its FX node and the user's source line. No activation and no
weight is touched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from fxplastic.identity import Field, Ids, Names, opaque
from fxplastic.interpret import (
    MetaInterpreter,
    example_values,
    plain_attention,
    source_of,
    tensors_in,
)
from fxplastic.ledger import Ledger, Place
from fxplastic.modes import Apart, ModesDiffer, asks_unseen, compare, same_plain, same_program
from fxplastic.propagate import NamesMode
from fxplastic.repeats import Repeats
from fxplastic.trace import Traced, on_meta
from fxplastic.witness import Data, of_names

Watch = Callable[[bool, fx.Node, Any, NamesMode], None]
"""Called after each node: training flag, node, what it gave, and the mode that knows the names."""


class NamesInterpreter(MetaInterpreter):
    """Runs a traced graph under a `NamesMode` and keeps the ledger's place up to date."""

    def __init__(
        self,
        model: nn.Module,
        graph: fx.Graph,
        traced: Traced,
        mode: NamesMode,
        watch: Watch | None = None,
    ) -> None:
        super().__init__(model, graph, traced)
        self.mode = mode
        self.watch = watch

    def run_node(self, n: fx.Node) -> Any:
        """Run one node, and show it to whoever watches."""
        self.mode.ledger.place = Place(n.name, source_of(n))
        result = self.execute(n)
        self.show(n, result, self.mode.ledger.training)
        return result

    def execute(self, n: fx.Node) -> Any:
        """What the node gives."""
        return super().run_node(n)

    def show(self, n: fx.Node, result: Any, training: bool) -> None:
        """Tell whoever watches."""
        if self.watch is not None:
            self.watch(training, n, result, self.mode)

    def constant(self, target: str, value: Tensor) -> Tensor:
        """Constants are opaque; the values of indices are known."""
        meta = super().constant(target, value)
        self.mode.seed(meta, self._constants(target, value), target)
        return meta

    def _constants(self, target: str, value: Tensor) -> Names:
        known = None if target in self.mode.ledger.stale else _index_values(value)
        return Names(opaque(value.shape), known=known)


class BothModes(NamesInterpreter):
    """One run for both modes, of graphs that are the same program (see `fxplastic.modes`)."""

    def execute(self, n: fx.Node) -> Any:
        """What the node gives in eval mode; in training, if that may be something else.

        Raises:
            ModesDiffer: it is something else.
        """
        apart: Any = self.mode.apart
        flag = apart.flag
        self.mode.ledger.training = flag.value = flag.read = apart.wrote = False
        quiet = super().execute(n)
        if flag.read:
            if apart.wrote:
                raise ModesDiffer
            return self._in_training(n, quiet, apart)
        self.mode.ledger.same_in_training()
        return quiet

    def _in_training(self, n: fx.Node, quiet: Any, apart: Apart) -> Any:
        self.mode.ledger.training = apart.flag.value = apart.training = True
        trained = super().execute(n)
        apart.training = False
        if not same_plain(quiet, trained):
            raise ModesDiffer
        given = list(tensors_in([self.env[a] for a in n.all_input_nodes]))
        results = list(tensors_in(quiet)), list(tensors_in(trained))
        compare(*results, given, apart, self.mode.names)
        return trained

    def show(self, n: fx.Node, result: Any, training: bool) -> None:
        """Both modes have been there."""
        super().show(n, result, training)
        super().show(n, result, not training)


def _fix_outputs(outputs: Any, mode: NamesMode) -> None:
    """What the model returns is fixed, on every axis."""
    reason = "it is an output of the model: whoever calls it relies on its width"
    ledger = mode.ledger
    for tensor in tensors_in(outputs):
        names = mode.names(tensor)
        ledger.bear_witness(of_names(names))
        ledger.release_all(names.fields)
        ledger.freeze_fields(names.fields, reason, "edge")
        ledger.freeze(np.array(sorted(names.lone), np.int32), reason, "edge")


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
    ledger.buffers = frozenset(name for name, _ in model.named_buffers())
    for name, tensor in tensors:
        fields = list(opaque(tensor.shape)) if name in constants else []
        for axis, length in enumerate(() if name in constants else tensor.shape):
            if length > 1 and (tensor.is_floating_point() or tensor.is_complex()):
                number = ledger.new_site(name, axis, length)
                size = [length if a == axis else 1 for a in range(tensor.ndim)]
                fields.append(Field.of_site(ledger.atoms(number).reshape(size), number))
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


def run_on_names(
    model: nn.Module,
    traced: Traced,
    ledger: Ledger,
    watch: Watch | None = None,
    *,
    together: bool = False,
) -> None:
    """Fill `ledger` from both modes' graphs, in one run for both if `together`.

    Raises:
        ModesDiffer: one run cannot stand for both; the ledger is of no use then.
    """
    seeded, repeats = _seed(model, ledger), Repeats()
    for training, graph in traced.graphs.items():
        ledger.training = training
        apart = Apart() if together else None
        mode = NamesMode(ledger, repeats, apart)
        with ExitStack() as stack:
            for block in (plain_attention(), _named(model, mode, seeded, training)):
                stack.enter_context(block)
            stack.enter_context(torch.no_grad())
            inputs = example_values(graph, traced)
            for number, tensor in enumerate(tensors_in(inputs)):
                mode.give(tensor, repeats.input(number, tensor.shape))
            if apart is not None:
                stack.enter_context(apart.flag.shown())
            runs = NamesInterpreter if apart is None else BothModes
            shown = nullcontext() if ledger.witness is None else Data(ledger.bear_witness)
            with mode, shown:
                outputs = runs(model, graph, traced, mode, watch).run(*inputs)
            _fix_outputs(outputs, mode)
        if together:
            ledger.same_in_training()
            return


def ledger_of(
    model: nn.Module,
    traced: Traced,
    *,
    sizes: bool = False,
    origin: Ids | None = None,
    witness: bool = False,
    watch: Watch | None = None,
) -> Ledger:
    """The record of both graphs; made again while values taken for known turn out to change.

    Args:
        model: the module that was traced; it is left as it was.
        traced: its graphs.
        sizes: give atoms to axes that tensors get from sizes alone, too.
        origin: for each atom, the one of another run in whose terms labels are to be written.
        witness: keep what each op worked on besides neurons (see `fxplastic.witness`).
        watch: called after each node, and again for all nodes where the record is made again.

    Raises:
        DiscoverError: a node cannot run on meta tensors.
    """
    stale: set[str] = set()
    together = same_program(*traced.graphs.values()) and not asks_unseen(model)
    while True:
        seen: dict[tuple[bool, str], list[object]] | None = {} if witness else None
        ledger = Ledger(stale=set(stale), sizes=sizes, origin=origin, witness=seen)
        try:
            run_on_names(model, traced, ledger, watch, together=together)
        except ModesDiffer:
            together = False
            continue
        if ledger.stale == stale:
            return ledger
        stale = ledger.stale
