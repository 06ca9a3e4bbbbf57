"""A ResNet-18 on rendered characters (imbalance 100) is the plain timm model from start to end.

    python -m tools.same_network             # with turnover, then the fixed one for comparison

After every epoch the names and shapes in the checkpoint are compared with those of
`timm.create_model("resnet18")`; at the end the weights are loaded into it, and parameters, MACs and
predictions are compared. Exits with 1 where anything differs.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from fxplastic.data import describe, load
from fxplastic.training import Config, checkpoints, loop, train
from fxplastic.training.evaluation import predictions

Shapes = dict[str, tuple[int, ...]]


def shapes_of(state: dict[str, Tensor]) -> Shapes:
    return {name: tuple(value.shape) for name, value in state.items()}


def macs_of(model: nn.Module, images: Tensor) -> int:
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        model(images)
    return counter.get_total_flops() // 2


def watched(config: Config) -> tuple[list[Shapes], Any]:
    """Train, and keep what each checkpoint's weights are named and shaped like."""
    seen: list[Shapes] = []
    save = checkpoints.save

    def noted(path: Path, state: dict[str, Any]) -> None:
        seen.append(shapes_of(state["model"]))
        save(path, state)

    loop.checkpoints.save = noted
    try:
        return seen, train(config)
    finally:
        loop.checkpoints.save = save


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        config = Config(
            model="resnet18", data="characters-lt", imbalance=100, epochs=options.epochs,
            batch=128, lr=0.1, warmup=1, every=3, last=options.epochs - 3, ratio=0.3,
            score_loss="weighted", seed=options.seed, plot=False, evaluate=5,
            out=f"{folder}/turnover", device="cpu",
        )  # fmt: skip
        data = load(config.data, imbalance=config.imbalance)
        print(describe(data))
        plain = timm.create_model("resnet18", in_chans=1, num_classes=len(data.classes)).eval()
        expected = shapes_of(plain.state_dict())
        seen, result = watched(config)
        right = {
            f"names and shapes after each of {len(seen)} epochs": all(s == expected for s in seen),
            f"{result.neurons} neurons in {result.turnovers} turnovers": result.turnovers > 1,
        }
        images = data.test.batch(torch.arange(64), None)[0]
        before = macs_of(plain, images), sum(p.numel() for p in plain.parameters())
        plain.load_state_dict(checkpoints.load(Path(config.out) / "last.pt")["model"])
        after = macs_of(plain, images), sum(p.numel() for p in plain.parameters())
        right[f"{after[1]:,} parameters, {after[0] // 64:,} MACs an image"] = before == after
        truth, found = predictions(plain, data, config, torch.device("cpu"))
        top1 = 100 * (truth == found).double().mean().item()
        right[f"loaded into the plain model: {top1:.2f} %"] = abs(top1 - result.top1) < 1e-9
        for what, good in right.items():
            print("holds " if good else "FAILS ", what)
        fixed = train(replace(config, turnover=False, score_loss=None, out=f"{folder}/fixed"))
        for name, reached in (("turnover", result), ("fixed", fixed)):
            splits = ", ".join(f"{k} {v:.1f}" for k, v in reached.splits.items())
            print(f"{name}: top-1 {reached.top1:.2f} % ({splits})")
    sys.exit(not all(right.values()))


if __name__ == "__main__":
    main()
