"""From the ledger to channel groups.

A neuron's *sites* are the parameter axes that it runs through. Neurons with the same sites form a
group; inside it, neurons with the same signature (see `fxplastic.atoms`) form a block and may
change places.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fxplastic.atoms import Atoms, Hash, Ints, signatures
from fxplastic.causes import Cause, Causes, causes_of, frozen_axes, what_parts
from fxplastic.groups import ChannelGroup, FrozenAxis, Role, Site
from fxplastic.ledger import Ledger, Place, mix
from fxplastic.naming import name_groups


# ---------------------------------------------------------------- groups
@dataclass(frozen=True, eq=False)
class Draft:
    """A group before it has a name: neurons in order, and the block of each."""

    neurons: Ints
    blocks: Ints
    exact: bool


def _drafts(
    neurons: Ints, shape: Hash, signature: Hash, rough: set[int], first: Ints
) -> list[Draft]:
    """Group by sites, then into blocks by signature; blocks of unequal size part ways."""
    drafts = []
    flags = np.isin(neurons, np.fromiter(rough, np.int64, len(rough)))
    keys = mix(shape[neurons], flags.astype(np.uint64))
    alike = np.argsort(keys, kind="stable")
    ends = np.flatnonzero(np.diff(keys[alike])) + 1
    for members in np.split(neurons[alike], ends) if neurons.size else ():
        _, block, counts = np.unique(signature[members], return_inverse=True, return_counts=True)
        sizes = counts[block]
        for size in np.unique(sizes).tolist():
            some, label = members[sizes == size], block[sizes == size]
            leads = np.full(label.max() + 1, np.iinfo(first.dtype).max)
            np.minimum.at(leads, label, first[some])
            lead = leads[label]
            order = np.lexsort((first[some], lead))
            _, rank = np.unique(lead[order], return_inverse=True)
            drafts.append(Draft(some[order], rank, int(some[0]) not in rough))
    return sorted(drafts, key=lambda d: int(first[d.neurons].min()))


@dataclass(frozen=True, eq=False)
class Partition:
    """The neurons of a run, parted into groups and what is frozen.

    Attributes:
        groups: by name.
        frozen: the records of what is left alone.
        neurons: for each group, its neurons in order, as numbers in `Atoms.neuron`.
        causes: the first cause for each neuron that is in no group.
    """

    groups: Mapping[str, ChannelGroup]
    frozen: tuple[FrozenAxis, ...]
    neurons: Mapping[str, Ints]
    causes: Causes


@dataclass(frozen=True)
class _Names:
    order: Mapping[str, int]
    aliases: Mapping[str, tuple[str, ...]]
    shapes: Mapping[str, tuple[int, ...]]


def _model_names(model: nn.Module) -> _Names:
    first: dict[int, str] = {}
    aliases: dict[str, list[str]] = {}
    every = [
        *model.named_parameters(remove_duplicate=False),
        *model.named_buffers(remove_duplicate=False),
    ]
    shapes = {}
    for name, tensor in every:
        lead = first.setdefault(id(tensor), name)
        shapes[name] = tuple(tensor.shape)
        if lead != name:
            aliases.setdefault(lead, []).append(name)
    order = {name: i for i, (name, _) in enumerate(every)}
    return _Names(order, {k: tuple(v) for k, v in aliases.items()}, shapes)


@dataclass(frozen=True, eq=False)
class _Members:
    """The atoms of every neuron that lie on a site, neuron after neuron."""

    atoms: Ints
    start: Ints

    @classmethod
    def of(cls, atoms: Atoms, real: NDArray[np.bool_]) -> _Members:
        index = np.flatnonzero(real)
        count = int(atoms.neuron.max(initial=0)) + 1
        order = np.argsort(atoms.neuron[index], kind="stable")
        sizes = np.bincount(atoms.neuron[index], minlength=count)
        return cls(index[order], np.concatenate([[0], np.cumsum(sizes)]))

    def rows(self, neurons: Ints) -> tuple[Ints, Ints]:
        """The atoms of `neurons`, and for each the place of its neuron among them."""
        sizes = self.start[neurons + 1] - self.start[neurons]
        row = np.repeat(np.arange(neurons.size), sizes)
        first = np.repeat(self.start[neurons] - np.cumsum(sizes) + sizes, sizes)
        return self.atoms[first + np.arange(row.size)], row


def _sites(
    draft: Draft, members: _Members, ledger: Ledger, atoms: Atoms, names: _Names
) -> tuple[Site, ...] | None:
    """Sites of a draft; ``None`` where positions and rows would not be a product."""
    mine, row = members.rows(draft.neurons)
    order = np.lexsort((atoms.position[mine], row, atoms.site[mine]))
    mine = mine[order]
    numbers, first = np.unique(atoms.site[mine], return_index=True)
    sites = []
    for number, here in zip(numbers.tolist(), np.split(mine, first[1:]), strict=True):
        site = ledger.sites[number]
        grid = atoms.position[here].reshape(draft.neurons.size, -1)
        rows = None
        if site.splits > 1:
            group = grid // site.length
            if (group != group[:, :1]).any():
                return None
            height = names.shapes[site.parameter][0] // site.splits
            rows = torch.from_numpy(group[:, :1] * height + np.arange(height))
        role: Role = "consumer" if number in ledger.consumed else "producer"
        positions = torch.from_numpy(np.ascontiguousarray(grid % site.length))
        aliases = names.aliases.get(site.parameter, ())
        sites.append(Site(site.parameter, site.axis, role, positions, rows, aliases))
    return tuple(sorted(sites, key=lambda s: (names.order[s.parameter], s.axis)))


def partition(
    model: nn.Module,
    ledger: Ledger,
    atoms: Atoms,
    *,
    open_attention: bool = False,
    approximate: bool = False,
    freeze: Sequence[str] = (),
) -> Partition:
    """Groups and frozen axes of a finished discovery run."""
    skip = frozenset(
        k for k, on in (("attention", open_attention), ("approximate", approximate)) if on
    )
    causes = causes_of(model, ledger, atoms, skip, freeze)
    rough = {
        n
        for f in ledger.freezes
        if f.kind == "approximate" and approximate
        for n in np.unique(atoms.neuron[f.ids]).tolist()
    }
    split = {s.parent for s in ledger.sites if s.parent is not None}
    real = (atoms.site >= 0) & ~np.isin(atoms.site, np.array(sorted(split), np.int64))
    drafts, _ = _all_drafts(ledger, atoms, real, causes, rough)
    names, members = _model_names(model), _Members.of(atoms, atoms.site >= 0)
    found: list[tuple[Draft, tuple[Site, ...]]] = []
    for draft in drafts:
        sites = _sites(draft, members, ledger, atoms, names)
        block_size = draft.neurons.size // (int(draft.blocks.max()) + 1)
        if sites is None:
            text = "its positions and rows in a grouped convolution are no product"
            causes.add(draft.neurons, Cause(text, Place()))
        elif block_size < 2:
            causes.add(draft.neurons, what_parts(draft.neurons, ledger, atoms))
        else:
            found.append((draft, sites))
    called = dict(zip(name_groups([s for _, s in found]), found, strict=True))
    groups = {
        name: ChannelGroup(name, int(d.neurons.size), d.exact, s, tuple(d.blocks.tolist()))
        for name, (d, s) in called.items()
    }
    frozen = frozen_axes(ledger, atoms, real, causes, names.order)
    neurons = {name: draft.neurons for name, (draft, _) in called.items()}
    return Partition(MappingProxyType(groups), frozen, MappingProxyType(neurons), causes)


def _all_drafts(
    ledger: Ledger,
    atoms: Atoms,
    real: NDArray[np.bool_],
    causes: Causes,
    rough: set[int],
) -> tuple[list[Draft], Ints]:
    count = atoms.neuron.max(initial=0) + 1
    shape = np.zeros(count, np.uint64)
    np.add.at(shape, atoms.neuron[real], mix(atoms.site[real] + 1))
    # Neurons are listed in the order of their first producer (their first site without one).
    first = np.full(count, np.iinfo(np.int64).max)
    index = np.flatnonzero(real)
    made = ~np.isin(atoms.site[index], list(ledger.consumed))
    np.minimum.at(first, atoms.neuron[index[made]], index[made])
    orphan = first == np.iinfo(np.int64).max
    np.minimum.at(first, atoms.neuron[index], np.where(orphan[atoms.neuron[index]], index, 1 << 62))
    present = np.zeros(count, bool)
    present[atoms.neuron[real]] = True
    neurons = np.flatnonzero(present)
    drafts = _drafts(
        neurons[~causes.frozen[neurons]], shape, signatures(ledger, atoms), rough, first
    )
    return drafts, first
