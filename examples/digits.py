"""Long-tailed handwritten digits: one neuron turnover of a ResNet, beside a fixed-size run.

The images are scikit-learn's (8 x 8, handwritten); class 0 keeps about 130 of them and class 9
one, with a balanced test set. A ResNet trains to the split, its neurons are scored by accumulated
class-weighted gradients, and the plan duplicates the best 30 % of each group over the worst 30 %.
Then it goes on training with the same optimizer. A second run, with the same seed and the same
batches, is left at its fixed size.

    python examples/digits.py --epochs 24 --seed 0 --out runs/digits
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import timm
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

import fxplastic
from fxplastic.coverage import coverage, frozen_reasons
from fxplastic.verify import masked

CLASSES = 10
TEST_PER_CLASS = 40
SIDE = 32


@dataclass(frozen=True)
class Settings:
    """What a run depends on; two runs with equal settings see the same batches."""

    epochs: int
    split: int
    seed: int
    ratio: float
    imbalance: float
    out: Path
    device: torch.device
    batch: int = 32
    lr: float = 1e-3


@dataclass(frozen=True)
class Digits:
    """A long-tailed training set and a balanced test set: images [n, 1, 32, 32], labels [n]."""

    images: Tensor
    labels: Tensor
    test_images: Tensor
    test_labels: Tensor

    @property
    def counts(self) -> Tensor:
        """Number of training images per class, int64 [10]."""
        return torch.bincount(self.labels, minlength=CLASSES)


def long_tailed_digits(settings: Settings) -> Digits:
    """Keep n_max * imbalance ** (-c / 9) images of class c, after setting the test set aside."""
    raw = load_digits()
    images = torch.from_numpy(np.float32(raw.images / 8 - 1))[:, None]
    images = functional.interpolate(images, size=(SIDE, SIDE), mode="bilinear")
    labels = torch.from_numpy(raw.target).long()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(settings.seed))
    by_class = [order[labels[order] == c] for c in range(CLASSES)]
    most = min(len(found) for found in by_class) - TEST_PER_CLASS
    train, test = [], []
    for c, found in enumerate(by_class):
        keep = max(1, round(most * settings.imbalance ** (-c / (CLASSES - 1))))
        test.append(found[:TEST_PER_CLASS])
        train.append(found[TEST_PER_CLASS : TEST_PER_CLASS + keep])
    chosen, held_out = torch.cat(train), torch.cat(test)
    parts = (images[chosen], labels[chosen], images[held_out], labels[held_out])
    return Digits(*(part.to(settings.device) for part in parts))


def batches(data: Digits, settings: Settings, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches of one epoch; a last batch of one image is left out (BatchNorm needs two)."""
    draw = torch.Generator().manual_seed(1000 * settings.seed + epoch)
    for index in torch.randperm(len(data.labels), generator=draw).split(settings.batch):
        if len(index) > 1:
            yield data.images[index], data.labels[index]


def logits(model: nn.Module, images: Tensor) -> Tensor:
    """Outputs in eval mode, [n, 10]; the model's mode is put back."""
    training = model.training
    model.eval()
    with torch.no_grad():
        result = torch.cat([model(part) for part in images.split(256)])
    model.train(training)
    return result


def class_accuracy(model: nn.Module, data: Digits) -> Tensor:
    """Accuracy per class on the balanced test set, in percent, [10]."""
    right = (logits(model, data.test_images).argmax(1) == data.test_labels).double()
    return torch.stack([100 * right[data.test_labels == c].mean() for c in range(CLASSES)]).cpu()


def train_epoch(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    data: Digits,
    settings: Settings,
    epoch: int,
    scores: fxplastic.GradientScores | None,
) -> None:
    """One epoch with the class-weighted loss; `scores`, if given, watch every gradient."""
    weights = fxplastic.class_weights(data.counts).to(settings.device)
    for images, labels in batches(data, settings, epoch):
        optimizer.zero_grad()
        losses = functional.cross_entropy(model(images), labels, reduction="none")
        (losses * weights[labels]).mean().backward()
        if scores is not None:
            scores.update()
        optimizer.step()


def print_groups(plastic: fxplastic.PlasticModule) -> None:
    """The channel groups, and what is frozen and why."""
    reach = coverage(plastic.named_parameters(), plastic.groups)
    print(f"\n{len(plastic.groups)} channel groups, {reach.neurons} neurons, "
          f"{100 * reach.share:.1f} % of all parameter slots")  # fmt: skip
    for group in plastic.groups.values():
        print(f"  {group.name:<40} {group.size:>4} neurons through {len(group.sites):>2} sites")
    print("frozen:")
    for reason, positions in frozen_reasons(plastic.frozen):
        print(f"  {positions:>5} positions: {reason}")


