"""The part of the tracer that opens what forward is given: inputs, and tensors among attributes."""

from __future__ import annotations

import inspect
import operator
from typing import Any

from torch import Tensor, fx, nn

from fxplastic import guards
from fxplastic.answers import Answers
from fxplastic.errors import TraceError
from fxplastic.inputs import Bound, Input, is_fixed
from fxplastic.meta import map_tensors, plain_attributes
from fxplastic.proxy import ValueProxy
from fxplastic.surroundings import is_leaf


class Opening(Answers):
    """Makes placeholders with guards, and puts proxies where forward finds tensors."""

    bound: Bound
    _hooked: set[nn.Module]

    def stands_for(self, tensor: Any) -> Any:
        """The proxy of a tensor of the model or of its code."""
        raise NotImplementedError

    def create_args_for_root(
        self,
        root_fn: Any,  # noqa: ARG002
        is_module: bool,  # noqa: ARG002
        concrete_args: Any = None,  # noqa: ARG002
    ) -> tuple[Any, list[Any]]:
        """Placeholders by the signature, guards on them, and proxies for tensor attributes."""
        nodes = [self._placeholder(i) for i in self.bound.inputs]
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        for node, given in zip(nodes, self.bound.inputs, strict=True):
            value = self._input(node, given)
            if given.kind is inspect.Parameter.VAR_POSITIONAL:
                args.extend(value)
            elif given.kind is inspect.Parameter.VAR_KEYWORD:
                kwargs.update(value)
            elif given.kind is inspect.Parameter.KEYWORD_ONLY:
                kwargs[given.name] = value
            else:
                args.append(value)
        self._open_attributes()
        return lambda: self.root.forward(*args, **kwargs), []

    def _placeholder(self, given: Input) -> fx.Node:
        default = given.default
        if default and not is_fixed(default):
            default = (None,)
        node = self.create_node("placeholder", given.name, default, {})
        self.values[node] = given.value
        return node

    def _input(self, node: fx.Node, given: Input) -> Any:
        where = f"input {given.name!r}"
        if given.given or is_fixed(given.value) or not given.default:
            return self._open_input(node, given.value, where)
        self.guard(node, guards.expect, None, where)  # a default that no graph can hold
        return given.value

    def _open_input(self, node: fx.Node, value: Any, where: str) -> Any:
        """What the model's forward gets for an input: proxies for tensors, all else fixed."""
        if isinstance(value, Tensor):
            self.guard(node, guards.expect_dims, value.ndim, where)
            return ValueProxy(node, self, value)
        if isinstance(value, dict):
            self.guard(node, guards.expect_keys, list(value), where)
            return {k: self._open_item(node, k, v, where) for k, v in value.items()}
        if isinstance(value, (list, tuple)) and not is_fixed(value):
            self.guard(node, guards.expect_length, len(value), where)
            items = [self._open_item(node, i, v, where) for i, v in enumerate(value)]
            return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
        if is_fixed(value):
            self.guard(node, guards.expect, value, where)
            return value
        raise TraceError(
            f"{where} is a {type(value).__name__}, which a graph cannot take; pass tensors, "
            "numbers, strings, None, or lists, tuples and dicts of them"
        )

    def _open_item(self, node: fx.Node, key: Any, value: Any, where: str) -> Any:
        item = self.create_node("call_function", operator.getitem, (node, key), {})
        self.values[item] = value
        return self._open_input(item, value, f"{where}[{key!r}]")

    def _open_attributes(self) -> None:
        """Put proxies where opened modules hold tensors as plain attributes."""
        closed = ""
        for path, module in self.root.named_modules():
            if closed and path.startswith(closed):
                continue
            if path and (is_leaf(module) or module in self._hooked):
                closed = f"{path}."
                continue
            for name, value in plain_attributes(module):
                module.__dict__[name] = map_tensors(value, self.stands_for)
