"""Shapes of a model's inputs, and tensors of these shapes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Inputs:
    """Shapes of a model's inputs.

    Attributes:
        shapes: of each floating tensor, in order, the batch first.
        options: keyword arguments that the constructor needs for these shapes.
        tokens: shapes of integer tensors by name, with the number of different values.
        named: names of the floating tensors, where they go by keyword.
    """

    shapes: tuple[tuple[int, ...], ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    tokens: Mapping[str, tuple[tuple[int, ...], int]] = field(default_factory=dict)
    named: tuple[str, ...] = ()

    def make(self, device: str, dtype: torch.dtype) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
        """Positional and keyword inputs: zeros, or distinct tokens, on `device`."""
        floats = [torch.zeros(s, device=device, dtype=dtype) for s in self.shapes]
        kwargs = dict(zip(self.named, floats, strict=False))
        draw = torch.Generator().manual_seed(3)
        for name, (shape, most) in self.tokens.items():
            values = torch.randint(most, shape, generator=draw)
            kwargs[name] = values.to(device)
        return tuple(floats[len(self.named) :]), kwargs

    @property
    def batch(self) -> int:
        """Number of samples."""
        shapes = [*self.shapes, *(shape for shape, _ in self.tokens.values())]
        return shapes[0][0]

    @property
    def side(self) -> int:
        """Size of the longest axis of an image or signal; 0 where there is none."""
        return max((size for shape in self.shapes for size in shape[2:]), default=0)

    def batched(self, batch: int) -> Inputs:
        """The same inputs in another batch."""
        return replace(
            self,
            shapes=tuple((batch, *shape[1:]) for shape in self.shapes),
            tokens={n: ((batch, *shape[1:]), most) for n, (shape, most) in self.tokens.items()},
        )

    def __str__(self) -> str:
        every = [*self.shapes, *(shape for shape, _ in self.tokens.values())]
        return " ".join("x".join(map(str, shape[1:])) for shape in every)
