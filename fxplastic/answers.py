"""How the tracer answers what the model's Python code asks of a proxy, and guards the answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from fxplastic import guards
from fxplastic.errors import TraceError
from fxplastic.execute import NotConstant, call, execute, fold, holds_tensor
from fxplastic.location import location, unknown
from fxplastic.meta import Twins, map_tree
from fxplastic.patches import ORIGINALS, Surface
from fxplastic.proxy import Method, Spot, ValueProxy, holds_proxy, is_method

Guard = Callable[[Any, Any, str], None]
_ON_DEVICE = {"is_cuda": "cuda", "is_cpu": "cpu", "is_mps": "mps", "is_xpu": "xpu"}
_FACTORIES = frozenset(ORIGINALS.values())
# Methods of a tensor that give Python values, which only a real tensor has.
_QUESTIONS = frozenset(
    "item tolist numpy __bool__ __int__ __float__ __complex__ __index__ __array__".split()
)


@dataclass(frozen=True)
class Plain:
    """A Python value that stands in the traced code as it is."""

    value: Any


class Answers(fx.Tracer):
    """The part of the tracer that proxies talk to."""

    device: torch.device
    twins: Twins

    def __init__(self, autowrap_functions: tuple[Callable[..., Any], ...]) -> None:
        super().__init__(autowrap_functions=autowrap_functions)
        self.executing = 0
        self.finished = False
        self.mode_matters = False
        self.surface = Surface({}, {})
        self.values: dict[fx.Node, Any] = {}
        self._guarded: set[tuple[fx.Node, Guard]] = set()
        self._asked: list[tuple[Spot, fx.Node, tuple[fx.Node, Guard]]] = []
        self._texts: list[tuple[str, fx.Node, tuple[fx.Node, Guard]]] = []
        self._grad_modes: list[tuple[bool, Any]] = [(True, None)]

    def record(
        self, kind: str, target: Any, args: Any, kwargs: Mapping[str, Any], value: Any = ..., /
    ) -> Any:
        """Append a node and return a proxy that knows its value."""
        raise NotImplementedError

    def real_attribute(self, name: str) -> Tensor | None:
        """The tensor behind a `get_attr` target, unless it is a parameter or buffer."""
        raise NotImplementedError

    def refused(self, what: str, fix: str) -> TraceError:
        """The error for something that a graph cannot do."""
        return TraceError(f"{location()}: {what} cannot be traced; {fix}")

    @contextmanager
    def aside(self) -> Iterator[None]:
        """What runs inside is the tracer's own work and is not recorded."""
        if not self.executing:
            self.surface.hide()
        self.executing += 1
        try:
            yield
        finally:
            self.executing -= 1
            if not self.executing:
                self.surface.show()

    # ------------------------------------------------------------ attributes
    def attribute(self, proxy: ValueProxy, name: str) -> Any:
        """`proxy.name`: a method to call, or a node with the attribute's value."""
        answer = self._device_answer(proxy.value, name)
        if answer is None:
            with self.aside():
                answer = getattr(proxy.value, name)
        if callable(answer) and not isinstance(answer, Tensor):
            return Method(proxy, name)
        return self.record("call_function", getattr, (proxy, name), {}, answer)

    def _device_answer(self, value: Any, name: str) -> Any:
        """What depends on the device is answered by the real one, not by meta."""
        if not isinstance(value, Tensor):
            return None
        if name == "device":
            return self.device
        return self.device.type == _ON_DEVICE[name] if name in _ON_DEVICE else None

    # ------------------------------------------------------------ guards
    def guard(self, node: fx.Node, check: Guard, expected: Any, where: str = "") -> fx.Node | None:
        """Append a guard on `node`'s value, once per node and kind of guard."""
        if (node, check) in self._guarded:
            return None
        self._guarded.add((node, check))
        args = (node, self.create_arg(expected), where or location())
        return self.create_node("call_function", check, args, {})

    def pin(self, proxy: ValueProxy, spot: Spot | None = None) -> Any:
        """The value of `proxy`, guarded from here on.

        A guard asked for at a `spot` is dropped again if the call there turns out to be recorded.
        """
        node, value = proxy.node, proxy.value
        made = self.guard(node, guards.expect, value)
        if made is not None and spot is not None:
            self._asked.append((spot, made, (node, guards.expect)))
        return value

    def settle(self, spot: Spot) -> None:
        """Drop the guards that were asked for at `spot`, where a call is recorded now."""
        for asked, made, key in self._asked:
            if asked == spot:
                made.graph.erase_node(made)
                self._guarded.discard(key)
        self._asked.clear()

    def text(self, proxy: ValueProxy, spec: str) -> str:
        """`format(proxy, spec)`; numbers and sizes in it are guarded from here on.

        The guard is dropped again if the text ends up in the message of an assertion.
        """
        value = proxy.value
        if isinstance(value, Tensor):
            return f"<{proxy.node.name}>"
        if isinstance(value, (bool, int, float, tuple)):
            made = self.guard(proxy.node, guards.expect, value)
            if made is not None:
                self._texts.append((str(value), made, (proxy.node, guards.expect)))
        return format(value, spec) if spec else str(value)

    def _forget_text(self, message: object) -> None:
        """Drop the guards that were asked for only to write `message`."""
        kept = []
        for text, made, key in self._texts:
            if text in str(message):
                made.graph.erase_node(made)
                self._guarded.discard(key)
            else:
                kept.append((text, made, key))
        self._texts = kept

    def pin_length(self, proxy: ValueProxy) -> int:
        """`len` of the value; guarded, but for shapes, as the inputs' numbers of axes are."""
        with self.aside():
            count = len(proxy.value)
        if not isinstance(proxy.value, torch.Size):
            self.guard(proxy.node, guards.expect_length, count)
        return count

    # ------------------------------------------------------------ values of tensors
    def concrete(self, proxy: ValueProxy, question: str) -> Tensor:
        """The real tensor behind `proxy`.

        Raises:
            TraceError: inputs, parameters, buffers or chance enter it.
        """
        with self.aside():
            try:
                found = fold(proxy.node, self.values, self.real_attribute, self._pinned)
            except NotConstant as error:
                raise unknown(question) from error
        result: Tensor = found
        return result

    def evaluate(self, kind: str, target: Any, args: Any, kwargs: Mapping[str, Any]) -> Any:
        """The value of a call on meta; where it needs values, of what no input enters.

        Raises:
            TraceError: the call needs values of inputs or weights.
        """
        with self.aside():
            try:
                return execute(self.root, self.twins, kind, target, args, kwargs)
            except (NotImplementedError, RuntimeError) as error:
                if "meta" not in str(error).lower():
                    raise
                name = target if isinstance(target, str) else getattr(target, "__name__", target)
                try:
                    return self._evaluate_constant(kind, target, args, kwargs)
                except (NotConstant, NotImplementedError, RuntimeError):
                    raise unknown(f"{name}(...)") from error

    def _evaluate_constant(self, kind: str, target: Any, args: Any, kwargs: Any) -> Any:
        """As `execute`, with real tensors in place of proxies that are constant."""
        left_meta: list[ValueProxy] = []

        def real(leaf: Any) -> Any:
            if type(leaf) is not ValueProxy or not isinstance(leaf.value, Tensor):
                return leaf.value if type(leaf) is ValueProxy else leaf
            try:
                return fold(leaf.node, self.values, self.real_attribute, self._pinned)
            except NotConstant:
                left_meta.append(leaf)
                return leaf.value

        args, kwargs = map_tree(tuple(args), real), map_tree(dict(kwargs), real)
        with torch.no_grad():
            value = call(self.root, kind, target, args, kwargs)
        if holds_tensor(value):
            return map_tree(value, lambda v: self.twins.of(v) if isinstance(v, Tensor) else v)
        if left_meta:
            raise NotConstant
        return Plain(value)

    def _pinned(self, node: fx.Node) -> Any:
        value = self.values[node]
        if not isinstance(value, (torch.device, torch.dtype)):
            self.guard(node, guards.expect, value)
        return value

    # ------------------------------------------------------------ torch functions
    def dispatch(self, func: Any, args: Any, kwargs: Mapping[str, Any]) -> Any:
        """A torch function that the model's code called, recorded if tensors go in or come out.

        Reading a property of a real tensor, which happens only to tensors that the code keeps out
        of sight of tracing, is answered directly.
        """
        name = getattr(func, "__name__", "")
        if func is torch._assert:
            self._forget_text(args[1] if len(args) > 1 else kwargs.get("message"))
        if func is torch._C._set_grad_enabled:
            return self._set_grad(func, *args)
        if name == "__get__":
            return self._property(func, args)
        if isinstance(func, torch._C.ScriptMethod):
            return self.record("call_method", func.name, (func.owner, *args), kwargs)
        if name == "__set__" or not self._concerns(func, args, kwargs):
            return func(*args, **kwargs)
        if is_method(func):
            if name in _QUESTIONS and type(args[0]) is not ValueProxy:
                return func(self._real(args[0], name), *args[1:], **kwargs)
            return self.record("call_method", name, args, kwargs)
        return self.record("call_function", func, args, kwargs)

    def _concerns(self, func: Any, args: Any, kwargs: Mapping[str, Any]) -> bool:
        if holds_proxy((args, kwargs)):
            return True
        try:
            if func in _FACTORIES:
                return True
        except TypeError:
            return False
        tensors: list[Any] = []
        map_tree((tuple(args), dict(kwargs)), tensors.append)
        return any(isinstance(t, Tensor) for t in tensors)

    def _property(self, func: Any, args: Any) -> Any:
        name = getattr(func.__self__, "__name__", "")
        answer = self._device_answer(args[0], name)
        if answer is None:
            with self.aside():
                answer = func(*args)
        if isinstance(answer, Tensor):
            return self.record("call_function", getattr, (args[0], name), {}, answer)
        return answer

    def _real(self, tensor: Tensor, question: str) -> Tensor:
        real = self.twins.originals.get(id(tensor), tensor)
        if real.is_meta:
            raise unknown(f"{question}()")
        return real

    def _set_grad(self, func: Any, enabled: bool) -> None:
        """Keep `with torch.no_grad()` blocks: the mode outside is known at run time only."""
        func(enabled)
        modes = self._grad_modes
        if len(modes) > 1 and modes[-2][0] == enabled:
            _, before = modes.pop()
            self.record("call_function", guards.leave_grad_mode, (before,), {}, None)
            return
        before = self.record("call_function", guards.enter_grad_mode, (enabled,), {}, True)
        modes.append((enabled, before))
