"""Example inputs, bound to the parameters of a model's `forward`."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fxplastic.errors import TraceError
from fxplastic.meta import map_tree, meta_like

# What can stand in a graph as it is, and so be fixed and guarded.
FIXED = (type(None), bool, int, float, complex, str, torch.dtype, torch.device, torch.layout)


@dataclass(frozen=True)
class Input:
    """One parameter of `forward`.

    Attributes:
        kind: how it may be passed.
        name: its name; with ``*`` or ``**`` in front for variadic ones.
        value: the example value, tensors on meta; the default where none was given.
        default: ``()`` or a tuple with the default.
        given: whether the example inputs hold it.
    """

    kind: inspect._ParameterKind
    name: str
    value: Any
    default: tuple[Any, ...]
    given: bool


@dataclass(frozen=True)
class Bound:
    """Example inputs on meta: how `forward` is called, and one `Input` per parameter."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    inputs: tuple[Input, ...]


def to_meta(value: Any) -> Any:
    """`value` with every tensor in it on meta, parameters as plain tensors."""
    return map_tree(value, lambda v: meta_like(v.detach()) if isinstance(v, Tensor) else v)


def bind(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Bound:
    """Bind `args` and `kwargs` to the signature of `model.forward`.

    Raises:
        TraceError: they don't fit the signature.
    """
    signature = inspect.signature(model.forward)
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError as error:
        raise TraceError(
            f"the example inputs don't fit {type(model).__name__}.forward{signature}: {error}"
        ) from error
    bound.arguments = {k: to_meta(v) for k, v in bound.arguments.items()}
    inputs = tuple(_input(p, bound.arguments) for p in signature.parameters.values())
    return Bound(bound.args, dict(bound.kwargs), inputs)


def _input(parameter: inspect.Parameter, given: Mapping[str, Any]) -> Input:
    name, kind = parameter.name, parameter.kind
    if kind is inspect.Parameter.VAR_POSITIONAL:
        return Input(kind, f"*{name}", tuple(given.get(name, ())), (), name in given)
    if kind is inspect.Parameter.VAR_KEYWORD:
        return Input(kind, f"**{name}", dict(given.get(name, {})), (), name in given)
    if parameter.default is inspect.Parameter.empty:
        return Input(kind, name, given[name], (), True)
    return Input(
        kind, name, given.get(name, parameter.default), (parameter.default,), name in given
    )


def is_fixed(value: Any) -> bool:
    """Whether `value` can be fixed in a graph and compared at call time."""
    if isinstance(value, (tuple, list)):
        return all(is_fixed(v) for v in value)
    return isinstance(value, FIXED)
