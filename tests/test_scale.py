"""Discovery of a model of a billion parameters computes on names, not on weights."""

from typing import Any

import timm
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import fxplastic
from fxplastic.coverage import coverage

LARGEST = 64 * 2**20  # bytes


class Watch(TorchDispatchMode):
    """Remembers the largest storage behind a tensor that is not on meta."""

    def __init__(self) -> None:
        super().__init__()
        self.seen, self.largest = 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.seen += 1
                if not leaf.is_meta:
                    self.largest = max(self.largest, leaf.untyped_storage().nbytes())
        return result


def test_a_billion_parameters_are_discovered_without_a_large_tensor() -> None:
    with torch.device("meta"):
        model = timm.create_model("vit_giant_patch14_224")
    assert sum(p.numel() for p in model.parameters()) > 1e9
    with Watch() as watch:
        plastic = fxplastic.plasticize(model)
    assert watch.seen > 1000  # it did look
    assert 0 < watch.largest <= LARGEST
    assert coverage(plastic.named_parameters(), plastic.groups).share > 0.3
    assert all(group.exact and group.size == 6144 for group in plastic.groups.values())


def test_a_real_allocation_is_seen_by_the_watch() -> None:
    with Watch() as watch:
        torch.zeros(LARGEST // 4 + 1)
    assert watch.largest > LARGEST
