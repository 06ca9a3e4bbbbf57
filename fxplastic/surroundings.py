"""What surrounds a trace: which modules stay whole, names of tensors, tidying, error text."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.utils import parametrize

from fxplastic import guards
from fxplastic.errors import TraceError
from fxplastic.location import location
from fxplastic.meta import plain_attributes
from fxplastic.proxy import ValueProxy
from fxplastic.sources import raised_at

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


@dataclass
class Constants:
    """Tensors that stand in the graphs without being attributes of the model."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    _names: dict[int, str] = field(default_factory=dict)

    def name(self, tensor: Tensor, root: nn.Module) -> str:
        """A name for `tensor`, the same one each time, that `root` does not have."""
        if id(tensor) not in self._names:
            number = len(self.tensors)
            while hasattr(root, f"_tensor_constant{number}"):
                number += 1
            self._names[id(tensor)] = f"_tensor_constant{number}"
            self.tensors[f"_tensor_constant{number}"] = tensor
        return self._names[id(tensor)]


def is_leaf(module: nn.Module) -> bool:
    """Whether `module` stays one call in the graph for what it is.

    So do the modules of `torch.nn` (containers aside) and scripted ones.
    """
    kind = type(module)
    if parametrize.is_parametrized(module):
        kind = kind.__mro__[1]
    if isinstance(module, torch.jit.ScriptModule):
        return True
    return f"{kind.__module__}.".startswith("torch.nn.") and not isinstance(module, _CONTAINERS)


def hooked(module: nn.Module) -> bool:
    """Whether `module` has hooks, which would not fire if it were opened."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )


def tensor_names(model: nn.Module) -> dict[int, str]:
    """First name of every parameter, buffer and plain tensor attribute, by `id`."""
    names = {id(t): n for n, t in model.named_buffers()}
    names |= {id(t): n for n, t in model.named_parameters()}
    for path, module in model.named_modules():
        for name, value in plain_attributes(module):
            if isinstance(value, Tensor):
                names.setdefault(id(value), f"{path}.{name}" if path else name)
    return names


def refuse_state(module: nn.Module, name: str, value: Any, path: str) -> None:
    """Stop where forward changes a number or flag, or a tensor that it has read, for the next call.

    Raises:
        TraceError: naming the attribute and the source line.
    """
    before = module.__dict__.get(name)
    flag = isinstance(before, bool | int | float) and isinstance(value, bool | int | float)
    if flag and type(value) is not ValueProxy and value != before:
        change = f"from {before!r} to {value!r}"
    elif (
        type(before) is type(value) is ValueProxy
        and before.value is not value.value  # `self.offset += 1` is in place
        and before.node.users
    ):
        change = "to another tensor after it has read it"
    else:
        return
    where = f"{path}.{name}" if path else name
    raise TraceError(
        f"{location()}: forward sets {where} {change}, so that the next call would compute "
        "something else, which a graph cannot follow; set it outside forward, or keep it in a "
        "registered buffer and update that in place"
    )


def tidy(graph: fx.Graph, caches: set[str]) -> None:
    """Drop what tracing needed and a run does not.

    These are reads of tensors that nothing uses, and guards on buffers that forward fills anew
    from sizes: whether such a cache is stale is no matter of the graph, which always fills it.
    """
    stale: set[fx.Node] = set()
    for node in graph.nodes:
        if (node.op == "get_attr" and node.target in caches) or (
            stale.intersection(node.all_input_nodes) and node.op == "call_function"
        ):
            stale.add(node)
    for node in reversed(list(graph.nodes)):
        guard = node.target is guards.expect and node in stale
        if guard or (node.op == "get_attr" and not node.users):
            graph.erase_node(node)
    graph._tracer_cls = None


def explain(error: Exception, training: bool) -> str:
    """Where and in which mode the model's code failed, and what helps in well-known cases."""
    advice = ""
    if "Expected more than 1 value per channel" in str(error):
        advice = "; pass example inputs with a batch of at least 2"
    elif "numpy" in str(error):
        advice = " Keep the computation in torch, or take this part out of the model"
    where = raised_at(error) or "outside the model's own code"
    mode = "training" if training else "eval"
    return f"{where}, in {mode} mode: {type(error).__name__}: {error}{advice}"
