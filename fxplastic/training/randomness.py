"""Seeds that depend on (seed, epoch) alone, and the states of all random generators.

Each epoch starts from its own seed. So a resumed run draws what the uninterrupted one draws, and
two runs with one seed see the same batches, crops and dropout masks even where one of them draws
more in between, as a turnover or a re-estimation of statistics may.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch

Stream = Literal["everything", "order", "statistics"]
_STREAMS: Mapping[Stream, int] = {"everything": 0, "order": 1, "statistics": 2}


def mixed(seed: int, epoch: int, stream: Stream) -> int:
    """A seed from 0 to 2**63 - 1; epoch 0 is the time before training.

    By numpy's `SeedSequence`, which keeps the streams of neighbouring seeds apart.

    >>> mixed(0, 1, "order") == mixed(1, 0, "order")
    False
    """
    sequence = np.random.SeedSequence([seed, epoch, _STREAMS[stream]])
    return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))


def seed_all(seed: int, epoch: int) -> None:
    """Seed torch (all devices), numpy and `random` for an epoch."""
    value = mixed(seed, epoch, "everything")
    torch.manual_seed(value)
    random.seed(value)
    np.random.seed(value % 2**32)


def generator_for(seed: int, epoch: int, stream: Stream) -> torch.Generator:
    """A CPU generator of its own, for the order and the crops of an epoch."""
    return torch.Generator().manual_seed(mixed(seed, epoch, stream))


def random_states() -> dict[str, Any]:
    """States of torch, CUDA, numpy and `random`, as values that a checkpoint can hold."""
    numpy: Any = np.random.get_state()
    kind, keys, position, has_gauss, gauss = numpy
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": (str(kind), torch.from_numpy(keys.astype(np.int64)), position, has_gauss, gauss),
        "random": random.getstate(),
    }


def restore_random_states(states: Mapping[str, Any]) -> None:
    """Put back what `random_states` gave; CUDA's only where the number of devices is the same."""
    torch.set_rng_state(states["torch"])
    if torch.cuda.is_available() and len(states["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(states["cuda"])
    kind, keys, *rest = states["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    random.setstate(states["random"])
