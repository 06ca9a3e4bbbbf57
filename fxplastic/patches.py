"""What is patched in torch for the time of a trace, and put back after it."""

from __future__ import annotations

import builtins
import functools
import gc
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fxplastic.patched_calls import (
    autocast_blocks,
    autograd_functions,
    checkpoints,
    compiled_functions,
    replaced,
    scripted_functions,
)
from fxplastic.proxy import Spot, ValueProxy, holds_proxy, spot_of
from fxplastic.sources import is_user_code

# Calls that make a tensor from sizes or numbers (or answer from a dtype): torch's argument parser
# refuses a proxy in them before any mode or `__torch_function__` is asked.
FACTORIES = (
    "arange as_tensor asarray blackman_window complex empty empty_strided eye finfo full "
    "hamming_window hann_window iinfo linspace logspace meshgrid normal ones rand randint randn "
    "randperm scalar_tensor tensor tril_indices triu_indices zeros"
).split()

ORIGINALS: dict[str, Any] = {name: getattr(torch, name) for name in FACTORIES}
# What a model's code may ask about the state that it is called in.
STATES = ("is_autocast_enabled", "is_grad_enabled", "is_inference_mode_enabled")
_STATE: dict[str, Any] = {name: getattr(torch, name) for name in STATES}

_BUILTIN_ISINSTANCE = isinstance


class Hooks(Protocol):
    """What the patches ask of the tracer."""

    executing: int
    surface: Surface
    mode_matters: bool
    recomputed: list[str]

    def record(self, kind: str, target: Any, args: Any, kwargs: Any, value: Any = ..., /) -> Any:
        """Append a node and return a proxy that knows its value."""

    def dispatch(self, func: Any, args: Any, kwargs: Any, /) -> Any:
        """A torch function was called by the model's code."""

    def settle(self, spot: Spot, /) -> None:
        """Drop guards that the argument parser of a recorded call asked for."""

    def stands_for(self, tensor: Tensor, /) -> Any:
        """The proxy of a parameter, buffer or tensor attribute."""

    def read_flag(self, module: nn.Module, /) -> None:
        """The model's code has read `module.training`."""

    def check_rebinding(self, module: nn.Module, name: str, value: Any, /) -> bool:
        """Whether `module.name = value` may go ahead (an error where it may never)."""


class Listening(TorchFunctionMode):
    """Hands every torch function that the model's code calls to the tracer."""

    def __init__(self, hooks: Hooks) -> None:
        super().__init__()
        self.hooks = hooks

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: Any = (),
        kwargs: Any = None,
    ) -> Any:
        """See `Hooks.dispatch`."""
        if self.hooks.executing:
            return func(*args, **(kwargs or {}))
        self.hooks.settle(spot_of(sys._getframe(1)))
        return self.hooks.dispatch(func, args, kwargs or {})


class _TrainingFlag:
    """`nn.Module.training` as a property that reports who reads it.

    A data descriptor comes before the instance's `__dict__`, where the flag itself stays.
    """

    def __init__(self, hooks: Hooks) -> None:
        self.hooks = hooks

    def __get__(self, module: nn.Module | None, owner: type | None = None) -> Any:
        if module is None:
            raise AttributeError("training")
        if "training" not in module.__dict__:  # a scripted module keeps it in C++
            return nn.Module.__getattr__(module, "training")
        if not self.hooks.executing:
            self.hooks.read_flag(module)
        elif is_user_code(sys._getframe(1).f_code):  # a hook, a parametrization
            self.hooks.mode_matters = True
        return module.__dict__["training"]

    def __set__(self, module: nn.Module, value: bool) -> None:
        self.hooks.mode_matters = True
        module.__dict__["training"] = value


