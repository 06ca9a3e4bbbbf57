"""Running a traced graph on meta tensors: nothing is computed, everything has its shape."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.amp.autocast_mode import _enter_autocast

from fxplastic.errors import DiscoverError, FxPlasticError
from fxplastic.guards import CHECKS
from fxplastic.trace import Traced


class MetaInterpreter(fx.Interpreter):
    """Runs a traced graph with every tensor and every device on meta; guards have no part."""

    def __init__(self, model: nn.Module, graph: fx.Graph, traced: Traced) -> None:
        super().__init__(model, graph=graph)
        self.extra_traceback = False  # errors say where they were met themselves
        self.traced = traced

    def run_node(self, n: fx.Node) -> Any:
        """Run one node; errors name it and its source line."""
        try:
            return super().run_node(n)
        except FxPlasticError:
            raise
        except Exception as error:
            raise DiscoverError(
                f"{n.format_node()} ({source_of(n) or 'source unknown'}) cannot run on meta "
                f"tensors: {error}. Give the op a meta implementation, or keep it out of the "
                "traced part."
            ) from error

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:  # noqa: ARG002
        """Parameters and buffers are on meta by now; other tensors go there as constants."""
        value = (
            self.traced.constants[target]
            if target in self.traced.constants
            else self.fetch_attr(target)
        )
        if not isinstance(value, Tensor) or value.device.type == "meta":
            return value
        return self.constant(str(target), value)

    def constant(self, target: str, value: Tensor) -> Tensor:  # noqa: ARG002
        """What stands for a tensor that is neither parameter nor buffer."""
        return value.detach().to("meta")

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Tensors that the graph makes on a device are made on meta."""
        if target in CHECKS:
            return None
        if target is _enter_autocast and args[0] == "meta":
            args = ("cpu", *args[1:])  # it has no part in what is computed, and meta has none
        with torch.device("meta"):
            return super().call_function(target, _on_meta(args), _on_meta(kwargs))

    def call_method(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Moves to a device stay on meta."""
        return super().call_method(target, _on_meta(args), _on_meta(kwargs))


def source_of(node: fx.Node) -> str:
    """The user's ``"file:line in function"`` of a node, or nothing."""
    return str(node.meta.get("source", ""))


def example_values(graph: fx.Graph, traced: Traced) -> list[Any]:
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


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Every tensor that can be reached from `value`: in containers, dataclasses, plain objects."""
    waiting, seen = [value], set()
    while waiting:
        item = waiting.pop()
        if isinstance(item, Tensor):
            yield item
            continue
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, Mapping):
            inner: Iterable[Any] = item.values()
        elif isinstance(item, list | tuple | set | frozenset):
            inner = item
        else:
            inner = getattr(item, "__dict__", {}).values() if not isinstance(item, type) else ()
        waiting.extend(reversed(list(inner)))


@contextmanager
def plain_attention() -> Iterator[None]:
    """Keeps `nn.TransformerEncoderLayer` from its fused path, which hides what it is made of."""
    fastpath = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fastpath)


def _on_meta(value: Any) -> Any:
    """Arguments with every device on meta, and new lists: functions may write into theirs."""
    if isinstance(value, torch.device):
        return torch.device("meta")
    if isinstance(value, list):
        return [_on_meta(v) for v in value]
    if isinstance(value, dict):
        return {k: _on_meta(v) for k, v in value.items()}
    if isinstance(value, tuple):
        made = [_on_meta(v) for v in value]
        if hasattr(value, "_fields"):
            return type(value)(*made)
        return tuple(made) if type(value) is tuple else value
    return value
