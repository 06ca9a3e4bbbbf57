"""Functions that a traced graph calls: guards, gradient mode, custom autograd functions.

Tracing answers questions of the model's Python code (`if x.shape[2] > 7`, `for t in parts`) from
the example inputs. Each such answer becomes a call of a guard in the graph, so that a run that
would answer otherwise stops with `GuardError` instead of computing something else.
"""

from __future__ import annotations

import linecache
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fxplastic.errors import GuardError

_FIX = "call with inputs like the example inputs, or trace again with inputs like these"


def _quote(where: str) -> str:
    """`where`, followed by the text of that source line if it can be read."""
    file, _, rest = where.partition(" in ")[0].rpartition(":")
    text = linecache.getline(file, int(rest)).strip() if file and rest.isdigit() else ""
    return f"{where} ({text})" if text else where


def expect(value: Any, expected: Any, where: str) -> None:
    """Stop unless `value` is what tracing found and fixed.

    Raises:
        GuardError: names the value, the expected one and the user's source line.

    >>> expect(3, 3, "model.py:1 in forward")
    """
    if isinstance(value, Tensor) or value != expected:
        tensor = isinstance(value, Tensor)
        shown = f"a tensor of shape {list(value.shape)}" if tensor else repr(value)
        raise GuardError(f"{_quote(where)}: got {shown}, tracing fixed {expected!r} here; {_FIX}")


def expect_length(value: Any, expected: int, where: str) -> None:
    """Stop unless `value` has `expected` elements: tracing unrolled a loop over it.

    Raises:
        GuardError: names both lengths and the user's source line.
    """
    if isinstance(value, (Tensor, Sequence)):
        if len(value) == expected:
            return
        got = f"{len(value)} elements"
    else:
        got = f"a {type(value).__name__}"
    raise GuardError(f"{_quote(where)}: got {got}, tracing fixed {expected} here; {_FIX}")


def expect_keys(value: Any, expected: Sequence[Any], where: str) -> None:
    """Stop unless `value` is a dict with these keys.

    Raises:
        GuardError: names the keys and the user's source line.
    """
    keys = list(value) if isinstance(value, Mapping) else type(value).__name__
    if keys != list(expected):
        raise GuardError(f"{_quote(where)}: got {keys}, tracing fixed {list(expected)}; {_FIX}")


def expect_dims(value: Any, expected: int, where: str) -> None:
    """Stop unless `value` is a tensor with `expected` axes.

    Raises:
        GuardError: names the shape and the input.
    """
    if not isinstance(value, Tensor):
        raise GuardError(f"{where}: got a {type(value).__name__}, needs a tensor; {_FIX}")
    if value.dim() != expected:
        raise GuardError(
            f"{where}: got shape {list(value.shape)}, tracing fixed {expected} axes; {_FIX}"
        )


CHECKS = frozenset({expect, expect_length, expect_keys, expect_dims})


def enter_grad_mode(enabled: bool) -> bool:
    """Set gradient mode, as a `no_grad` block of the model does; returns the mode before."""
    before = torch.is_grad_enabled()
    torch._C._set_grad_enabled(enabled)
    return before


def leave_grad_mode(before: bool) -> None:
    """Set gradient mode back to what `enter_grad_mode` returned."""
    torch._C._set_grad_enabled(before)


@dataclass(frozen=True)
class AutogradCall:
    """A call of a custom `torch.autograd.Function`, kept whole with its own backward."""

    function: type[torch.autograd.Function]

    @property
    def __name__(self) -> str:  # FX names nodes and globals after it
        return self.function.__name__

    def __call__(self, *args: Any) -> Any:
        """`function.apply(*args)`."""
        return self.function.apply(*args)


@dataclass(frozen=True)
class ScriptCall:
    """A call of a scripted function (FX would print its class in the generated code)."""

    function: Any

    @property
    def __name__(self) -> str:
        return str(self.function.name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """`function(*args, **kwargs)`."""
        return self.function(*args, **kwargs)
