"""New values for tensors, and the one place where old ones are overwritten: all or none."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from fxplastic.memory import laid_like
from fxplastic.sharded import here, part_of
from fxplastic.slices import pieces


@dataclass(frozen=True, eq=False)
class Change:
    """A tensor and what it is to hold.

    Attributes:
        label: what to call it.
        old: the tensor; of a sharded one, this process's part.
        new: what it is to hold, of the same shape unless a width changes.
        key: where an optimizer keeps it; empty for a parameter, a buffer or a gradient.
    """

    label: str
    old: Tensor
    new: Tensor
    key: str = ""

    @staticmethod
    def of(label: str, old: Tensor, new: Tensor, key: str = "") -> Change:
        """A change of a whole tensor; where that is sharded, of the part that lies here."""
        return Change(label, here(old), part_of(new, old), key)

    def laid(self) -> Tensor:
        """What it is to hold, in the memory format that it has."""
        return laid_like(self.new, self.old)

    def put(self, parameter: Any, optimizer: Optimizer | None) -> None:
        """Give it to a new parameter: as its gradient, or as optimizer state under `key`."""
        if not self.key:
            parameter.grad = self.laid()
        elif optimizer is not None:
            optimizer.state[parameter][self.key] = self.laid()


def step(name: str) -> None:
    """Called before every step of a rewrite; tests let it fail."""


def commit(changes: Iterable[Change]) -> None:
    """Write every change, or put back what was written."""
    done: list[Change] = []
    with torch.no_grad():
        try:
            for change in changes:
                step(f"write {change.label}")
                _swap(change)
                done.append(change)
            step("finish")
        except BaseException:
            for change in reversed(done):
                _swap(change)
            raise


def _swap(change: Change) -> None:
    """Exchange the contents of old and new: doing it again undoes it."""
    whole = (change.old, change.new)
    parts = pieces(change.old) if change.old.ndim else [...]  # a few rows stay in the cache
    done = 0
    try:
        for part in parts:
            _exchange(*(tensor[part] for tensor in whole))
            done += 1
    except BaseException:
        for part in parts[:done]:
            _exchange(*(tensor[part] for tensor in whole))
        raise


def _exchange(a: Tensor, b: Tensor) -> None:
    kept = a.clone()
    try:
        a.copy_(b)
        b.copy_(kept)
    except BaseException:
        a.copy_(kept)
        raise
