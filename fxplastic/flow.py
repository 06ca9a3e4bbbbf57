"""Where neurons are at each node of a graph: what reports and explanations are made of.

The graph is run on names once more (see `fxplastic.names_run`), and each node's value is asked
which neurons lie along which of its axes. Nothing here decides anything: groups and reasons are
those of the plastic module.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from torch import fx

from fxplastic.atoms import Ints
from fxplastic.discover import Discovery, grouped
from fxplastic.errors import DiscoverError
from fxplastic.groups import ChannelGroup, FrozenAxis
from fxplastic.identity import Field
from fxplastic.interpret import source_of, tensors_in
from fxplastic.module import PlasticModule, options_of
from fxplastic.names_run import ledger_of
from fxplastic.plastic import require_plastic
from fxplastic.propagate import NamesMode
from fxplastic.trace import as_it_is

Role = Literal["producer", "consumer"]


@dataclass(frozen=True)
class Held:
    """Neurons that lie along axes of a node's value.

    Attributes:
        axes: the axes of the value along which they are told apart; more than one where a reshape
            has laid them out, as heads and channels of a head.
        group: name of their channel group, ``None`` where they are frozen.
        reason: why they are frozen; empty for a group.
        neurons: how many different ones.
    """

    axes: tuple[int, ...]
    group: str | None
    reason: str
    neurons: int


@dataclass(frozen=True)
class Touch:
    """A parameter axis with neurons that a node reads.

    Attributes:
        parameter: first name of the parameter or buffer.
        axis: its axis.
        role: ``"producer"``, or ``"consumer"`` where the axis takes a signal up.
        group: name of the channel group, ``None`` where the neurons are frozen.
        reason: why they are frozen; empty for a group.
        neurons: how many different ones.
    """

    parameter: str
    axis: int
    role: Role
    group: str | None
    reason: str
    neurons: int


@dataclass(frozen=True)
class Step:
    """One node of a graph.

    Attributes:
        node: its name.
        op: what it does: the class of a module, the name of a function or method.
        module: path of the module whose code it stands for; empty at the top.
        source: the user's ``"file:line in function"``.
        shape: of its value (of the first tensor, where it has several), ``None`` without one.
        inputs: names of the nodes that it reads.
        parameters: first names of the parameters and buffers that it reads.
        holds: neurons in its value, a group or a reason at a time.
        touches: axes of `parameters` with neurons, a group or a reason at a time.
    """

    node: str
    op: str
    module: str
    source: str
    shape: tuple[int, ...] | None
    inputs: tuple[str, ...]
    parameters: tuple[str, ...]
    holds: tuple[Held, ...]
    touches: tuple[Touch, ...]


@dataclass(frozen=True)
class Flow:
    """The nodes of one mode's graph, in the order in which they run."""

    steps: tuple[Step, ...]

    def __getitem__(self, node: str) -> Step:
        """The step of this node; KeyError without one."""
        for step in self.steps:
            if step.node == node:
                return step
        raise KeyError(node)


def flow(plastic: PlasticModule, *, training: bool = False) -> Flow:
    """Which neurons are where, node by node.

    Args:
        plastic: the module.
        training: whether to follow the graph of training mode, or that of eval mode.

    Raises:
        DiscoverError: a node cannot run on meta tensors.

    >>> import torch
    >>> from torch import nn
    >>> from fxplastic import plasticize
    >>> mlp = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> for step in flow(plasticize(mlp, torch.zeros(4, 3))).steps:
    ...     if step.shape:
    ...         print(step.op, step.shape, [h.group or h.reason[:24] for h in step.holds])
    input (4, 3) []
    Linear (4, 8) ['0.weight:0']
    ReLU (4, 8) ['0.weight:0']
    Linear (4, 2) ['it is an output of the m']
    output (4, 2) ['it is an output of the m']
    """
    require_plastic(plastic, DiscoverError)
    seen: dict[str, tuple[tuple[int, ...] | None, tuple[Field, ...]]] = {}

    def watch(mode: bool, node: fx.Node, result: Any, names: NamesMode) -> None:
        if mode == training:
            tensors = list(tensors_in(result))
            fields = tuple(f for t in tensors for f in names.names(t).fields if f.neural)
            seen[node.name] = (tuple(tensors[0].shape) if tensors else None, fields)

    now = as_it_is(plastic.traced, plastic)
    ledger = ledger_of(plastic, now, watch=watch)
    labels = _Labels(plastic, grouped(plastic, ledger, options_of(plastic)))
    steps = []
    for node in now.graphs[training].nodes:
        shape, fields = seen.get(node.name, (None, ()))
        holds = tuple(h for f in fields for h in labels.held(f))
        reads = tuple(_reads(plastic, node, labels.first_names))
        steps.append(
            Step(
                node.name,
                _op(plastic, node),
                str(node.meta.get("module", "")),
                source_of(node),
                shape,
                tuple(n.name for n in node.all_input_nodes),
                reads,
                tuple(dict.fromkeys(holds)),
                tuple(t for name in reads for t in labels.touches(name)),
            )
        )
    return Flow(tuple(steps))


