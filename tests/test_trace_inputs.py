"""Tracing: inputs of every form, optional ones among them, and outputs."""

from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fxplastic.errors import GuardError, TraceError
from fxplastic.trace import trace
from tests.tracing import Functional, assert_same_bits, images, plastic_of, same

Pair = namedtuple("Pair", ["first", "second"])


class Flexible(nn.Module):
    def forward(
        self,
        x: Tensor,
        parts: Any,
        *more: Tensor,
        scale: float = 2.0,
        mask: Tensor | None = None,
        **named: Tensor,
    ) -> Any:
        total = x * scale + parts["a"] + parts["b"][0] * parts["b"][1]
        for t in more:
            total = total + t
        for key, t in named.items():
            total = total + t * len(key)
        if mask is not None:
            total = total * mask
        return {"total": total, "pair": Pair(x, [total, None, 3])}


def test_nested_variadic_and_keyword_inputs() -> None:
    x = images()
    args = (x, {"a": x + 1, "b": [x, x + 2]}, x, x * 3)
    kwargs = {"scale": 3.0, "extra": x * 4}
    plastic = plastic_of(Flexible(), *args, **kwargs)
    assert same(plastic(*args, **kwargs), Flexible()(*args, **kwargs))
    with pytest.raises(GuardError, match=r"input 'scale': got 2.0, tracing fixed 3.0"):
        plastic(*args, extra=x)
    with pytest.raises(GuardError, match=r"input 'mask': got a tensor .* fixed None"):
        plastic(*args, **kwargs, mask=x)
    with pytest.raises(GuardError, match=r"input '\*more': got 1 elements, tracing fixed 2"):
        plastic(*args[:3], **kwargs)
    with pytest.raises(GuardError, match=r"input '\*\*named'"):
        plastic(*args, scale=3.0, other=x)
    with pytest.raises(GuardError, match=r"input 'parts': got \['a'\]"):
        plastic(x, {"a": x}, x, x, **kwargs)


def test_inputs_that_a_graph_cannot_take_are_named() -> None:
    with pytest.raises(TraceError, match="input 'x' is a set"):
        trace(Functional(lambda m, x: x), ({1},))
    with pytest.raises(TraceError, match=r"don't fit Functional\.forward"):
        trace(Functional(lambda m, x: x), ())


def test_optional_inputs_stay_optional() -> None:
    class Optional(nn.Module):
        def forward(self, x: Tensor, mask: Tensor | None = None, mode: str = "sum") -> Tensor:
            return x if mask is None else x * mask

    plastic = plastic_of(Optional(), images())
    assert torch.equal(plastic(x=images(), mode="sum"), images())
    with pytest.raises(GuardError, match="input 'mask'"):
        plastic(images(), images())
    masked = plastic_of(Optional(), images(), mask=images())
    assert torch.equal(masked(images(), images()), images() ** 2)


ONES = torch.ones(8)


def test_outputs_keep_their_type() -> None:
    @dataclass
    class Result:
        x: Tensor
        count: int = 3

    assert_same_bits(lambda: Functional(lambda m, x: OrderedDict(out=x, other=[x])), (images(),))
    result = plastic_of(Functional(lambda m, x: Result(x * 2)), images())(images())
    assert isinstance(result, Result)
    assert torch.equal(result.x, images() * 2)


def test_a_default_that_no_graph_can_hold() -> None:
    class Activated(nn.Module):
        def forward(self, x: Tensor, act: Any = F.relu, table: Tensor = ONES) -> Tensor:
            return act(x) + table

    plastic = plastic_of(Activated(), images())
    assert torch.equal(plastic(images()), Activated()(images()))
    with pytest.raises(GuardError, match="input 'act'"):
        plastic(images(), F.gelu)
