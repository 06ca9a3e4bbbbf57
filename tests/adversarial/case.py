"""What an adversarial case is, and the two networks that most of them are a middle part of."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import torch
from torch import Tensor, nn

ROWS = (4, 6)
TOKENS = (4, 5, 6)
MAPS = (4, 3, 6, 6)

HIDDEN = MappingProxyType({"i.weight:0": "1x8", "o.weight:1": "1x8"})
"""The verdict "exact" for the eight channels between `i` and `o`."""

Verdicts = Mapping[str, str]


@dataclass(frozen=True)
class Case:
    """A small module with the verdict that the pass must reach on it.

    Attributes:
        name: of the case, snake case.
        build: makes the module.
        shapes: shapes of its floating inputs.
        exact: by ``"parameter:axis"``, the groups along it as ``"blocks x neurons in each"``,
            joined by ``+``; ``"any"`` where several layouts would be right.
        frozen: by ``"parameter:axis"``, a regular expression that the reason of a frozen record
            of it must match; no exact group may run through it.
        raises: errors of which one must end the attempt, where it cannot succeed.
        indices: number of rows of an index input in [0, 10), for embeddings; 0 for none.
    """

    name: str
    build: Callable[[], nn.Module]
    shapes: tuple[tuple[int, ...], ...] = (ROWS,)
    exact: Verdicts = field(default_factory=dict)
    frozen: Verdicts = field(default_factory=dict)
    raises: tuple[type[Exception], ...] = ()
    indices: tuple[int, ...] = ()

    def model(self) -> nn.Module:
        """The module, always with the same weights."""
        torch.manual_seed(0)
        return self.build()

    def inputs(self) -> tuple[Tensor, ...]:
        """Inputs for the module, always the same ones."""
        draw = torch.Generator().manual_seed(1)
        if self.indices:
            return (torch.randint(0, 10, self.indices, generator=draw),)
        return tuple(torch.randn(s, generator=draw, dtype=torch.float64) for s in self.shapes)


Middle = Callable[[Tensor], Tensor]


class Between(nn.Module):
    """Two layers, `i` and `o`, and the part between them that a case is about."""

    def __init__(self, i: nn.Module, m: Middle, o: nn.Module) -> None:
        super().__init__()
        self.i, self.m, self.o = i, m, o

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.o(self.m(self.i(x)))
        return y


def rows(middle: Callable[[], Middle], out: int = 8, width: int = 8) -> Callable[[], nn.Module]:
    """Linear(6, width), the middle, Linear(out, 3)."""
    return lambda: Between(nn.Linear(6, width), middle(), nn.Linear(out, 3))


def maps(middle: Callable[[], Middle], out: int = 8, width: int = 8) -> Callable[[], nn.Module]:
    """A 3x3 convolution to `width` maps, the middle, a 1x1 convolution from `out` maps."""
    return lambda: Between(nn.Conv2d(3, width, 3, padding=1), middle(), nn.Conv2d(out, 3, 1))


def plain(middle: Middle) -> Callable[[], Middle]:
    """A middle without parameters."""
    return lambda: middle


class Rows(nn.Module):
    """Base of cases that write their own forward: `i` is Linear(6, 8) and `o` Linear(8, 3)."""

    def __init__(self) -> None:
        super().__init__()
        self.i, self.o = nn.Linear(6, 8), nn.Linear(8, 3)
        self.add()

    def add(self) -> None:
        """Makes what else the case needs."""


class Maps(nn.Module):
    """Base of cases on maps: `i` is a 3x3 convolution to 8 maps and `o` a 1x1 one from 8 maps."""

    def __init__(self) -> None:
        super().__init__()
        self.i, self.o = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 3, 1)
        self.add()

    def add(self) -> None:
        """Makes what else the case needs."""


def parameter(*shape: int) -> nn.Parameter:
    """A parameter drawn from a normal distribution."""
    return nn.Parameter(torch.randn(*shape))