class _Labels:
    """For each neuron of a run, the group that it is in, or the reason why it is frozen."""

    def __init__(self, plastic: PlasticModule, found: Discovery) -> None:
        self.atoms, self.ledger = found.atoms, found.ledger
        self.labels: list[tuple[str | None, str]] = [(None, "it is in no group")]
        self.number = np.zeros(int(self.atoms.neuron.max(initial=0)) + 1, np.int64)
        for number, cause in enumerate(found.parts.causes.every):
            self._give(np.flatnonzero(found.parts.causes.number == number), (None, cause.reason))
        for name, neurons in found.parts.neurons.items():
            known = name in plastic.groups
            refuted = None if known else _refutation(plastic.frozen, found.groups[name])
            self._give(neurons, (name, "") if refuted is None else (None, refuted))
        self.sites: dict[str, list[int]] = {}
        parents = {site.parent for site in self.ledger.sites}
        for number, site in enumerate(self.ledger.sites):
            if number not in parents:
                self.sites.setdefault(site.parameter, []).append(number)
        every = (*plastic.named_parameters(remove_duplicate=False),
                 *plastic.named_buffers(remove_duplicate=False))  # fmt: skip
        by_tensor: dict[int, str] = {}
        self.first_names = {n: by_tensor.setdefault(id(t), n) for n, t in every}

    def _give(self, neurons: Ints, label: tuple[str | None, str]) -> None:
        self.number[neurons] = len(self.labels)
        self.labels.append(label)

    def _counted(self, atoms: Any) -> Iterator[tuple[str | None, str, int]]:
        """The label of these atoms' neurons, each with the number of its neurons."""
        neurons = np.unique(self.atoms.neuron[atoms])
        counts: Counter[tuple[str | None, str]] = Counter()
        for number, some in zip(*np.unique(self.number[neurons], return_counts=True), strict=True):
            counts[self.labels[int(number)]] += int(some)
        for (group, reason), count in counts.items():
            yield group, reason, count

    def held(self, field: Field) -> Iterator[Held]:
        """What the neurons of a field are."""
        ids = field.array
        for group, reason, count in self._counted(ids[ids > 0]):
            yield Held(field.axes, group, reason, count)

    def touches(self, parameter: str) -> Iterator[Touch]:
        """What the neurons along the axes of a parameter are."""
        for number in self.sites.get(parameter, ()):
            site = self.ledger.sites[number]
            role: Role = "consumer" if number in self.ledger.consumed else "producer"
            for group, reason, count in self._counted(slice(site.base, site.base + site.size)):
                yield Touch(parameter, site.axis, role, group, reason, count)


def _refutation(frozen: tuple[FrozenAxis, ...], group: ChannelGroup) -> str:
    """Why a group that discovery finds is not among those of the module."""
    sites = {(site.parameter, site.axis) for site in group.sites}
    reasons = [f.reason for f in frozen if (f.parameter, f.axis) in sites]
    return reasons[-1] if reasons else "it is in no group"


def _op(plastic: PlasticModule, node: fx.Node) -> str:
    """What a node does, in a word."""
    if node.op == "call_module":
        return type(plastic.get_submodule(str(node.target))).__name__
    if node.op == "placeholder":
        return "input"
    if node.op == "call_function":
        return str(getattr(node.target, "__name__", node.target))
    return str(node.target) if node.op == "call_method" else node.op


def _reads(plastic: PlasticModule, node: fx.Node, first: Mapping[str, str]) -> Iterator[str]:
    """First names of the parameters and buffers that a node reads, each once."""
    names = [str(n.target) for n in node.all_input_nodes if n.op == "get_attr"]
    if node.op == "call_module":
        module, path = plastic.get_submodule(str(node.target)), str(node.target)
        own = (*module.named_parameters(), *module.named_buffers())
        names += [f"{path}.{name}" for name, _ in own]
    yield from dict.fromkeys(first[name] for name in names if name in first)
