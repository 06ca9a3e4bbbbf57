"""From the ledger to channel groups.

Connected components of the united atoms are the neurons. A neuron's *sites* are the parameter
axes that it runs through; its *signature* is a hash over all events of what its atoms met, slot by
slot, and of what they rode with. Neurons with the same sites form a group; inside it, neurons with
the same signature form a block and may change places. A sum of hashes over events is a label check
of the whole program at once: two neurons agree only if every op treats them alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from types import MappingProxyType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fxplastic.errors import DiscoverError
from fxplastic.groups import ChannelGroup, FrozenAxis, Role, Site
from fxplastic.ledger import AtomSite, Event, Freeze, Ledger, Place, mix
from fxplastic.naming import name_groups

Ints = NDArray[np.int64]
Hash = NDArray[np.uint64]


@dataclass(frozen=True, eq=False)
class Atoms:
    """Per atom: its site, position, component (neuron) and slot hash. Atom 0 is nobody."""

    site: Ints
    position: Ints
    neuron: Ints
    slot: Hash


@dataclass(frozen=True)
class Cause:
    """Why neurons are frozen."""

    reason: str
    place: Place


def _components(ledger: Ledger) -> Ints:
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    n = ledger.atom_count
    if ledger.edges:
        a = np.concatenate([e[0] for e in ledger.edges])
        b = np.concatenate([e[1] for e in ledger.edges])
    else:
        a = b = np.zeros(0, np.int32)
    graph = coo_matrix((np.ones(a.size, np.int8), (a, b)), shape=(n, n))
    return np.asarray(connected_components(graph, directed=False)[1], np.int64)


def _atoms(ledger: Ledger) -> Atoms:
    site = np.full(ledger.atom_count, -1, np.int64)
    position = np.zeros(ledger.atom_count, np.int64)
    for number, s in enumerate(ledger.sites):
        site[s.base : s.base + s.size] = number
        position[s.base : s.base + s.size] = np.arange(s.size)
    neuron = _components(ledger)
    order = np.lexsort((position, site, neuron))
    same = np.zeros(order.size, bool)
    same[1:] = (neuron[order][1:] == neuron[order][:-1]) & (site[order][1:] == site[order][:-1])
    index = np.arange(order.size)
    start = np.maximum.accumulate(np.where(same, 0, index))
    rank = np.empty(order.size, np.int64)
    rank[order] = index - start
    return Atoms(site, position, neuron, mix(site + 1, rank))


def _signatures(ledger: Ledger, atoms: Atoms) -> Hash:
    signature = np.zeros(atoms.neuron.max(initial=0) + 1, np.uint64)
    for number, event in enumerate(ledger.events):
        np.add.at(signature, atoms.neuron[event.ids], _marks(number, event, atoms))
    return signature


def _marks(number: int, event: Event, atoms: Atoms) -> Hash:
    met = [atoms.slot[p] for p in event.partners]
    return mix(number + 1, atoms.slot[event.ids], *met, event.labels)


# ---------------------------------------------------------------- what is frozen, and why
def _causes(
    model: nn.Module,
    ledger: Ledger,
    atoms: Atoms,
    skip: frozenset[str],
    freeze: Sequence[str],
) -> dict[int, Cause]:
    """The first cause for every neuron that must be left alone."""
    causes: dict[int, Cause] = {}
    entries = [*_asked(model, ledger, freeze), *ledger.freezes, *_conflicts(ledger)]
    entries += _split_parents(ledger, atoms)
    for entry in entries:
        if entry.kind not in skip:
            for neuron in np.unique(atoms.neuron[entry.ids]).tolist():
                causes.setdefault(neuron, Cause(entry.reason, entry.place))
    for neuron, cause in _unused(ledger, atoms).items():
        causes.setdefault(neuron, cause)
    return causes


def _range(site: AtomSite) -> NDArray[np.int32]:
    return np.arange(site.base, site.base + site.size, dtype=np.int32)


def _asked(model: nn.Module, ledger: Ledger, patterns: Sequence[str]) -> list[Freeze]:
    names = {n for n, _ in model.named_parameters(remove_duplicate=False)}
    names |= {n for n, _ in model.named_buffers(remove_duplicate=False)}
    entries = []
    for pattern in patterns:
        if not any(fnmatchcase(n, pattern) for n in names):
            raise DiscoverError(
                f"freeze={pattern!r} matches no parameter and no buffer: give names as in "
                "model.named_parameters(), with * for any characters"
            )
        entries += [
            Freeze(_range(s), f"you asked for it (freeze={pattern!r})", "edge", Place())
            for s in ledger.sites
            if fnmatchcase(s.parameter, pattern)
        ]
    return entries


def _conflicts(ledger: Ledger) -> list[Freeze]:
    """A site that was scaled in one place and used unscaled in another."""
    reason = (
        "the same parameter axis takes the signal up in one place (scaled by the share) and is "
        "used as it stands in another"
    )
    both = sorted(set(ledger.consumed) & set(ledger.produced))
    return [Freeze(_range(ledger.sites[n]), reason, "law", ledger.produced[n]) for n in both]


def _split_parents(ledger: Ledger, atoms: Atoms) -> list[Freeze]:
    """A weight used group by group in one place and as a whole (or otherwise) in another."""
    touched = {e for event in ledger.events for e in np.unique(atoms.site[event.ids]).tolist()}
    touched |= {e for pair in ledger.edges for e in np.unique(atoms.site[pair[1]]).tolist()}
    touched |= {e for f in ledger.freezes for e in np.unique(atoms.site[f.ids]).tolist()}
    touched |= set(ledger.consumed) | set(ledger.produced)
    children: dict[int, list[int]] = {}
    for number, site in enumerate(ledger.sites):
        if site.parent is not None:
            children.setdefault(site.parent, []).append(number)
    reason = "a grouped convolution shares its weight with an op that sees it in another way"
    shared = {
        ledger.sites[parent].parameter
        for parent, kids in children.items()
        if parent in touched or len(kids) > 1
    }
    return [
        Freeze(_range(s), reason, "law", Place()) for s in ledger.sites if s.parameter in shared
    ]


def _unused(ledger: Ledger, atoms: Atoms) -> dict[int, Cause]:
    """Neurons whose signal nothing takes up."""
    consumed = np.zeros(len(ledger.sites) + 1, bool)
    consumed[list(ledger.consumed)] = True
    taken = np.zeros(atoms.neuron.max(initial=0) + 1, bool)
    taken[atoms.neuron[consumed[atoms.site]]] = True
    cause = Cause(
        "no parameter takes its signal up: it is unused, or only scales something", Place()
    )
    return {int(n): cause for n in np.unique(atoms.neuron[1:]).tolist() if not taken[n]}


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
    for key in dict.fromkeys(keys.tolist()):
        members = neurons[keys == np.uint64(key)]
        _, block, counts = np.unique(signature[members], return_inverse=True, return_counts=True)
        sizes = counts[block]
        for size in np.unique(sizes).tolist():
            some, label = members[sizes == size], block[sizes == size]
            lead = np.array([first[some][label == b].min() for b in label])
            order = np.lexsort((first[some], lead))
            _, rank = np.unique(lead[order], return_inverse=True)
            drafts.append(Draft(some[order], rank, int(some[0]) not in rough))
    return sorted(drafts, key=lambda d: int(first[d.neurons].min()))


def _sites(draft: Draft, ledger: Ledger, atoms: Atoms, names: _Names) -> tuple[Site, ...] | None:
    """Sites of a draft; ``None`` where positions and rows would not be a product."""
    row_of = {int(n): i for i, n in enumerate(draft.neurons)}
    mine = np.flatnonzero(np.isin(atoms.neuron, draft.neurons) & (atoms.site >= 0))
    sites = []
    for number in np.unique(atoms.site[mine]).tolist():
        site = ledger.sites[number]
        here = mine[atoms.site[mine] == number]
        order = np.lexsort((atoms.position[here], [row_of[int(n)] for n in atoms.neuron[here]]))
        grid = atoms.position[here][order].reshape(draft.neurons.size, -1)
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


def partition(
    model: nn.Module,
    ledger: Ledger,
    *,
    open_attention: bool = False,
    approximate: bool = False,
    freeze: Sequence[str] = (),
) -> tuple[Mapping[str, ChannelGroup], tuple[FrozenAxis, ...]]:
    """Groups and frozen axes of a finished discovery run."""
    atoms = _atoms(ledger)
    skip = frozenset(
        k for k, on in (("attention", open_attention), ("approximate", approximate)) if on
    )
    causes = _causes(model, ledger, atoms, skip, freeze)
    rough = {
        n
        for f in ledger.freezes
        if f.kind == "approximate" and approximate
        for n in np.unique(atoms.neuron[f.ids]).tolist()
    }
    split = {s.parent for s in ledger.sites if s.parent is not None}
    real = (atoms.site >= 0) & ~np.isin(atoms.site, np.array(sorted(split), np.int64))
    drafts, _ = _all_drafts(ledger, atoms, real, causes, rough)
    names = _model_names(model)
    found: list[tuple[Draft, tuple[Site, ...]]] = []
    for draft in drafts:
        sites = _sites(draft, ledger, atoms, names)
        block_size = draft.neurons.size // (int(draft.blocks.max()) + 1)
        if sites is None:
            text = "its positions and rows in a grouped convolution are no product"
            causes.update(dict.fromkeys(draft.neurons.tolist(), Cause(text, Place())))
        elif block_size < 2:
            cause = _what_parts(draft.neurons, ledger, atoms)
            causes.update(dict.fromkeys(draft.neurons.tolist(), cause))
        else:
            found.append((draft, sites))
    groups = {
        name: ChannelGroup(name, int(d.neurons.size), d.exact, s, tuple(d.blocks.tolist()))
        for name, (d, s) in zip(name_groups([s for _, s in found]), found, strict=True)
    }
    return MappingProxyType(groups), _frozen(ledger, atoms, real, causes, names)


def _all_drafts(
    ledger: Ledger,
    atoms: Atoms,
    real: NDArray[np.bool_],
    causes: Mapping[int, Cause],
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
    neurons = np.unique(atoms.neuron[real])
    alive = ~np.isin(neurons, np.fromiter(causes, np.int64, len(causes)))
    drafts = _drafts(neurons[alive], shape, _signatures(ledger, atoms), rough, first)
    return drafts, first


def _what_parts(neurons: Ints, ledger: Ledger, atoms: Atoms) -> Cause:
    """The op that tells these neurons apart, or that ties a whole axis into one of them."""
    if neurons.size > 1:
        for number, event in enumerate(ledger.events):
            mine = np.isin(atoms.neuron[event.ids], neurons)
            total = np.zeros(atoms.neuron.max(initial=0) + 1, np.uint64)
            np.add.at(total, atoms.neuron[event.ids][mine], _marks(number, event, atoms)[mine])
            if np.unique(total[neurons]).size == neurons.size:
                text = f"{event.op} treats every one of its positions differently"
                return Cause(text, event.place)
        return Cause("the ops along its path treat its positions differently", Place())
    for event in ledger.events:
        mine = atoms.neuron[event.ids] == neurons[0]
        for partner in event.partners:
            tied = mine & (atoms.site[event.ids] == atoms.site[partner]) & (event.ids != partner)
            fanned = np.unique(event.ids[mine]).size != np.unique(partner[mine]).size
            if tied.any() or fanned:
                return Cause(f"{event.op} ties its positions into one neuron", event.place)
    return Cause("it is a single neuron: there is nothing to turn over", Place())


def _frozen(
    ledger: Ledger,
    atoms: Atoms,
    real: NDArray[np.bool_],
    causes: Mapping[int, Cause],
    names: _Names,
) -> tuple[FrozenAxis, ...]:
    counts: dict[tuple[str, int, Cause], int] = {}
    index = np.flatnonzero(real & np.isin(atoms.neuron, np.fromiter(causes, np.int64, len(causes))))
    for atom in index.tolist():
        site = ledger.sites[atoms.site[atom]]
        key = (site.parameter, site.axis, causes[int(atoms.neuron[atom])])
        counts[key] = counts.get(key, 0) + 1
    records = [
        FrozenAxis(p, axis, c.reason, c.place.node, c.place.source, n)
        for (p, axis, c), n in counts.items()
    ]
    return tuple(sorted(records, key=lambda r: (names.order[r.parameter], r.axis)))
