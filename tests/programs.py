"""Programs: small architectures as values, and the module that interprets one.

An architecture is a `Program`: a straight line of steps over one running value that is a map
``[B, C, H, W]``, tokens ``[B, N, C]`` or a row ``[B, C]``. Programs print themselves, which is
what a failing test shows.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tests.steps import BUILD, RUN

BATCH = 3


@dataclass(frozen=True)
class Step:
    """One step: what to do, with which layers (by name), and its settings."""

    kind: str
    layers: tuple[str, ...] = ()
    options: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Program:
    """Layers by name as ``(kind, options)``, steps in order, and the shape of one input."""

    shape: tuple[int, ...]
    layers: tuple[tuple[str, tuple[Any, ...]], ...]
    steps: tuple[Step, ...]
    ties: tuple[tuple[str, str], ...] = ()

    def build(self) -> nn.Module:
        """The network, with the same weights each time."""
        torch.manual_seed(0)
        return Network(self)

    def inputs(self, seed: int = 1) -> tuple[Tensor, ...]:
        """A batch of float64 inputs."""
        draw = torch.Generator().manual_seed(seed)
        return (torch.randn((BATCH, *self.shape), generator=draw, dtype=torch.float64),)


class Network(nn.Module):
    """Interprets a program."""

    def __init__(self, program: Program) -> None:
        super().__init__()
        self.program = program
        self.layers = nn.ModuleDict()
        for number, (kind, options) in enumerate(program.layers):
            self.layers[f"l{number}"] = BUILD[kind](*options)
        for one, other in program.ties:
            self.layers[one].weight = self.layers[other].weight

    def forward(self, x: Tensor) -> Tensor:
        for step in self.program.steps:
            x = RUN[step.kind](x, *(self.layers[name] for name in step.layers), *step.options)
        return x
