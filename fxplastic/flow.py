"""Where neurons are at each node of a graph: what reports and explanations are made of.

The graph is run on names once more (see `fxplastic.whereabouts`), and each node's value is asked
which neurons lie along which of its axes. Nothing here decides anything: groups and reasons are
those of the plastic module.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import fx

from fxplastic.interpret import source_of
from fxplastic.module import PlasticModule
from fxplastic.whereabouts import Role, Value, Whereabouts


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
    where = Whereabouts(plastic)
    nodes = where.traced.graphs[training].nodes
    return Flow(tuple(_step(where, training, node) for node in nodes))


def _step(where: Whereabouts, training: bool, node: fx.Node) -> Step:
    reads = where.reads(node)
    return Step(
        node=node.name,
        op=where.op(node),
        module=str(node.meta.get("module", "")),
        source=source_of(node),
        shape=where.values.get((training, node.name), Value()).shape,
        inputs=tuple(n.name for n in node.all_input_nodes),
        parameters=reads,
        holds=tuple(dict.fromkeys(_holds(where, training, node))),
        touches=tuple(touch for name in reads for touch in _touches(where, name)),
    )


def _holds(where: Whereabouts, training: bool, node: fx.Node) -> Iterator[Held]:
    for field, neurons in where.of_value(training, node):
        for fate, some in where.by_fate(neurons):
            yield Held(field.axes, fate.group, fate.reason, int(some.size))


def _touches(where: Whereabouts, parameter: str) -> Iterator[Touch]:
    for axis, role, neurons in where.of_parameter(parameter):
        for fate, some in where.by_fate(neurons):
            yield Touch(parameter, axis, role, fate.group, fate.reason, int(some.size))