@dataclass(frozen=True)
class Surface:
    """Patched functions of `torch` and `builtins`, in place only while the model's own code runs.

    So nothing that torch imports or caches while it executes a call can hold on to one of them.
    """

    of_torch: Mapping[str, Any]
    of_builtins: Mapping[str, Any]

    def show(self) -> None:
        """Put the patched functions in place."""
        vars(torch).update(self.of_torch)
        vars(builtins).update(self.of_builtins)

    def hide(self) -> None:
        """Put the original functions in place."""
        vars(torch).update(ORIGINALS | _STATE)
        builtins.isinstance = _BUILTIN_ISINSTANCE


def _isinstance(thing: Any, classes: Any) -> bool:
    """`isinstance`, by its value for a proxy.

    A `__class__` property would do in Python, but torch's C++ code believes it as well, takes a
    proxy for a tensor, and crashes.
    """
    if type(thing) is ValueProxy and not _BUILTIN_ISINSTANCE(thing, classes):
        return _BUILTIN_ISINSTANCE(thing.value, classes)
    return _BUILTIN_ISINSTANCE(thing, classes)


def _factory(hooks: Hooks, function: Callable[..., Any]) -> Callable[..., Any]:

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        if hooks.executing:
            return function(*args, **kwargs)
        return hooks.record("call_function", function, args, kwargs)

    return wrapper


def _state(hooks: Hooks, function: Callable[..., Any]) -> Callable[..., Any]:
    """The answer to the model's own code is recorded, and so guarded where it is branched on."""

    def wrapper(*args: Any, **kwargs: Any) -> Any:
        answer = function(*args, **kwargs)
        if hooks.executing or not is_user_code(sys._getframe(1).f_code):
            return answer
        return hooks.record("call_function", function, args, kwargs, answer)

    return wrapper


def forget_proxies() -> None:
    """Clear every `functools.cache` that holds a proxy: it would go on to answer real calls."""
    for thing in gc.get_objects():
        if type(thing) is functools._lru_cache_wrapper and holds_proxy(gc.get_referents(thing)):
            thing.cache_clear()


def _modules(hooks: Hooks, stack: ExitStack) -> None:
    set_attribute, members = nn.Module.__setattr__, nn.Module._named_members

    def new_set(self: nn.Module, name: str, value: Any) -> None:
        if hooks.executing or hooks.check_rebinding(self, name, value):
            set_attribute(self, name, value)

    def new_members(self: nn.Module, *args: Any, **kwargs: Any) -> Iterator[tuple[str, Any]]:
        for name, value in members(self, *args, **kwargs):
            keep = hooks.executing or not isinstance(value, Tensor)
            yield name, value if keep else hooks.stands_for(value)

    stack.enter_context(replaced(nn.Module, "training", _TrainingFlag(hooks)))
    stack.enter_context(replaced(nn.Module, "__setattr__", new_set))
    stack.enter_context(replaced(nn.Module, "_named_members", new_members))


@contextmanager
def tracing(hooks: Hooks) -> Iterator[None]:
    """Patch torch so that `hooks` sees what the model's code does; put all back on exit."""
    fast = torch.backends.mha.get_fastpath_enabled()
    with ExitStack() as stack:
        stack.callback(torch.backends.mha.set_fastpath_enabled, fast)
        torch.backends.mha.set_fastpath_enabled(False)  # its fused kernels have no meta form
        torch.overrides.is_tensor_method_or_property(Tensor.add)  # fills caches of functions
        functions = {n: _factory(hooks, f) for n, f in ORIGINALS.items()}
        functions |= {n: _state(hooks, f) for n, f in _STATE.items()}
        hooks.surface = Surface(functions, {"isinstance": _isinstance})
        stack.callback(setattr, hooks, "surface", Surface({}, {}))  # shows nothing ever after
        stack.callback(hooks.surface.hide)
        hooks.surface.show()
        _modules(hooks, stack)
        autograd_functions(hooks, stack)
        scripted_functions(hooks, stack)
        autocast_blocks(hooks, stack)
        checkpoints(hooks, stack)
        compiled_functions(stack)
        stack.enter_context(torch.enable_grad())
        stack.enter_context(Listening(hooks))
        yield
