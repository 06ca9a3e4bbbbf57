"""Training loops written by hand, that those of trainers are compared with bit for bit."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import fxplastic
from fxplastic import Plasticity

STEPS, CLASSES = 4, 5
Batch = tuple[Tensor, Tensor]


def small(name: str = "test_resnet", seed: int = 0) -> nn.Module:
    """A timm model whose norms and layer scales are not what they start from."""
    torch.manual_seed(seed)
    extra = {"img_size": 32, "patch_size": 8} if "vit" in name else {}
    model: nn.Module = timm.create_model(name, num_classes=CLASSES, **extra)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def plastic_of(model: nn.Module) -> fxplastic.PlasticModule:
    return fxplastic.plasticize(model, torch.zeros(2, 3, 32, 32))


def batch(epoch: int, step: int, size: int = 4) -> Batch:
    draw = torch.Generator().manual_seed(100 * epoch + step)
    images = torch.randn(size, 3, 32, 32, generator=draw)
    return images, torch.randint(0, CLASSES, (size,), generator=draw)


class Loader:
    """`STEPS` batches, others in each epoch; it says where it is, and can be put there."""

    def __init__(self) -> None:
        self.epoch = self.step = 0
        self.sampler = self  # trainers tell a loader's sampler which epoch it is

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return STEPS

    def __iter__(self) -> Iterator[Batch]:
        for step in range(self.step, STEPS):
            epoch, self.step = self.epoch, step + 1
            if self.step == STEPS:  # who knows the length does not ask once more
                self.epoch, self.step = epoch + 1, 0
            yield batch(epoch, step)

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.epoch, "step": self.step}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.epoch, self.step = state["epoch"], state["step"]


class Check:
    """One batch to validate with."""

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[Batch]:
        yield batch(99, 0)


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    plasticity: Plasticity,
    loader: Iterable[Batch],
    epochs: int,
    *,
    accumulate: int = 1,
    clip: float | None = None,
    scheduler: Any = None,
    after_step: Callable[[], object] = lambda: None,
) -> None:
    """The loop of docs/loop.md; gradients are scored before they are clipped."""
    for _ in range(epochs):
        model.train()
        for number, (images, labels) in enumerate(loader, 1):
            (cross_entropy(model(images), labels) / accumulate).backward()
            if number % accumulate == 0:
                plasticity.after_backward()
                if clip is not None:
                    nn.utils.clip_grad_norm_(model.parameters(), clip)
                optimizer.step()
                optimizer.zero_grad()
                after_step()
        if scheduler is not None:
            scheduler.step()
        plasticity.end_epoch()


def assert_same(one: Any, other: Any, where: str = "") -> None:
    """Tensors, and what holds them, bit for bit."""
    if isinstance(one, Tensor):
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_same(one[key], other[key], f"{where}[{key!r}]")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for place, (left, right) in enumerate(zip(one, other, strict=True)):
            assert_same(left, right, f"{where}[{place}]")
    else:
        assert one == other, where
