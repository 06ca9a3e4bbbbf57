"""One call of a graph, executed on meta values; and on real ones where no data enters it."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxplastic.memo import Remembering
from fxplastic.meta import Twins, map_tree
from fxplastic.proxy import ValueProxy

META = torch.device("meta")
_MOVES = ("cpu", "cuda", "xpu", "mps", "npu", "hpu", "mtia", "ipu")
_OPERATORS = frozenset(f for f in vars(operator).values() if callable(f)) - {
    operator.getitem,
    operator.setitem,
}


def on_meta_device(kind: str, target: Any, args: Any, kwargs: Any) -> tuple[Any, dict[str, Any]]:
    """Arguments of a call with every device in them replaced by meta.

    Comparisons of devices and the like (`operator`) are left as they are.
    """
    if kind == "call_function" and target in _OPERATORS:
        return args, dict(kwargs)
    named = kind == "call_method" and target == "to"

    def change(value: Any) -> Any:
        if isinstance(value, torch.device) or (named and isinstance(value, str)):
            return META
        return value

    args = tuple(args[:1]) + tuple(map_tree(tuple(args[1:]), change))
    kwargs = {k: map_tree(v, change) for k, v in kwargs.items()}
    if isinstance(kwargs.get("device"), (str, int)):
        kwargs["device"] = META
    return args, kwargs


def call(root: nn.Module, kind: str, target: Any, args: Any, kwargs: Mapping[str, Any]) -> Any:
    """Carry out one node of a graph."""
    if kind == "call_function":
        return target(*args, **kwargs)
    if kind == "call_method":
        if target in _MOVES and isinstance(args[0], Tensor) and args[0].is_meta:
            return args[0]
        return getattr(args[0], target)(*args[1:], **kwargs)
    if kind == "call_module":
        return root.get_submodule(target)(*args, **kwargs)
    raise ValueError(f"a node of kind {kind} has no call")


def execute(
    root: nn.Module, twins: Twins, kind: str, target: Any, args: Any, kwargs: Mapping[str, Any]
) -> Any:
    """Carry out a call on the values of the proxies in it, with everything on meta.

    Real tensors among the arguments are replaced by their twins; new tensors are made on meta.
    """

    def value_of(leaf: Any) -> Any:
        if type(leaf) is ValueProxy:
            return leaf.value
        return twins.of(leaf) if isinstance(leaf, Tensor) and not leaf.is_meta else leaf

    args, kwargs = map_tree(tuple(args), value_of), map_tree(dict(kwargs), value_of)
    args, kwargs = on_meta_device(kind, target, args, kwargs)
    with torch.no_grad(), META, Remembering():
        return call(root, kind, target, args, kwargs)


_IN_PLACE_OPERATORS = frozenset(
    getattr(operator, n) for n in dir(operator) if n.startswith("i") and hasattr(operator, n[1:])
) | {operator.setitem, operator.iand, operator.ior, operator.delitem}


def _writes(node: fx.Node) -> bool:
    """Whether a node may change a tensor that it is given."""
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    if node.op == "call_module":
        return False  # modules write to their own buffers at most, or inplace=True on activations
    if node.target in _IN_PLACE_OPERATORS or "out" in node.kwargs or "inplace" in node.kwargs:
        return True
    return node.op != "get_attr" and name.endswith("_") and not name.endswith("__")


_UNSET = re.compile("empty|rand|normal|dropout|bernoulli|multinomial|poisson")


class NotConstant(Exception):
    """A node's value depends on inputs, parameters, buffers, chance or writes."""


Real = Callable[[str], Tensor | None]
Known = Mapping[fx.Node, Any]


def fold(node: fx.Node, known: Known, real: Real, pinned: Callable[[fx.Node], Any]) -> Any:
    """The real value of `node`, from tensor attributes and constants alone.

    Args:
        node: of the graph under construction.
        known: values on meta of all nodes.
        real: the tensor of a `get_attr` target; `None` for parameters and buffers.
        pinned: the value of a node that holds no tensor, guarded from here on.

    Raises:
        NotConstant: something else enters it.
    """
    order: dict[fx.Node, None] = {}
    _collect(node, known, real, order)
    chain = set(order)
    if any(_writes(user) for member in chain for user in _descendants(member)):
        raise NotConstant
    values: dict[fx.Node, Any] = {}
    for member in order:
        if member.op == "get_attr":
            values[member] = real(str(member.target))
        elif holds_tensor(known[member]):
            values[member] = _fold_one(member, values)
        else:
            values[member] = pinned(member)
    return values[node]


def holds_tensor(value: Any) -> bool:
    """Whether `value` is a tensor, or a list or tuple with one in it."""
    if isinstance(value, (tuple, list)):
        return any(holds_tensor(v) for v in value)
    return isinstance(value, Tensor)


def _collect(node: fx.Node, known: Known, real: Real, order: dict[fx.Node, None]) -> None:
    """Append `node` and what it is computed from, arguments first."""
    if node in order:
        return
    if node.op == "get_attr":
        if real(str(node.target)) is None:
            raise NotConstant
    elif holds_tensor(known[node]):
        name = node.target if isinstance(node.target, str) else node.target.__name__
        if node.op not in ("call_function", "call_method") or _UNSET.search(name):
            raise NotConstant
        for argument in node.all_input_nodes:
            _collect(argument, known, real, order)
    order[node] = None


def from_shapes_alone(node: fx.Node, known: Known, real: Real) -> bool:
    """Whether sizes and constants alone enter `node`, writes into it included."""
    order: dict[fx.Node, None] = {}
    waiting = [node]
    while waiting:
        member = waiting.pop()
        if member in order:
            continue
        try:
            _collect(member, known, real, order)
        except NotConstant:
            return False
        writes = (user for m in list(order) for user in _descendants(m) if _writes(user))
        waiting.extend(a for user in writes for a in user.all_input_nodes if a not in order)
    return True


def _descendants(node: fx.Node) -> set[fx.Node]:
    found: set[fx.Node] = set()
    waiting = list(node.users)
    while waiting:
        user = waiting.pop()
        if user not in found:
            found.add(user)
            waiting.extend(user.users)
    return found


def _fold_one(node: fx.Node, values: Known) -> Any:
    def value_of(leaf: Any) -> Any:
        return values[leaf] if isinstance(leaf, fx.Node) else leaf

    args, kwargs = map_tree(tuple(node.args), value_of), map_tree(dict(node.kwargs), value_of)
    with torch.no_grad():
        return call(nn.Module(), node.op, node.target, args, kwargs)
