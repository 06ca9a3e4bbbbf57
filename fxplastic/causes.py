"""Why neurons are frozen, and the records that say so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn
from torch.nn.utils.parametrize import ParametrizationList

from fxplastic.atoms import Atoms, Ints, marks_of
from fxplastic.errors import DiscoverError
from fxplastic.groups import FrozenAxis
from fxplastic.ledger import AtomSite, Freeze, Ledger, Place


@dataclass(frozen=True)
class Cause:
    """Why neurons are frozen."""

    reason: str
    place: Place


class Causes:
    """The first cause for every neuron that must be left alone."""

    def __init__(self, neurons: int) -> None:
        self.every: list[Cause] = []
        self.number = np.full(neurons, -1)  # of each neuron's cause in `every`
        self._numbers: dict[Cause, int] = {}

    def add(self, neurons: NDArray[np.integer[Any]], cause: Cause) -> None:
        """These neurons are frozen for `cause`, unless they are already."""
        if cause not in self._numbers:
            self._numbers[cause] = len(self.every)
            self.every.append(cause)
        self.number[neurons[self.number[neurons] < 0]] = self._numbers[cause]

    @property
    def frozen(self) -> NDArray[np.bool_]:
        """Per neuron, whether it has a cause."""
        result: NDArray[np.bool_] = self.number >= 0
        return result


def causes_of(
    model: nn.Module,
    ledger: Ledger,
    atoms: Atoms,
    skip: frozenset[str],
    freeze: Sequence[str],
) -> Causes:
    """The first cause for every neuron that must be left alone."""
    causes = Causes(int(atoms.neuron.max(initial=0)) + 1)
    entries = [*_asked(model, ledger, freeze), *ledger.freezes, *_conflicts(ledger)]
    entries += _split_parents(ledger, atoms) + _unfollowed(model, ledger, atoms)
    for entry in entries:
        if entry.kind not in skip:
            causes.add(atoms.neuron[entry.ids], Cause(entry.reason, entry.place))
    causes.add(_unused(ledger, atoms), _UNUSED)
    return causes


_UNUSED = Cause("no parameter takes its signal up: it is unused, or only scales something", Place())


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
    children: dict[int, list[int]] = {}
    for number, site in enumerate(ledger.sites):
        if site.parent is not None:
            children.setdefault(site.parent, []).append(number)
    if not children:
        return []
    touched = {e for event in ledger.events for e in np.unique(atoms.site[event.ids]).tolist()}
    touched |= {e for pair in ledger.edges for e in np.unique(atoms.site[pair[1]]).tolist()}
    touched |= {e for f in ledger.freezes for e in np.unique(atoms.site[f.ids]).tolist()}
    touched |= set(ledger.consumed) | set(ledger.produced)
    reason = "a grouped convolution shares its weight with an op that sees it in another way"
    shared = {
        ledger.sites[parent].parameter
        for parent, kids in children.items()
        if parent in touched or len(kids) > 1
    }
    return [
        Freeze(_range(s), reason, "law", Place()) for s in ledger.sites if s.parameter in shared
    ]


def _unfollowed(model: nn.Module, ledger: Ledger, atoms: Atoms) -> list[Freeze]:
    """What a parametrization keeps beside the tensors that it is computed from, such as a base.

    Where a neuron runs through that and not through one of those, what is trained has no part for
    the neuron: the parametrization knows of the whole alone (that it is orthogonal, say), which
    copies and originals side by side would not be.
    """
    entries = []
    for path, made in model.named_modules():
        if not isinstance(made, ParametrizationList):
            continue
        trained = {f"{path}.{name}" for name in (*made._parameters, *made._buffers)}
        own = np.unique(
            np.concatenate(
                [np.zeros(0, np.int64)]
                + [atoms.neuron[_range(s)] for s in ledger.sites if s.parameter in trained]
            )
        )
        for s in ledger.sites:
            beneath = s.parameter in ledger.buffers and s.parameter.startswith(f"{path}.")
            if beneath and s.parameter not in trained:
                ids = _range(s)
                reason = (
                    f"the parametrization {path!r} holds to something between the rows of "
                    f"{s.parameter!r}, and what it trains has no row of its own for them"
                )
                lost = ids[~np.isin(atoms.neuron[ids], own)]
                entries.append(Freeze(lost, reason, "law", Place()))
    return entries


def _unused(ledger: Ledger, atoms: Atoms) -> Ints:
    """Neurons whose signal nothing takes up."""
    consumed = np.zeros(len(ledger.sites) + 1, bool)
    consumed[list(ledger.consumed)] = True
    taken = np.zeros(atoms.neuron.max(initial=0) + 1, bool)
    taken[atoms.neuron[consumed[atoms.site]]] = True
    taken[atoms.neuron[0]] = True  # nobody's
    return np.flatnonzero(~taken)


def what_parts(neurons: Ints, ledger: Ledger, atoms: Atoms) -> Cause:
    """The op that tells these neurons apart, or that ties a whole axis into one of them."""
    if neurons.size > 1:
        for number, event in enumerate(ledger.events):
            mine = np.isin(atoms.neuron[event.ids], neurons)
            total = np.zeros(atoms.neuron.max(initial=0) + 1, np.uint64)
            np.add.at(total, atoms.neuron[event.ids][mine], marks_of(number, event, atoms)[mine])
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


def frozen_axes(
    ledger: Ledger,
    atoms: Atoms,
    real: NDArray[np.bool_],
    causes: Causes,
    order: Mapping[str, int],
) -> tuple[FrozenAxis, ...]:
    """The records of what `causes` freezes, in the order of the model's tensors."""
    counts: dict[tuple[str, int, Cause], int] = {}
    index = np.flatnonzero(real & causes.frozen[atoms.neuron])
    every = causes.every
    both = atoms.site[index] * (len(every) + 1) + causes.number[atoms.neuron[index]]
    keys, first, found = np.unique(both, return_index=True, return_counts=True)
    for k in np.argsort(first).tolist():
        number, cause_number = divmod(int(keys[k]), len(every) + 1)
        site = ledger.sites[number]
        key = (site.parameter, site.axis, every[cause_number])
        counts[key] = counts.get(key, 0) + int(found[k])
    records = [
        FrozenAxis(p, axis, c.reason, c.place.node, c.place.source, n)
        for (p, axis, c), n in counts.items()
    ]
    return tuple(sorted(records, key=lambda r: (order[r.parameter], r.axis)))
