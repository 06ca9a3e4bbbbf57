"""Helpers of the tracing tests: small modules, and the comparison with the original."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fxplastic.module import PlasticModule
from fxplastic.trace import Traced, trace


def plastic_of(model: nn.Module, *args: Any, **kwargs: Any) -> PlasticModule:
    return PlasticModule(model, trace(model, args, kwargs), {}, ())


def images(batch: int = 2, size: int = 8, channels: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(batch * 100 + size)
    return torch.randn(batch, channels, size, size, generator=generator)


def same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return type(a) is type(b) and list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


def assert_same_bits(make: Callable[[], nn.Module], *calls: tuple[Any, ...]) -> PlasticModule:
    """Traced on the first call, both modes give the original's bits on all of them."""
    torch.manual_seed(0)
    model = make()
    torch.manual_seed(0)
    plastic = plastic_of(make(), *calls[0])
    for training in (False, True):
        model.train(training)
        plastic.train(training)
        for call in calls:
            torch.manual_seed(1)
            expected = model(*call)
            torch.manual_seed(1)
            assert same(plastic(*call), expected)
    assert same(dict(plastic.state_dict()), dict(model.state_dict()))
    return plastic


class Functional(nn.Module):
    """A module whose forward is a function of it and the inputs."""

    def __init__(self, function: Callable[..., Any], **parts: Any) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Any) -> Any:
        return self.function(self, x)


def targets(traced: Traced, training: bool = False) -> list[Any]:
    return [n.target for n in traced.graphs[training].nodes]
