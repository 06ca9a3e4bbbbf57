"""Why an axis of a parameter is plastic or frozen: the ops on the way of its neurons.

For neurons that can be turned over, the way leads from the op that makes them, through the
parameter that was asked about, to the nearest op that takes their signal up. For frozen neurons it
leads to the op that froze them. Both are shortest paths in the graph that the model was traced to,
among the nodes whose values hold these very neurons.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import fx

from fxplastic.atoms import Ints
from fxplastic.errors import DiscoverError
from fxplastic.interpret import source_of
from fxplastic.module import PlasticModule
from fxplastic.whereabouts import Fate, Value, Whereabouts


@dataclass(frozen=True)
class Link:
    """One op on the way of some neurons.

    Attributes:
        node: name of the FX node.
        op: what it does: the class of a module, the name of a function or method.
        module: path of the module whose code it stands for; empty at the top.
        source: the user's ``"file:line in function"``.
        shape: of the node's value (of its first tensor), ``None`` without one.
        does: ``"makes"`` the neurons, ``"carries"`` them, ``"takes up"`` their signal, or
            ``"freezes"`` them.
        axes: axes of parameters that the node reads and that these neurons run through, as
            ``"name:axis"``.
    """

    node: str
    op: str
    module: str
    source: str
    shape: tuple[int, ...] | None
    does: str
    axes: tuple[str, ...]


@dataclass(frozen=True)
class Part:
    """Neurons along an axis that share a fate.

    Attributes:
        neurons: how many.
        group: name of their channel group, ``None`` where they are frozen.
        reason: why they are frozen; empty for a group.
        node: the FX node that froze them; empty where none was involved, and for a group.
        source: the user's ``"file:line in function"`` of that node.
        training: whether `way` is one in the graph of training mode; else in that of eval mode.
        way: the ops on their way, in order; empty where no node holds them.
    """

    neurons: int
    group: str | None
    reason: str
    node: str
    source: str
    training: bool
    way: tuple[Link, ...]


@dataclass(frozen=True)
class Explanation:
    """What becomes of the neurons along one axis of a parameter or buffer.

    Attributes:
        parameter: its first name.
        axis: the axis.
        size: its length.
        role: ``"producer"``, ``"consumer"``, or ``"none"`` where it holds no neurons.
        parts: its neurons, a fate at a time.
    """

    parameter: str
    axis: int
    size: int
    role: str
    parts: tuple[Part, ...]


def explain(
    plastic: PlasticModule, parameter: str, axis: int | None = None
) -> tuple[Explanation, ...]:
    """Why axes of a parameter are plastic or frozen.

    Args:
        plastic: the module.
        parameter: a name in `named_parameters()` or `named_buffers()`.
        axis: one of its axes, counted from the end if negative; all of them by default.

    Returns:
        One explanation per axis.

    Raises:
        DiscoverError: there is no such parameter (near names are listed), or no such axis.

    >>> import torch
    >>> from torch import nn
    >>> from fxplastic import plasticize
    >>> mlp = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> (found,) = explain(plasticize(mlp, torch.zeros(4, 3)), "2.weight", 1)
    >>> [(link.op, link.does, link.axes) for link in found.parts[0].way]  # doctest: +ELLIPSIS
    [('Linear', 'makes', ('0.weight:0', '0.bias:0')), ('ReLU', 'carries', ()), ('Linear', ...)]
    """
    where = Whereabouts(plastic)
    first, shape = _find(where, parameter)
    if axis is not None and not -len(shape) <= axis < len(shape):
        raise DiscoverError(
            f"axis {axis} of {parameter!r}: its shape is {list(shape)}, so that its axes are "
            f"{-len(shape)} to {len(shape) - 1}"
        )
    axes = range(len(shape)) if axis is None else [axis % len(shape)]
    return tuple(_explanation(where, first, a, shape[a]) for a in axes)


def _find(where: Whereabouts, parameter: str) -> tuple[str, tuple[int, ...]]:
    """First name and shape of a parameter or buffer."""
    if parameter not in where.first_names:
        near = difflib.get_close_matches(str(parameter), where.first_names, n=3)
        hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
        raise DiscoverError(f"the model has no parameter or buffer {parameter!r}{hint}")
    first = where.first_names[parameter]
    plastic = where.plastic
    tensors = dict(plastic.named_parameters()) | dict(plastic.named_buffers())
    return first, tuple(tensors[first].shape)


def _explanation(where: Whereabouts, parameter: str, axis: int, size: int) -> Explanation:
    parts: list[Part] = []
    roles = []
    for number, role, neurons in where.of_parameter(parameter):
        if number == axis:
            roles.append(role)
            parts += [_part(where, parameter, f, some) for f, some in where.by_fate(neurons)]
    if not parts:
        parts = [Part(0, None, _no_neurons(where, parameter, size), "", "", False, ())]
    return Explanation(parameter, axis, size, roles[0] if roles else "none", tuple(parts))


def _no_neurons(where: Whereabouts, parameter: str, size: int) -> str:
    if size == 1:
        return "it has one position: there is nothing that could change places"
    persistent = where.plastic.state_dict().keys()
    if parameter not in persistent:
        return "the buffer is a constant of the model's code (state_dict leaves it out)"
    return "it holds whole numbers or flags, and neurons lie along axes of real numbers only"


def _part(where: Whereabouts, parameter: str, fate: Fate, neurons: Ints) -> Part:
    """One fate of neurons, with the way that leads to it."""
    training = bool(where.decided_in(fate)) if fate.group is None else False
    way = _Way(where, training, neurons)
    nodes = way.to_freezer(parameter, fate) if fate.group is None else way.through(parameter)
    links = tuple(way.link(node, fate) for node in nodes)
    return Part(int(neurons.size), fate.group, fate.reason, fate.node, fate.source, training, links)


class _Way:
    """The nodes of one graph that hold some neurons or read their axes, and paths among them."""

    def __init__(self, where: Whereabouts, training: bool, neurons: Ints) -> None:
        import networkx

        self.where, self.training = where, training
        self.mine = np.zeros(where.fate_of.size, bool)
        self.mine[neurons] = True
        self.nodes = list(where.traced.graphs[training].nodes)
        self.holding = {n for n in self.nodes if self._holds(n)}
        self.reading = {n for n in self.nodes if next(self._axes(n, None), None)}
        self.graph: Any = networkx.DiGraph()  # in the order of the nodes: paths are reproducible
        self.graph.add_nodes_from(n for n in self.nodes if n in self.holding | self.reading)
        for node in self.nodes:
            for given in node.all_input_nodes:
                if given in self.holding and node in self.graph:
                    self.graph.add_edge(given, node)

    def _holds(self, node: fx.Node) -> bool:
        held = self.where.of_value(self.training, node)
        return any(bool(self.mine[neurons].any()) for _, neurons in held)

    def _axes(self, node: fx.Node, role: str | None) -> Iterator[str]:
        """``"name:axis"`` of the axes that a node reads and these neurons run through."""
        for name in self.where.reads(node):
            for axis, own, neurons in self.where.of_parameter(name):
                if role in (None, own) and self.mine[neurons].any():
                    yield f"{name}:{axis}"

    def _makes(self, node: fx.Node) -> bool:
        """Whether neurons begin here: they are in its value, and come from parameters alone."""
        given = [n for n in node.all_input_nodes if n.op != "get_attr"]
        reads = node in self.reading and node in self.holding
        return reads and not any(n in self.holding for n in given)

    def _takes_up(self, node: fx.Node) -> bool:
        takes = node.op != "get_attr" and next(self._axes(node, "consumer"), None) is not None
        return takes and any(n in self.holding for n in node.all_input_nodes)

    def _starts(self, parameter: str) -> list[fx.Node]:
        """The nodes that read a parameter; what is made of it elsewhere is read by name."""
        reading = [n for n in self.nodes if parameter in self.where.reads(n)]
        return [n for n in reading if n in self.graph]

    def _shortest(
        self, graph: Any, starts: Iterable[fx.Node], ends: Iterable[fx.Node]
    ) -> list[fx.Node]:
        """The first of the shortest paths from any of `starts` to any of `ends`."""
        import networkx

        goal = set(ends)
        paths = [
            networkx.single_source_shortest_path(graph, start) for start in starts if start in graph
        ]
        found = [path for reached in paths for end, path in reached.items() if end in goal]
        return min(found, key=len, default=[])

    def through(self, parameter: str) -> list[fx.Node]:
        """From a maker through the nodes that read the parameter to who takes the signal up."""
        starts = self._starts(parameter)
        makers = [n for n in self.graph if self._makes(n)]
        takers = [n for n in self.graph if self._takes_up(n)]
        back = self._shortest(self.graph.reverse(copy=False), starts, makers)[::-1]
        here = back[-1:] or starts[:1]
        if here and here[0] in takers and parameter in self._reads_as_consumer(here[0]):
            return back or here
        ahead = self._shortest(self.graph, here, takers)
        return [*(back or here), *ahead[1:]]

    def _reads_as_consumer(self, node: fx.Node) -> set[str]:
        return {axis.rpartition(":")[0] for axis in self._axes(node, "consumer")}

    def to_freezer(self, parameter: str, fate: Fate) -> list[fx.Node]:
        """From a node that reads the parameter to the one that froze its neurons."""
        starts = self._starts(parameter)
        last = [n for n in self.nodes if n.name == fate.node and source_of(n) == fate.source]
        graph = self.graph.to_undirected()
        for node in last:
            graph.add_edges_from((n, node) for n in node.all_input_nodes if n in self.holding)
        path = self._shortest(graph, starts, last)
        return path or [*starts[:1], *last]

    def link(self, node: fx.Node, fate: Fate) -> Link:
        """What a node on the way does to the neurons."""
        where = self.where
        freezes = fate.group is None and (node.name, source_of(node)) == (fate.node, fate.source)
        does = "freezes" if freezes else "carries"
        if not freezes and self._takes_up(node):
            does = "takes up"
        elif not freezes and self._makes(node):
            does = "makes"
        return Link(
            node=node.name,
            op=where.op(node),
            module=str(node.meta.get("module", "")),
            source=source_of(node),
            shape=where.values.get((self.training, node.name), Value()).shape,
            does=does,
            axes=tuple(dict.fromkeys(self._axes(node, None))),
        )
