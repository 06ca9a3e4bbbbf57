"""Sets of atoms: which neurons something has been said of."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fxplastic.identity import Ids


class AtomSet:
    """A set of atoms that grows, as one flag per atom."""

    def __init__(self) -> None:
        self._flags = np.zeros(1024, bool)
        self.empty = True

    def add(self, ids: Ids) -> None:
        """Take up every atom among `ids`; opaque positions and nothing are passed over."""
        if ids.size == 0:
            return
        most = int(ids.max())
        if most <= 0:
            return
        if most >= self._flags.size:
            self._flags = np.concatenate([self._flags, np.zeros(most + 1, bool)])
        self._flags[np.maximum(ids, 0)] = True
        self._flags[0] = self.empty = False

    def holds(self, ids: Ids) -> NDArray[np.bool_]:
        """Position by position, whether an atom is in the set; false for what is no atom."""
        inside = np.where(ids < self._flags.size, ids, 0)
        found: NDArray[np.bool_] = self._flags[np.maximum(inside, 0)]
        return found
