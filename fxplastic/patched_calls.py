"""Calls that are recorded as a whole while a model is traced, whatever their Python code does."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol

import torch
import torch.utils.checkpoint
from torch._functorch import utils as functorch

from fxplastic.errors import TraceError
from fxplastic.guards import AutogradCall, ScriptCall
from fxplastic.location import location
from fxplastic.proxy import ValueProxy, holds_proxy

_MISSING = object()


class Recording(Protocol):
    """What these patches ask of the tracer."""

    executing: int
    recomputed: list[str]

    def record(self, kind: str, target: Any, args: Any, kwargs: Any, value: Any = ..., /) -> Any:
        """Append a node and return a proxy that knows its value."""


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Set `owner.name` for a `with` block; remove it afterwards if it was inherited or absent."""
    before = owner.__dict__.get(name, _MISSING)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if before is _MISSING:
            delattr(owner, name)
        else:
            setattr(owner, name, before)


def _autograd_forward(hooks: Recording, cls: Any) -> tuple[Any, Any]:
    """Replacements of `cls.forward` and `cls.setup_context` that record the call as a whole.

    `apply` itself cannot be patched: models keep it bound (`swish = Swish.apply`). Called with
    proxies, it hands them to `forward`, and hands on what that returns.
    """
    forward, setup = cls.forward, cls.setup_context
    separate = setup is not torch.autograd.Function.setup_context

    def new_forward(*args: Any, **kwargs: Any) -> Any:
        inputs = args if separate else args[1:]
        if hooks.executing or not holds_proxy((inputs, kwargs)):
            return forward(*args, **kwargs)
        if cls is torch.utils.checkpoint.CheckpointFunction:
            raise TraceError(
                f"{location()}: torch.utils.checkpoint with use_reentrant=True hides what it runs; "
                "give it use_reentrant=False"
            )
        return hooks.record("call_function", AutogradCall(cls), inputs, kwargs)

    def new_setup(ctx: Any, inputs: Any, output: Any) -> Any:
        if hooks.executing or not holds_proxy((inputs, output)):
            return setup(ctx, inputs, output)
        return None

    return staticmethod(new_forward), staticmethod(new_setup) if separate else None


def _subclasses(cls: Any) -> Iterator[Any]:
    for sub in type.__subclasses__(cls):
        yield sub
        yield from _subclasses(sub)


def autograd_functions(hooks: Recording, stack: ExitStack) -> None:
    """Record calls of custom autograd functions as wholes."""
    found = {c: _autograd_forward(hooks, c) for c in _subclasses(torch.autograd.Function)}
    for cls, (forward, setup) in found.items():
        stack.enter_context(replaced(cls, "forward", forward))
        if setup is not None:
            stack.enter_context(replaced(cls, "setup_context", setup))
    unwrap = functorch.unwrap_dead_wrappers

    def keep_proxies(args: Any) -> Any:
        return tuple(a if type(a) is ValueProxy else unwrap((a,))[0] for a in args)

    stack.enter_context(replaced(functorch, "unwrap_dead_wrappers", keep_proxies))


def scripted_functions(hooks: Recording, stack: ExitStack) -> None:
    """Record calls of scripted functions as wholes."""
    cls: Any = torch.jit.ScriptFunction
    call = cls.__call__

    def new_call(self: Any, *args: Any, **kwargs: Any) -> Any:
        if hooks.executing or not holds_proxy((args, kwargs)):
            return call(self, *args, **kwargs)
        return hooks.record("call_function", ScriptCall(self), args, kwargs)

    stack.enter_context(replaced(cls, "__call__", new_call))


def autocast_blocks(hooks: Recording, stack: ExitStack) -> None:
    """Record `with torch.autocast(...)` blocks as calls that enter and leave them."""
    cls: Any = torch.autocast
    init, handles = cls.__init__, []

    def new_init(self: Any, *args: Any, **kwargs: Any) -> None:
        self._traced_args = (args, kwargs)
        plain = [a.value if type(a) is ValueProxy else a for a in args]
        named = {k: a.value if type(a) is ValueProxy else a for k, a in kwargs.items()}
        init(self, *plain, **named)

    def enter(self: Any) -> Any:
        own = (self.device, self.fast_dtype, self._enabled, self._cache_enabled)
        args, kwargs = getattr(self, "_traced_args", (own, {}))  # decorators are older than us
        order = {"device_type": None, "dtype": None, "enabled": True, "cache_enabled": None}
        given = order | dict(zip(order, args, strict=False)) | kwargs
        target = torch.amp.autocast_mode._enter_autocast
        values = tuple(given.values())
        handles.append(hooks.record("call_function", target, values, {}, object()))
        return self

    def leave(self: Any, *error: Any) -> None:  # noqa: ARG001
        target = torch.amp.autocast_mode._exit_autocast
        hooks.record("call_function", target, (handles.pop(),), {}, None)

    for name, value in (("__init__", new_init), ("__enter__", enter), ("__exit__", leave)):
        stack.enter_context(replaced(cls, name, value))


def checkpoints(hooks: Recording, stack: ExitStack) -> None:
    """Trace what `torch.utils.checkpoint.checkpoint(use_reentrant=False)` runs, nothing else.

    Its generator sets up hooks on saved tensors, which proxies are not: where that would have been
    is noted, as the graph keeps what the model computes again.
    """

    def nothing(*args: Any, **kwargs: Any) -> Iterator[None]:  # noqa: ARG001
        hooks.recomputed.append(location())
        yield

    module = torch.utils.checkpoint
    for name in vars(module).copy():
        if name.startswith("_checkpoint_without_reentrant_generator"):
            stack.enter_context(replaced(module, name, nothing))


def compiled_functions(stack: ExitStack) -> None:
    """Let `torch.compile` run what it was put around, inside the model, as the Python it is.

    Its own wrapper looks out for a trace by FX, and stops there unless it is told otherwise.
    """
    config = sys.modules.get("torch._dynamo.config")  # there since the first torch.compile
    if config is not None:
        stack.enter_context(config.patch(error_on_nested_fx_trace=False))
