"""What turnover costs: scoring beside a training step, and a turnover beside two of them.

    python -m tools.overhead                  # ResNet-18, batch 128, 32 x 32, on the CPU
    python -m tools.overhead --device cuda

Steps with and without scoring alternate in one process, and the ratio of each pair counts, as
absolute times are noisy; the mean is given with its 95 % interval. Beside it stands the time of the
scoring call itself, which varies less and leaves out what it does to the caches. On the CPU,
processor time is taken, on one thread unless `OMP_NUM_THREADS` says otherwise; on a GPU, wall time
between synchronisations.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import timm
import torch
from torch import Tensor
from torch.nn import functional

import fxplastic
from fxplastic.schedule import Schedule


class Run:
    """A model in training, with its controller."""

    def __init__(self, options: argparse.Namespace) -> None:
        torch.manual_seed(0)
        shape = (options.batch, 3, options.size, options.size)
        device = torch.device(options.device)
        self.model = timm.create_model(options.model, num_classes=100).to(device)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01, momentum=0.9)
        self.plasticity = fxplastic.Plasticity(
            fxplastic.plasticize(self.model, torch.zeros(2, *shape[1:], device=device)),
            self.optimizer,
            schedule=Schedule(every=1),
            criterion=options.criterion,
        )
        self.images = torch.randn(shape, device=device)
        self.labels = torch.randint(100, shape[:1], device=device)
        self.cuda = device.type == "cuda"

    def step(self, score: bool) -> Tensor:
        self.optimizer.zero_grad()
        loss: Tensor = functional.cross_entropy(self.model(self.images), self.labels)
        loss.backward()
        if score:
            self.plasticity.after_backward()
        self.optimizer.step()
        return loss

    def seconds(self, work: Callable[[], object]) -> float:
        if not self.cuda:
            began = time.process_time()
            work()
            return time.process_time() - began
        torch.cuda.synchronize()
        began = time.perf_counter()
        work()
        torch.cuda.synchronize()
        return time.perf_counter() - began


def measure(options: argparse.Namespace) -> dict[str, float]:
    """Shares of a step's time: scoring by pairs and by itself, and turnovers after a scored one."""
    run = Run(options)
    for _ in range(2):
        run.step(score=True)
    run.plasticity.end_epoch()
    ratios, plain, calls = [], [], []
    for pair in range(options.pairs):
        order = (False, True) if pair % 2 else (True, False)
        taken = {score: run.seconds(lambda s=score: run.step(s)) for score in order}
        ratios.append(taken[True] / taken[False] - 1.0)
        plain.append(taken[False])
        calls.append(run.seconds(run.plasticity.after_backward))
    turnovers = []
    for _ in range(options.turnovers):
        run.step(score=True)
        turnovers.append(run.seconds(run.plasticity.end_epoch))
    step = statistics.median(plain)
    return {
        "step": step,
        "pairs": statistics.fmean(ratios),
        "half": 1.96 * statistics.stdev(ratios) / len(ratios) ** 0.5,
        "call": statistics.median(calls) / step,
        "turnover": statistics.median(turnovers) / step,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--criterion", default="magnitude")
    parser.add_argument("--pairs", type=int, default=60)
    parser.add_argument("--turnovers", type=int, default=5)
    options = parser.parse_args()
    found = measure(options)
    print(
        f"{options.model}, batch {options.batch}, {options.size} x {options.size}, "
        f"{options.device}, {options.criterion}: step {found['step']:.3f} s, scoring "
        f"{100 * found['pairs']:+.1f} ± {100 * found['half']:.1f} % by pairs, "
        f"{100 * found['call']:.1f} % by itself; a turnover takes {found['turnover']:.2f} steps"
    )


if __name__ == "__main__":
    main()
