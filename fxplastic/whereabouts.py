"""One more run on names, kept: which neurons each node's value holds, and what becomes of them.

Nothing here decides anything: groups and reasons are those of the plastic module.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from torch import fx

from fxplastic.atoms import Atoms, Ints
from fxplastic.discover import Discovery, grouped
from fxplastic.errors import DiscoverError
from fxplastic.groups import ChannelGroup, FrozenAxis
from fxplastic.identity import Field
from fxplastic.interpret import source_of, tensors_in
from fxplastic.layouts import options_of
from fxplastic.ledger import Ledger
from fxplastic.module import PlasticModule
from fxplastic.names_run import ledger_of
from fxplastic.plastic import require_plastic
from fxplastic.propagate import NamesMode
from fxplastic.trace import Traced, as_it_is

Role = Literal["producer", "consumer"]


@dataclass(frozen=True)
class Fate:
    """What becomes of a neuron: the group that it is in, or why and where it is frozen.

    Attributes:
        group: name of its channel group, ``None`` where it is frozen.
        reason: why it is frozen; empty for a group.
        node: the FX node where that was decided; empty where none was involved.
        source: the user's ``"file:line in function"`` of that node.
    """

    group: str | None
    reason: str = ""
    node: str = ""
    source: str = ""


@dataclass(frozen=True, eq=False)
class Value:
    """A node's value: the shape of its first tensor, and the neurons in all of them."""

    shape: tuple[int, ...] | None = None
    fields: tuple[Field, ...] = ()


class Whereabouts:
    """The neurons of a plastic module, at every node of both graphs.

    Args:
        plastic: the module.

    Raises:
        DiscoverError: a node cannot run on meta tensors.
    """

    def __init__(self, plastic: PlasticModule) -> None:
        require_plastic(plastic, DiscoverError)
        self.plastic = plastic
        self.values: dict[tuple[bool, str], Value] = {}
        self.traced: Traced = as_it_is(plastic.traced, plastic)
        self.ledger: Ledger = ledger_of(plastic, self.traced, watch=self._watch)
        found = grouped(plastic, self.ledger, options_of(plastic))
        self.atoms: Atoms = found.atoms
        self.fates, self.fate_of = _fates(plastic, found)
        parents = {site.parent for site in self.ledger.sites}
        self.sites: dict[str, list[int]] = {}  # numbers of the sites of each parameter
        for number, site in enumerate(self.ledger.sites):
            if number not in parents:
                self.sites.setdefault(site.parameter, []).append(number)
        self.first_names: Mapping[str, str] = _first_names(plastic)

    def _watch(self, training: bool, node: fx.Node, result: Any, names: NamesMode) -> None:
        tensors = list(tensors_in(result))
        fields = tuple(f for t in tensors for f in names.names(t).fields if f.neural)
        shape = tuple(tensors[0].shape) if tensors else None
        self.values[training, node.name] = Value(shape, fields)

    # ------------------------------------------------------------ neurons
    def of_value(self, training: bool, node: fx.Node) -> Iterator[tuple[Field, Ints]]:
        """The neurons in a node's value, field by field, each once."""
        for field in self.values.get((training, node.name), Value()).fields:
            ids = field.array
            yield field, np.unique(self.atoms.neuron[ids[ids > 0]])

    def of_parameter(self, parameter: str) -> Iterator[tuple[int, Role, Ints]]:
        """Axis, role and neurons of every axis of a parameter (by its first name) that has any."""
        for number in self.sites.get(parameter, ()):
            site = self.ledger.sites[number]
            role: Role = "consumer" if number in self.ledger.consumed else "producer"
            neurons = np.unique(self.atoms.neuron[site.base : site.base + site.size])
            yield site.axis, role, neurons

    def by_fate(self, neurons: Ints) -> Iterator[tuple[Fate, Ints]]:
        """These neurons, a fate at a time."""
        numbers = self.fate_of[neurons]
        for number in np.unique(numbers).tolist():
            yield self.fates[number], neurons[numbers == number]

    # ------------------------------------------------------------ nodes
    def reads(self, node: fx.Node) -> tuple[str, ...]:
        """First names of the parameters and buffers that a node reads, each once."""
        names = [str(n.target) for n in node.all_input_nodes if n.op == "get_attr"]
        if node.op == "get_attr":
            names = [str(node.target)]
        elif node.op == "call_module":
            module = self.plastic.get_submodule(str(node.target))
            own = (*module.named_parameters(), *module.named_buffers())
            names += [f"{node.target}.{name}" for name, _ in own]
        return tuple(dict.fromkeys(self.first_names[n] for n in names if n in self.first_names))

    def op(self, node: fx.Node) -> str:
        """What a node does, in a word."""
        if node.op == "call_module":
            return type(self.plastic.get_submodule(str(node.target))).__name__
        if node.op == "call_function":
            return str(getattr(node.target, "__name__", node.target))
        if node.op == "call_method":
            return str(node.target)
        return {"placeholder": "input", "get_attr": "parameter"}.get(node.op, node.op)

    def decided_in(self, fate: Fate) -> bool | None:
        """The mode whose graph has the node where neurons were frozen, eval mode first."""
        for training in (False, True):
            for node in self.traced.graphs[training].nodes:
                if node.name == fate.node and source_of(node) == fate.source:
                    return training
        return None


def _fates(plastic: PlasticModule, found: Discovery) -> tuple[list[Fate], Ints]:
    """Every fate, and the number of each neuron's."""
    causes = found.parts.causes
    fates = [Fate(None, "it is in no group")]
    fates += [Fate(None, c.reason, c.place.node, c.place.source) for c in causes.every]
    number = causes.number + 1
    for name, neurons in found.parts.neurons.items():
        known = name in plastic.groups
        number[neurons] = len(fates)
        fates.append(Fate(name) if known else _refuted(plastic.frozen, found.groups[name]))
    return fates, number


def _refuted(frozen: tuple[FrozenAxis, ...], group: ChannelGroup) -> Fate:
    """The fate of a group that discovery finds and the module does not have."""
    sites = {(site.parameter, site.axis) for site in group.sites}
    reasons = [f.reason for f in frozen if (f.parameter, f.axis) in sites]
    return Fate(None, reasons[-1] if reasons else "it is in no group")


def _first_names(plastic: PlasticModule) -> dict[str, str]:
    """For each name of a parameter or buffer, the first name of the same tensor."""
    every = [
        *plastic.named_parameters(remove_duplicate=False),
        *plastic.named_buffers(remove_duplicate=False),
    ]
    first: dict[int, str] = {}
    return {name: first.setdefault(id(tensor), name) for name, tensor in every}
