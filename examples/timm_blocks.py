"""Neuron turnover on timm's own building blocks for training, on handwritten digits.

Optimizer, schedule of the learning rate, loss, mixup, clipping and the average of the weights (EMA)
are timm's; the images are scikit-learn's. Turnover adds the lines marked with (1) to (4), and the
average follows it.

    python examples/timm_blocks.py --model test_vit --opt lamb --epochs 20 --every 5
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import timm
import torch
from sklearn.datasets import load_digits
from timm.data import Mixup
from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import ModelEmaV3, accuracy, dispatch_clip_grad
from torch import Tensor, nn
from torch.nn import functional

import fxplastic

CLASSES, SIDE, TEST = 10, 32, 400


@dataclass(frozen=True)
class Digits:
    """Images [n, 1, 32, 32] and labels [n], to train on and to test with."""

    images: Tensor
    labels: Tensor
    test_images: Tensor
    test_labels: Tensor


def digits(seed: int, limit: int | None) -> Digits:
    """scikit-learn's digits in a random order; the first `TEST` of them are for testing."""
    raw = load_digits()
    images = torch.from_numpy(np.float32(raw.images / 8 - 1))[:, None]
    images = functional.interpolate(images, size=(SIDE, SIDE), mode="bilinear")
    labels = torch.from_numpy(raw.target).long()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    test, train = order[:TEST], order[TEST:][:limit]
    return Digits(images[train], labels[train], images[test], labels[test])


def batches(data: Digits, size: int, draw: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch of whole batches, which mixup pairs image by image."""
    for index in torch.randperm(len(data.labels), generator=draw).split(size):
        if len(index) == size:
            yield data.images[index], data.labels[index]


def top1(model: nn.Module, data: Digits) -> float:
    """Accuracy on the test images, in percent."""
    model.eval()
    with torch.no_grad():
        (found,) = accuracy(model(data.test_images), data.test_labels)
    return float(found)


def make_model(name: str) -> nn.Module:
    """A small model of timm for digits."""
    size = {"img_size": SIDE, "patch_size": 4} if "vit" in name else {}
    model: nn.Module = timm.create_model(name, in_chans=1, num_classes=CLASSES, **size)
    return model


def train(given: argparse.Namespace, data: Digits) -> tuple[nn.Module, ModelEmaV3]:
    """A loop as in timm's training script, with turnovers."""
    torch.manual_seed(given.seed)
    np.random.seed(given.seed)  # mixup draws from numpy
    model = make_model(given.model)
    optimizer = create_optimizer_v2(model, given.opt, lr=given.lr, weight_decay=0.02)
    scheduler, _ = create_scheduler_v2(
        optimizer, "cosine", num_epochs=given.epochs, warmup_epochs=1, warmup_lr=given.lr / 10
    )
    ema = ModelEmaV3(model, decay=0.98)
    mixup = Mixup(given.mixup, label_smoothing=0.1, num_classes=CLASSES) if given.mixup else None
    loss = SoftTargetCrossEntropy() if mixup else LabelSmoothingCrossEntropy(0.1)

    plastic = fxplastic.plasticize(model, data.images[:2])  # (1) a handle, no weight is copied
    plasticity = fxplastic.Plasticity(  # (2)
        plastic,
        optimizer,
        ratio=given.ratio,
        schedule=fxplastic.Schedule(every=given.every, last=given.epochs - 1),
        policy=fxplastic.Policy(zero_sum=0.1),
        epochs=given.epochs,
        ema=ema,
    )
    plasticity.on(print)

    draw, step = torch.Generator().manual_seed(given.seed), 0
    for epoch in range(given.epochs):
        model.train()
        for images, labels in batches(data, given.batch, draw):
            mixed, targets = mixup(images, labels) if mixup else (images, labels)
            optimizer.zero_grad()
            loss(model(mixed), targets).backward()
            plasticity.after_backward()  # (3) scores the gradients
            dispatch_clip_grad(model.parameters(), 1.0)
            optimizer.step()
            step += 1
            ema.update(model, step=step)
        scheduler.step(epoch + 1)
        plasticity.end_epoch()  # (4) turns neurons over when they are due
    return model, ema


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="test_resnet", help="a small model of timm")
    parser.add_argument("--opt", default="adamw", help="an optimizer of timm, such as lamb or lion")
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--every", type=int, default=5, help="epochs between turnovers")
    parser.add_argument("--ratio", type=float, default=0.3, help="share of each group to turn over")
    parser.add_argument("--mixup", type=float, default=0.2, help="alpha of mixup; 0 for none")
    parser.add_argument("--batch", type=int, default=32, help="images per step, an even number")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="three epochs on 128 images")
    given = parser.parse_args(arguments)
    if given.quick:
        given.epochs, given.every = 3, 1
    if given.mixup and given.batch % 2:
        parser.error(f"--batch is {given.batch}; mixup takes an even number")
    return given


def main(arguments: list[str] | None = None) -> None:
    given = parse(arguments)
    data = digits(given.seed, 128 if given.quick else None)
    model, ema = train(given, data)
    for name, trained in {"weights": model, "their average": ema.module}.items():
        print(f"{name}: {top1(trained, data):.1f} % of {TEST} test images")


if __name__ == "__main__":
    main()
