"""Neuron turnover in a training loop of one's own, on long-tailed digits.

Four lines are all that turnover adds to the loop: they are marked with (1) to (4). For runs that
can be killed and resumed, with metrics and plots, see `fxplastic train --help`.

    python examples/long_tail.py --epochs 30 --every 10
"""

from __future__ import annotations

import argparse

import timm
import torch
from torch import nn

import fxplastic
from fxplastic.data import LongTailed, describe, load
from fxplastic.training import make_loss


def top1(model: nn.Module, data: LongTailed, classes: tuple[int, ...]) -> float:
    """Accuracy over the test images of some classes, in percent."""
    images, labels = data.test.batch(torch.arange(len(data.test)), None)
    chosen = torch.isin(labels, torch.tensor(classes))
    model.eval()
    with torch.no_grad():
        right = model(images[chosen]).argmax(1) == labels[chosen]
    return 100 * float(right.double().mean())


def train(data: LongTailed, epochs: int, every: int, seed: int) -> nn.Module:
    """A small ResNet with class-weighted loss; the optimizer never notices a turnover."""
    torch.manual_seed(seed)
    channels, classes = data.input_size[0], len(data.classes)
    model = timm.create_model("test_resnet", in_chans=channels, num_classes=classes)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9, weight_decay=5e-4)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    loss = make_loss("weighted", data.counts)

    plastic = fxplastic.plasticize(model, torch.zeros(2, *data.input_size))  # (1) a handle
    schedule = fxplastic.Schedule(every=every, last=epochs - 1)
    plasticity = fxplastic.Plasticity(plastic, optimizer, schedule=schedule, epochs=epochs)  # (2)
    plasticity.on(lambda turnover: print(turnover))

    draw = torch.Generator().manual_seed(seed)
    for epoch in range(1, epochs + 1):
        model.train()
        for index in torch.randperm(len(data.labels), generator=draw).split(64):
            images, labels = data.train.batch(index, draw)
            optimizer.zero_grad()
            loss(model(images), labels, epoch).backward()
            plasticity.after_backward()  # (3) scores the gradients
            optimizer.step()
        scheduler.step()
        plasticity.end_epoch()  # (4) turns neurons over when they are due
    return model


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--every", type=int, default=10, help="epochs between turnovers")
    parser.add_argument("--imbalance", type=float, default=100.0)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    data = load("digits-lt", imbalance=given.imbalance, seed=given.seed)
    print(describe(data))
    model = train(data, given.epochs, given.every, given.seed)
    for name, classes in {"all": tuple(range(len(data.classes))), **data.splits()}.items():
        if classes:
            print(f"{name:>7}: {top1(model, data, classes):5.1f} % of {len(classes)} classes")


if __name__ == "__main__":
    main()
