"""Calls that a run on names has met before, and what its rules have said of them."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from fxplastic.identity import Names, opaque


@dataclass(frozen=True)
class Told:
    """What a rule has made of a call, and the names that it was given: ids stand for them."""

    named: tuple[Names, ...]
    given: tuple[Names, ...]
    witness: bytes | None


@dataclass(frozen=True)
class Repeats:
    """Calls that one run has met already, in either mode.

    The same call on the very same names gives the same names, and what its rule says of them
    stands in the ledger; the second mode's graph is for the most part a repeat of the first's.
    """

    told: dict[object, Told] = field(default_factory=dict)
    inputs: dict[object, Names] = field(default_factory=dict)

    def input(self, number: int, shape: torch.Size) -> Names:
        """Names of an input of the model, the same in both modes."""
        return self.inputs.setdefault((number, shape), Names(opaque(shape), data=True))


def look(names: Names) -> object:
    """All that a rule can see of names, as long as they live."""
    fields = tuple((id(f.ids), f.carriers) for f in names.fields)
    return fields, names.data, id(names.known), names.lone
