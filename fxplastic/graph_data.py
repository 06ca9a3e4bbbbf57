"""Graphs as plain data, for pickling and copying: no recursion over nodes, no tracer class."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import fx

from fxplastic.meta import map_tree


@dataclass(frozen=True)
class NodeRef:
    """The node at this position of the graph."""

    index: int


@dataclass(frozen=True)
class Named:
    """A function that can be found again by module and name."""

    module: str
    path: str


@dataclass(frozen=True)
class NodeData:
    """One node of a graph."""

    op: str
    name: str
    target: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    source: str
    module: str = ""


def _find(name: Named) -> Any:
    found: Any = importlib.import_module(name.module)
    for part in name.path.split("."):
        found = getattr(found, part)
    return found


def _by_name(function: Any) -> Any:
    """`function`, by name where that finds it; else itself, for pickle to deal with."""
    module, path = getattr(function, "__module__", None), getattr(function, "__qualname__", None)
    name = getattr(function, "__name__", path)
    for owner, text in ((module, path), (module, name), ("torch", name)):
        if isinstance(owner, str) and isinstance(text, str):
            named = Named(owner, text)
            try:
                if _find(named) is function:
                    return named
            except (ImportError, AttributeError, ValueError):
                continue
    return function


def to_data(graph: fx.Graph) -> tuple[NodeData, ...]:
    """The nodes of `graph` in order, with references to nodes by position."""
    positions = {node: NodeRef(i) for i, node in enumerate(graph.nodes)}

    def plain(leaf: Any) -> Any:
        return positions[leaf] if isinstance(leaf, fx.Node) else leaf

    return tuple(
        NodeData(
            op=node.op,
            name=node.name,
            target=node.target if isinstance(node.target, str) else _by_name(node.target),
            args=tuple(map_tree(tuple(node.args), plain)),
            kwargs=map_tree(dict(node.kwargs), plain),
            source=str(node.meta.get("source", "")),
            module=str(node.meta.get("module", "")),
        )
        for node in graph.nodes
    )


def from_data(data: tuple[NodeData, ...]) -> fx.Graph:
    """The graph that `to_data` wrote out."""
    graph = fx.Graph()
    nodes: list[fx.Node] = []

    def restore(leaf: Any) -> Any:
        return nodes[leaf.index] if isinstance(leaf, NodeRef) else leaf

    for item in data:
        target: str | Callable[..., Any] = item.target
        if isinstance(item.target, Named):
            target = _find(item.target)
        args = tuple(map_tree(item.args, restore))
        kwargs = map_tree(item.kwargs, restore)
        node = graph.create_node(item.op, target, args, kwargs, name=item.name)
        node.meta["source"], node.meta["module"] = item.source, item.module
        nodes.append(node)
    return graph


class Copies(Mapping[bool, fx.Graph]):
    """Copies of graphs, by training flag, each made when it is first asked for.

    Most copies of a module only run, and code that was compiled runs without its graph.

    >>> graph = fx.Graph()
    >>> _ = graph.output(graph.placeholder("x"))
    >>> copies = Copies(Copies({False: graph}))
    >>> [node.op for node in copies[False].nodes], copies[False] is copies[False] is not graph
    (['placeholder', 'output'], True)
    """

    def __init__(self, graphs: Mapping[bool, fx.Graph]) -> None:
        self._made: dict[bool, fx.Graph] = {}
        self._data = data_of(graphs)
        self.owner: Any = None

    def __getitem__(self, training: bool) -> fx.Graph:
        if training not in self._made:
            graph = from_data(self._data[training])
            graph.owning_module = self.owner
            self._made[training] = graph
        return self._made[training]

    def __iter__(self) -> Iterator[bool]:
        return iter(self._data)

    def __len__(self) -> int:
        return len(self._data)

    def data(self) -> dict[bool, tuple[NodeData, ...]]:
        """All graphs as data; those that were handed out may have been edited since."""
        return {m: to_data(self._made[m]) if m in self._made else d for m, d in self._data.items()}

    def own(self, owner: Any) -> None:
        """Name the module that the graphs belong to."""
        self.owner = owner
        for graph in self._made.values():
            graph.owning_module = owner


def data_of(graphs: Mapping[bool, fx.Graph]) -> dict[bool, tuple[NodeData, ...]]:
    """Several graphs as data, without making copies that nobody asked for."""
    if isinstance(graphs, Copies):
        return graphs.data()
    return {mode: to_data(graph) for mode, graph in graphs.items()}
