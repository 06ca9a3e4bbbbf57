"""The atoms of a finished run, each with its neuron, and the marks that tell neurons apart.

Connected components of the united atoms are the neurons. A neuron's *signature* is a hash over all
events of what its atoms met, slot by slot, and of what they rode with: a label check of the whole
program at once, as two neurons agree only if every op treats them alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fxplastic.ledger import Event, Ledger, mix

Ints = NDArray[np.int64]
Hash = NDArray[np.uint64]

# Events are looked at together, which is faster, unless they are so long that memory counts.
_AT_ONCE, _LONG = 256, 1 << 18


@dataclass(frozen=True, eq=False)
class Atoms:
    """Per atom: its site, position, component (neuron) and slot hash. Atom 0 is nobody."""

    site: Ints
    position: Ints
    neuron: Ints
    slot: Hash


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


def atoms_of(ledger: Ledger) -> Atoms:
    """The atoms of a finished run, in the order in which they were made."""
    site = np.full(ledger.atom_count, -1, np.int64)
    position = np.zeros(ledger.atom_count, np.int64)
    for number, s in enumerate(ledger.sites):
        site[s.base : s.base + s.size] = number
        position[s.base : s.base + s.size] = np.arange(s.size)
    neuron = _components(ledger)
    order = np.argsort(neuron, kind="stable")  # atoms are numbered by site and position
    same = np.zeros(order.size, bool)
    same[1:] = (neuron[order][1:] == neuron[order][:-1]) & (site[order][1:] == site[order][:-1])
    index = np.arange(order.size)
    start = np.maximum.accumulate(np.where(same, 0, index))
    rank = np.empty(order.size, np.int64)
    rank[order] = index - start
    return Atoms(site, position, neuron, mix(site + 1, rank))


def signatures(ledger: Ledger, atoms: Atoms) -> Hash:
    """One hash per neuron, over all events."""
    signature = np.zeros(atoms.neuron.max(initial=0) + 1, np.uint64)
    alike: dict[int, list[tuple[int, Event]]] = {}
    for number, event in enumerate(ledger.events):
        some = alike.setdefault(len(event.partners), [])
        some.append((number, event))
        if len(some) >= _AT_ONCE or event.ids.size >= _LONG:
            _add_marks(signature, some, atoms)
            some.clear()
    for some in alike.values():
        _add_marks(signature, some, atoms)
    return signature


def _add_marks(signature: Hash, some: Sequence[tuple[int, Event]], atoms: Atoms) -> None:
    """Add what events with equally many partners say of the neurons in them."""
    if not some:
        return
    sizes = [event.ids.size for _, event in some]
    number = np.repeat(np.array([n for n, _ in some], np.int64), sizes)
    ids = np.concatenate([event.ids for _, event in some])
    partners = zip(*(event.partners for _, event in some), strict=True)
    met = [atoms.slot[np.concatenate(one)] for one in partners]
    labels = [np.broadcast_to(event.labels, event.ids.shape) for _, event in some]
    marks = mix(number + 1, atoms.slot[ids], *met, np.concatenate(labels))
    np.add.at(signature, atoms.neuron[ids], marks)


def marks_of(number: int, event: Event, atoms: Atoms) -> Hash:
    """What one event adds to the signatures, position by position."""
    met = [atoms.slot[p] for p in event.partners]
    return mix(number + 1, atoms.slot[event.ids], *met, event.labels)
