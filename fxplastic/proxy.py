"""A proxy that knows the value of its call: what lets Python code of a model be traced.

`torch.fx.Proxy` stands for a value that is not known; ours carries the value that the call has on
the meta device. So a size stays symbolic where it flows into the graph, and is an int where
Python needs one (`if`, `range`, `len`); then the recorder notes a guard. The idea is that of
fake-tensor tracing (torch.export), kept at the level of FX's module and function calls.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from types import FrameType
from typing import Any, Protocol

import torch
from torch import Tensor, fx
from torch.fx.graph import inplace_methods

Spot = tuple[int, int]  # a Python frame and the instruction it is at


class Recorder(Protocol):
    """What a `ValueProxy` asks of the tracer that made it."""

    finished: bool

    def record(
        self, kind: str, target: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], /
    ) -> Any:
        """Append a node and return a proxy that knows its value."""

    def attribute(self, proxy: ValueProxy, name: str, /) -> Any:
        """Value of `proxy.name`."""

    def pin(self, proxy: ValueProxy, spot: Spot | None = None, /) -> Any:
        """The value of `proxy`, guarded from here on."""

    def pin_length(self, proxy: ValueProxy, /) -> int:
        """The length of `proxy`'s value, guarded from here on."""

    def text(self, proxy: ValueProxy, spec: str, /) -> str:
        """`format(proxy, spec)`, guarded from here on."""

    def concrete(self, proxy: ValueProxy, question: str, /) -> Tensor:
        """The real tensor behind `proxy` if no input or parameter enters it."""

    def dispatch(self, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], /) -> Any:
        """Record a call that came through `__torch_function__`."""

    def refused(self, what: str, fix: str, /) -> Exception:
        """The error for something that a graph cannot do."""
        ...

    def settle(self, spot: Spot, /) -> None:
        """Drop guards that the argument parser of a recorded call asked for."""


def spot_of(frame: FrameType) -> Spot:
    """Where `frame` stands now."""
    return id(frame), frame.f_lasti


class ValueProxy(fx.Proxy):
    """A node of the graph under construction, with its value on the meta device."""

    def __init__(self, node: fx.Node, tracer: Any, value: Any) -> None:
        fx.Proxy.__init__(self, node, tracer)
        self.value = value

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._recorder.attribute(self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("data", "grad", "requires_grad", "shape"):
            raise self._recorder.refused(f"assigning to .{name}", "use an in-place operation")
        object.__setattr__(self, name, value)

    def __eq__(self, other: object) -> Any:
        if self._recorder.finished:  # left over in a cache of the model's code
            return self is other
        return self._recorder.record("call_function", operator.eq, (self, other), {})

    @property
    def _recorder(self) -> Recorder:
        recorder: Recorder = self.__dict__["tracer"]
        return recorder

    def __repr__(self) -> str:
        return f"<{self.node.name}>"

    def __str__(self) -> str:
        return self._recorder.text(self, "")

    def __format__(self, spec: str) -> str:
        return self._recorder.text(self, spec)

    def __bool__(self) -> bool:
        if isinstance(self.value, Tensor):
            return bool(self._recorder.concrete(self, "bool()"))
        if isinstance(self.value, bool):
            return bool(self._recorder.pin(self))
        truth = self._recorder.record("call_function", operator.truth, (self,), {})
        return bool(self._recorder.pin(truth))

    def _number(self, question: str, convert: Callable[[Any], Any]) -> Any:
        if isinstance(self.value, Tensor):
            return convert(self._recorder.concrete(self, question))
        convert(self.value)  # a TypeError of Python's own, before anything is pinned
        # The argument parser of torch's C++ functions also asks, just before it dispatches.
        return convert(self._recorder.pin(self, spot_of(sys._getframe(2))))

    def __int__(self) -> int:
        return int(self._number("int()", int))

    def __float__(self) -> float:
        return float(self._number("float()", float))

    def __complex__(self) -> complex:
        return complex(self._number("complex()", complex))

    def __index__(self) -> int:
        return int(self._number("use as an index", operator.index))

    def __len__(self) -> int:
        return self._recorder.pin_length(self)

    def __iter__(self) -> Iterator[Any]:
        record = self._recorder.record
        indices = range(len(self))
        return iter([record("call_function", operator.getitem, (self, i), {}) for i in indices])

    def __contains__(self, item: Any) -> bool:
        return bool(self._recorder.record("call_function", operator.contains, (self, item), {}))

    def __hash__(self) -> int:
        if isinstance(self.value, Tensor):
            return id(self)  # as tensors do: by identity
        return hash(self._recorder.pin(self))

    def __setitem__(self, key: Any, value: Any) -> None:
        self._recorder.record("call_function", operator.setitem, (self, key, value), {})

    def __round__(self, *digits: Any) -> Any:
        return self._recorder.record("call_function", round, (self, *digits), {})

    def __divmod__(self, other: Any) -> Any:
        return self._recorder.record("call_function", divmod, (self, other), {})

    @classmethod
    def __torch_function__(
        cls,
        func: Any,
        types: Any,
        args: Any = (),
        kwargs: Any = None,
    ) -> Any:
        proxy = first_proxy((args, kwargs or {}))
        if proxy is None:
            return NotImplemented
        recorder = proxy._recorder
        recorder.settle(spot_of(sys._getframe(1)))
        return recorder.dispatch(func, tuple(args), kwargs or {})


class Method:
    """`proxy.name` before it is called."""

    def __init__(self, proxy: ValueProxy, name: str) -> None:
        self.proxy, self.name = proxy, name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Record the call of the method."""
        recorder = self.proxy._recorder
        return recorder.record("call_method", self.name, (self.proxy, *args), kwargs)


def first_proxy(value: Any) -> ValueProxy | None:
    """The first `ValueProxy` anywhere in nested lists, tuples, dicts and slices."""
    kind = type(value)
    if kind is ValueProxy:
        found: ValueProxy = value
        return found
    if isinstance(value, dict):
        value = value.values()
    elif kind is slice:
        value = (value.start, value.stop, value.step)
    elif not isinstance(value, (tuple, list)):
        return None
    for item in value:
        inner = first_proxy(item)
        if inner is not None:
            return inner
    return None


def holds_proxy(value: Any) -> bool:
    """Whether `first_proxy` finds one (which has no truth value of its own)."""
    return first_proxy(value) is not None


@lru_cache(maxsize=4096)
def is_method(func: Any) -> bool:
    """Whether a dispatched function is a method of `Tensor` (called by name in the graph)."""
    return bool(torch.overrides.is_tensor_method_or_property(func))


def _inplace(name: str) -> Callable[[ValueProxy, Any], Any]:
    inplace, plain = getattr(operator, name), getattr(operator, _plain_name(name))

    def impl(self: ValueProxy, other: Any) -> Any:
        # `n += 1` on an int makes a new one; the generated code must not rebind the old name.
        mutable = isinstance(self.value, (Tensor, list))
        target = inplace if mutable else plain
        return self._recorder.record("call_function", target, (self, other), {})

    return impl


def _plain_name(inplace: str) -> str:
    name = inplace[1:]
    return {"and": "and_", "or": "or_"}.get(name, name)


for _name in set(inplace_methods) - {"setitem"}:
    setattr(ValueProxy, f"__{_name}__", _inplace(_name))
