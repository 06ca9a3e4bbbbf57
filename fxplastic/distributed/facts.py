"""What processes that train one model have to have in common, and how a difference is named."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from fxplastic.plastic import Plastic
from fxplastic.sharded import is_sharded

Facts = Mapping[str, Any]
"""By name: whole numbers and text, which have to be equal, and floats, which have to be close."""

_CLOSE = 1e-3  # other weights differ by more; two kinds of GPU in one run by far less


def digest(*values: object) -> str:
    """A short hash of values by what `repr` says of them.

    >>> digest("a", 1) == digest("a", 1), digest("a", 1) == digest("a", 2)
    (True, False)
    """
    return hashlib.sha256(repr(values).encode()).hexdigest()[:16]


def shape_facts(plastic: Plastic) -> Facts:
    """Groups and tensors of a model, which no turnover changes."""
    tensors = [*plastic.named_parameters(), *plastic.named_buffers()]
    return {
        "channel groups": plastic.fingerprint[:16],
        "tensors": digest([(n, tuple(t.shape), str(t.dtype)) for n, t in tensors]),
    }


def weight_fact(plastic: Plastic) -> Facts:
    """The mean magnitude of all weights: one pass over them."""
    weights: list[Tensor] = [p.detach() for _, p in plastic.named_parameters()]
    if not weights or any(is_sharded(weight) for weight in weights):
        return {}  # parts are not alike
    home = weights[0].device
    total = sum(float(w.abs().double().sum().to(home)) for w in weights)
    return {"mean magnitude of the weights": total / max(1, sum(w.numel() for w in weights))}


def differences(facts: Sequence[Facts]) -> list[str]:
    """What is not the same on all ranks, with what each has; nothing where all is.

    >>> differences([{"epoch": 3, "weights": 1.0}, {"epoch": 4, "weights": 1.0001}])
    ['epoch is 3 on rank 0, 4 on rank 1']
    >>> differences([{"weights": float("nan")}, {"weights": float("nan")}])
    []
    """
    names = dict.fromkeys(name for each in facts for name in each)
    return [
        f"{name} is " + ", ".join(f"{each.get(name)} on rank {i}" for i, each in enumerate(facts))
        for name in names
        if not all(_same(facts[0].get(name), each.get(name)) for each in facts)
    ]


def _same(one: object, other: object) -> bool:
    if isinstance(one, float) and isinstance(other, float):
        both = math.isnan(one) and math.isnan(other)  # diverged alike: that is said elsewhere
        return both or math.isclose(one, other, rel_tol=_CLOSE, abs_tol=1e-12)
    return one == other
