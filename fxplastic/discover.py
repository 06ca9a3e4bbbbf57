"""Discovery: run both graphs once on names, and read the channel groups off the ledger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from torch import fx, nn

from fxplastic.atoms import Atoms, atoms_of
from fxplastic.groups import ChannelGroup, FrozenAxis, Options
from fxplastic.identity import Ids
from fxplastic.interpret import tensors_in
from fxplastic.ledger import Ledger
from fxplastic.names_run import ledger_of
from fxplastic.partition import Partition, partition
from fxplastic.propagate import NamesMode
from fxplastic.scale import scale_of
from fxplastic.ties import ties_of
from fxplastic.trace import Traced


@dataclass(frozen=True)
class Discovery:
    """What discovery found, and the run that it was read off."""

    groups: Mapping[str, ChannelGroup]
    frozen: tuple[FrozenAxis, ...]
    ledger: Ledger
    atoms: Atoms
    parts: Partition


def discover(
    model: nn.Module,
    traced: Traced,
    options: Options = Options(),  # noqa: B008, a frozen value
    *,
    witness: bool = False,
) -> Discovery:
    """Find the channel groups of `model`.

    Args:
        model: the module that was traced; it is left as it was.
        traced: its graphs.
        options: what to open and what to leave alone.
        witness: keep what each op worked on besides neurons, as a change of widths needs it.

    Raises:
        DiscoverError: a node cannot run on meta tensors.
    """
    layouts: dict[int, Ids] = {}  # each once: modes that run together show it twice

    def watch(training: bool, node: fx.Node, result: Any, mode: NamesMode) -> None:  # noqa: ARG001
        for tensor in tensors_in(result):
            several = [f for f in mode.names(tensor).fields if len(f.axes) > 1 and f.neural]
            layouts.update((id(f.array), f.array) for f in several)

    ledger = ledger_of(model, traced, witness=witness, watch=watch)
    found = grouped(model, ledger, options)
    return replace(found, groups=_coupled(found, tuple(layouts.values())))


def _coupled(found: Discovery, layouts: Sequence[Ids]) -> Mapping[str, ChannelGroup]:
    """The groups, each with those whose widths are tied to its own."""
    scale = scale_of(found.ledger, found.atoms, found.groups, {})
    tied = ties_of(layouts, found.ledger, scale, found.groups).coupled()
    groups = {n: replace(g, coupled=tied.get(n, ())) for n, g in found.groups.items()}
    return MappingProxyType(groups)


def grouped(model: nn.Module, ledger: Ledger, options: Options) -> Discovery:
    """The channel groups that a finished record tells of, without their ties."""
    atoms = atoms_of(ledger)
    parts = partition(
        model,
        ledger,
        atoms,
        open_attention=options.attention == "value",
        approximate=options.approximate,
        freeze=options.freeze,
    )
    return Discovery(parts.groups, parts.frozen, ledger, atoms, parts)
