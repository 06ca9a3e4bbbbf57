"""The tracer behind `fxplastic.trace`: `torch.fx.Tracer` with values on meta."""

from __future__ import annotations

import operator
import weakref
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.fx.proxy import TracerBase

from fxplastic.answers import Plain
from fxplastic.errors import FxPlasticError, TraceError
from fxplastic.execute import from_shapes_alone
from fxplastic.inputs import Bound
from fxplastic.location import location, trace_below
from fxplastic.meta import Twins
from fxplastic.opening import Opening
from fxplastic.patches import ORIGINALS, tracing
from fxplastic.proxy import ValueProxy
from fxplastic.surroundings import (
    Constants,
    explain,
    hooked,
    is_leaf,
    refuse_state,
    tensor_names,
    tidy,
)

_UNKNOWN = object()


class ValueTracer(Opening):
    """Makes one graph of a model that is on meta, in one training mode."""

    def __init__(
        self, bound: Bound, twins: Twins, device: torch.device, constants: Constants
    ) -> None:
        super().__init__(autowrap_functions=tuple(ORIGINALS.values()))
        self.bound, self.twins, self.device, self.constants = bound, twins, device, constants
        self._names: dict[int, str] = {}
        self._attributes: dict[str, ValueProxy] = {}
        self._flags: dict[str, None] = {}
        self._caches: set[str] = set()
        self.recomputed: list[str] = []  # source lines of calls of torch.utils.checkpoint
        self._inside = [""]  # paths of the opened modules whose forward runs
        self._alive: list[weakref.ref[ValueProxy]] = []
        self._paths: dict[nn.Module, str] = {}
        self._hooked: set[nn.Module] = set()  # hooks that forward itself adds are traced with it

    # ------------------------------------------------------------ the whole run
    def run(self, model: nn.Module) -> fx.Graph:
        """Trace `model`.

        Raises:
            TraceError: naming the source line where the model's code failed.
        """
        self._paths = {m: n for n, m in model.named_modules()}
        self._hooked = {m for m in self._paths if hooked(m)}
        self._names = tensor_names(model)
        self._registered = {n for n, _ in (*model.named_parameters(), *model.named_buffers())}
        try:
            with tracing(self):
                graph = trace_below(self, model)
        except FxPlasticError:
            raise
        except Exception as error:
            raise TraceError(explain(error, model.__dict__["training"])) from error
        finally:
            self.finished = True
            self._attributes.clear()
        tidy(graph, self._caches)
        return graph

    def leaks(self) -> bool:
        """Whether something outside the model still holds a proxy."""
        return any(proxy() is not None for proxy in self._alive)

    def flags_read(self) -> tuple[str, ...]:
        """Paths of the modules whose `training` the model's code has read, the root aside."""
        return tuple(path for path in self._flags if path)

    # ------------------------------------------------------------ nodes
    def create_node(self, kind: str, target: Any, args: Any, kwargs: Any, *rest: Any,
                    **options: Any) -> fx.Node:  # fmt: skip
        """A node that remembers the user's source line."""
        node = self.graph.create_node(kind, target, args, kwargs, *rest, **options)
        node.meta["source"] = location()
        node.meta["module"] = str(target) if kind == "call_module" else self._inside[-1]
        return node

    def create_proxy(
        self, kind: str, target: Any, args: Any, kwargs: Any, *_: Any, **__: Any
    ) -> Any:
        """FX's name for `record`."""
        return self.record(kind, target, args, kwargs)

    def record(
        self, kind: str, target: Any, args: Any, kwargs: Mapping[str, Any], value: Any = _UNKNOWN
    ) -> Any:
        """Append a node and return a proxy that knows its value (`None` for `None`)."""
        if self.finished:
            raise TraceError(
                "a value that the model's code kept from tracing, in a global or a plain object, "
                "was used afterwards; keep it on the module, or clear it"
            )
        if value is _UNKNOWN:
            value = self.evaluate(kind, target, args, kwargs)
            if isinstance(value, Plain):
                return value.value
        node_args, node_kwargs = self.create_arg(tuple(args)), self.create_arg(dict(kwargs))
        node = self.create_node(kind, target, node_args, node_kwargs)
        self.values[node] = value
        if value is None or value is NotImplemented:
            return value
        proxy = ValueProxy(node, self, value)
        self._alive.append(weakref.ref(proxy))
        if isinstance(value, dict):
            return {
                k: self.record("call_function", operator.getitem, (proxy, k), {}, v)
                for k, v in value.items()
            }
        return proxy

    def create_arg(self, a: Any) -> Any:
        """What stands in a node for `a`: nodes for proxies and tensors, plain data as it is."""
        if type(a) is ValueProxy:
            if a.tracer is not self:
                raise TraceError(
                    f"{location()}: a value of an earlier trace was kept "
                    "outside the model (a global or a functools cache); clear it"
                )
            return a.node
        if isinstance(a, Tensor):
            return self.stands_for(a).node
        if isinstance(a, np.generic):
            return a.item()
        if isinstance(a, tuple) and hasattr(a, "_fields"):
            return self.create_node("call_function", type(a), self.create_arg(tuple(a)), {})
        if is_dataclass(a) and not isinstance(a, type):
            values = {f.name: self.create_arg(getattr(a, f.name)) for f in fields(a)}
            return self.create_node("call_function", type(a), (), values)
        if type(a) is OrderedDict:  # FX would make it a plain dict
            return self.create_node("call_function", OrderedDict, (self.create_arg(dict(a)),), {})
        try:
            return TracerBase.create_arg(self, a)
        except NotImplementedError as error:
            raise TraceError(
                f"{location()}: a {type(a).__name__} is passed to a torch "
                "function, and a graph cannot hold it; pass tensors, numbers, strings or None"
            ) from error

    # ------------------------------------------------------------ modules and their tensors
    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        """Record a leaf, open any other module."""
        if self.executing:
            return forward(*args, **kwargs)
        path = self._paths.get(m)
        if path is None:
            if any(True for _ in (*m.parameters(), *m.buffers())):
                raise TraceError(
                    f"{location()}: a {type(m).__name__} with parameters is "
                    "called that the model does not register; make it an attribute, or put it "
                    "in an nn.ModuleList"
                )
            return forward(*args, **kwargs)
        if is_leaf(m) and hooked(m) and m not in self._hooked:
            raise TraceError(
                f"{location()}: forward adds a hook to {path!r}, a {type(m).__name__} that a graph "
                "calls as a whole; add it before, or put the layer in a module of its own"
            )
        if is_leaf(m) or m in self._hooked:
            return self.record("call_module", path, args, kwargs)
        self._inside.append(path)
        try:
            return forward(*args, **kwargs)
        finally:
            self._inside.pop()

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: Any) -> Any:  # noqa: ARG002
        """A proxy where the model's code reads a tensor from a module."""
        keep = self.executing or not isinstance(attr_val, Tensor)
        return attr_val if keep else self.stands_for(attr_val)

    def stands_for(self, tensor: Any) -> Any:
        """The proxy of a parameter, a buffer, a tensor attribute, or any other real tensor."""
        if type(tensor) is ValueProxy:
            return tensor
        name = self._names.get(id(tensor))
        if name is None:
            original = self.twins.originals.get(id(tensor), tensor)
            if original.is_meta and (self.device.type != "meta" or original is tensor):
                raise TraceError(
                    f"{location()}: a tensor on meta that is no attribute of a module: it was "
                    "computed in a way that tracing did not see, or made beforehand; read "
                    "parameters as attributes (self.weight), register constants as buffers, and "
                    "take hooks that keep what a module returns off the model"
                )
            name = self.constants.name(original, self.root)
        if name not in self._attributes:
            with self.aside():
                twin = self.twins.of(tensor)
            self._attributes[name] = self.record("get_attr", name, (), {}, twin)
        return self._attributes[name]

    def real_attribute(self, name: str) -> Tensor | None:
        """See `Answers`."""
        if name in self.constants.tensors:
            return self.constants.tensors[name]
        if name in self._registered:
            return None
        return self.twins.originals.get(id(self._attributes[name].value))

    def read_flag(self, module: nn.Module) -> None:
        """Note that the model's code has read `module.training`."""
        self.mode_matters = True
        if module in self._paths:
            self._flags[self._paths[module]] = None

    def check_rebinding(self, module: nn.Module, name: str, value: Any) -> bool:
        """Whether `module.name = value` may go ahead.

        Raises:
            TraceError: a parameter or buffer would be bound to another tensor, or the next call
                would compute something else.
        """
        refuse_state(module, name, value, self._paths.get(module, ""))
        current: Any = {**module._buffers, **module._parameters}.get(name)
        if current is None or type(value) is not ValueProxy:
            return True
        if value.value is current or value is current:
            return False  # `self.count += 1`: the same tensor, changed in place
        path = ".".join(filter(None, (self._paths.get(module, ""), name)))
        cache = name in module._non_persistent_buffers_set
        if cache and from_shapes_alone(value.node, self.values, self.real_attribute):
            self._caches.add(path)
            return True
        raise TraceError(
            f"{location()}: forward binds {path!r} to a new tensor, which a "
            f"graph cannot do; update it in place: self.{name}.copy_(...)"
        )
