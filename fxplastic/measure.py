"""Which sizes follow which groups: one run on names, remembered node by node.

The run gives atoms also to axes that tensors get from sizes alone (see `Ledger.sizes`), so that
the 64 in ``x + x.new_zeros(b, 64)`` is known to follow the channels of ``x``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx, nn

from fxplastic.atoms import Atoms, atoms_of
from fxplastic.identity import Ids
from fxplastic.interpret import tensors_in
from fxplastic.ledger import Ledger
from fxplastic.meta import map_tree
from fxplastic.names_run import ledger_of
from fxplastic.propagate import NamesMode
from fxplastic.trace import Traced


@dataclass(frozen=True, eq=False)
class Seen:
    """What one node gave.

    Attributes:
        shapes: of its tensors, in order.
        ids: of each tensor, the neural fields (see `fxplastic.identity`).
        plain: the value itself, with `None` in place of tensors.
    """

    shapes: tuple[tuple[int, ...], ...]
    ids: tuple[tuple[Ids, ...], ...]
    plain: Any


@dataclass(frozen=True, eq=False)
class Measured:
    """A run on sizes: what each node of each graph gave, and the atoms of the run."""

    seen: Mapping[tuple[bool, str], Seen]
    ledger: Ledger
    atoms: Atoms


def measure(model: nn.Module, traced: Traced) -> Measured:
    """Run both graphs of `model` once on names and sizes."""
    seen: dict[tuple[bool, str], Seen] = {}

    def watch(training: bool, node: fx.Node, result: Any, mode: NamesMode) -> None:
        tensors = list(tensors_in(result))
        fields = [[f.array for f in mode.names(t).fields if f.neural] for t in tensors]
        plain = map_tree(result, lambda leaf: None if isinstance(leaf, Tensor) else leaf)
        shapes = tuple(tuple(t.shape) for t in tensors)
        seen[training, node.name] = Seen(shapes, tuple(map(tuple, fields)), plain)

    ledger = ledger_of(model, traced, sizes=True, watch=watch)
    return Measured(seen, ledger, atoms_of(ledger))
