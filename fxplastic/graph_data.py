"""Graphs as plain data, for pickling and copying: no recursion over nodes, no tracer class."""

from __future__ import annotations

import importlib
from collections.abc import Callable
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
        node.meta["source"] = item.source
        nodes.append(node)
    return graph