def turn_over(
    plastic: fxplastic.PlasticModule,
    optimizer: torch.optim.Optimizer,
    scores: fxplastic.GradientScores,
    data: Digits,
    settings: Settings,
) -> None:
    """Plan, store the plan, carry it out, and show what it did to the function."""
    plan = fxplastic.plan_turnover(plastic, scores, ratio=settings.ratio)
    settings.out.mkdir(parents=True, exist_ok=True)
    path = settings.out / "plan.json"
    path.write_text(plan.to_json(), encoding="utf-8")
    print(f"\n{plan}\n\nplan file: {path.resolve()}")

    before = logits(plastic, data.test_images)
    without_pruned = logits(masked(plastic, plastic.groups, plan), data.test_images)
    fxplastic.rewrite_(plastic, plan, optimizer)
    after = logits(plastic, data.test_images)
    report_split(before, without_pruned, after)


def report_split(before: Tensor, without_pruned: Tensor, after: Tensor) -> None:
    """Print what pruning changed and what splitting changed; the second is rounding only."""
    largest = before.abs().max()
    pruning = float((without_pruned - before).abs().max() / largest)
    splitting = float((after - without_pruned).abs().max() / largest)
    agree = float((after.argmax(1) == without_pruned.argmax(1)).double().mean())
    print("\nat the split, on the test set (largest change of any logit / largest logit):")
    print(f"  pruning alone (outgoing weights of the pruned set to zero)  {pruning:.1e}")
    print(f"  splitting survivors into the freed slots                    {splitting:.1e}")
    print(f"  predictions that splitting left as they were                {100 * agree:.1f} %")
    if splitting > 1e-3:
        raise RuntimeError(f"the split changed the function by {splitting:.1e}, not by rounding")


def run(data: Digits, settings: Settings, turnover: bool) -> tuple[Tensor, Tensor]:
    """Train one model; returns its accuracy per class at the split and at the end."""
    torch.manual_seed(settings.seed)
    model = timm.create_model("resnet10t", in_chans=1, num_classes=CLASSES).to(settings.device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.lr)
    plastic = fxplastic.plasticize(model, data.images[:2]) if turnover else None
    at_split = torch.empty(0)
    if plastic is not None:
        print_groups(plastic)
    title = "with turnover" if turnover else "fixed size"
    for epoch in tqdm(range(1, settings.epochs + 1), desc=title, unit="epoch"):
        # The epoch before the split is the one that is scored.
        scores = None
        if plastic is not None and epoch == settings.split:
            scores = fxplastic.GradientScores(plastic)
        train_epoch(model, optimizer, data, settings, epoch, scores)
        if epoch == settings.split:
            at_split = class_accuracy(model, data)
        if plastic is not None and scores is not None:
            with tqdm.external_write_mode():
                turn_over(plastic, optimizer, scores, data, settings)
    return at_split, class_accuracy(model, data)


def print_comparison(data: Digits, fixed: Tensor, turned: Tensor) -> None:
    """The table of accuracies per class, and how far to trust it."""
    print(f"\n{'digit':>7} {'images':>7} {'fixed %':>9} {'turnover %':>11} {'difference':>11}")
    rows = [(str(c), int(data.counts[c]), fixed[c], turned[c]) for c in range(CLASSES)]
    rows.append(("all", len(data.labels), fixed.mean(), turned.mean()))
    tail = data.counts.cpu() < 20
    rows.append(
        ("< 20", int(data.counts.cpu()[tail].sum()), fixed[tail].mean(), turned[tail].mean())
    )
    for name, images, a, b in rows:
        print(f"{name:>7} {images:>7} {a:>9.1f} {b:>11.1f} {b - a:>+11.1f}")
    print(
        "\nOne seed, and ten classes of 40 test images each: another seed alone moves the mean by "
        "some points.\nRead the table as a demonstration, not as evidence for or against turnover."
    )


def parse(arguments: list[str] | None) -> Settings:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--epochs", type=int, default=24, help="epochs of each run")
    parser.add_argument("--split", type=int, help="epoch of the turnover (default: half of them)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ratio", type=float, default=0.3, help="share of each group to turn over")
    parser.add_argument("--imbalance", type=float, default=100.0)
    parser.add_argument("--out", type=Path, default=Path("runs/digits"), help="folder for the plan")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    given = parser.parse_args(arguments)
    split = max(1, given.epochs // 2) if given.split is None else given.split
    if not 1 <= split <= given.epochs:
        parser.error(f"--split is {split}, it must be from 1 to --epochs ({given.epochs})")
    device = torch.device(given.device)
    return Settings(
        given.epochs, split, given.seed, given.ratio, given.imbalance, given.out, device
    )


def main(arguments: list[str] | None = None) -> None:
    """Both runs and the comparison."""
    settings = parse(arguments)
    data = long_tailed_digits(settings)
    print(f"training images per digit: {data.counts.tolist()}, test images: {TEST_PER_CLASS} each")
    turned_at_split, turned = run(data, settings, turnover=True)
    fixed_at_split, fixed = run(data, settings, turnover=False)
    same = torch.equal(turned_at_split, fixed_at_split)
    print(f"\nboth runs alike up to the split (epoch {settings.split}): {'yes' if same else 'no'}")
    print_comparison(data, fixed, turned)


if __name__ == "__main__":
    # Half of the cores: on a machine that does something else as well, threads that wait for
    # each other make these small convolutions several times slower.
    torch.set_num_threads(max(1, (os.cpu_count() or 2) // 2))
    main()
