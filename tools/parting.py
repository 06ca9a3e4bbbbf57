"""Write docs/parting.md: how soon a copy goes its own way, by how it was parted from its original.

    python -m tools.parting

A network trains on long-tailed digits, turns 30 % of its neurons over once, and goes on. After 1,
10 and 100 steps, what a copy has moved since is compared with what its original has moved.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import warnings
from collections.abc import Iterator
from pathlib import Path

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

import fxplastic
from fxplastic.data import TensorSet, load
from fxplastic.diversity import copies_of
from fxplastic.policy import Policy
from fxplastic.zoo.rows import origin

TABLE = Path("docs/parting.md")
STEPS = (1, 10, 100)
NETWORKS = {
    "ResNet (BatchNorm)": ("resnet10t", {"channels": [16, 32, 64, 128]}),
    "ViT (LayerNorm)": (
        "vit_tiny_patch16_224",
        {"img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 3, "num_heads": 2},
    ),
}
OPTIMIZERS = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.02, momentum=0.9),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=1e-3),
}
WAYS = {
    "even": Policy(shares="even"),
    "uneven (0.75, 0.25)": Policy(shares="uneven"),
    "signed (1.25, -0.25)": Policy(shares="signed"),
    "even, zero-sum noise 0.1": Policy(shares="even", zero_sum=0.1),
    "even, zero-sum noise 0.3": Policy(shares="even", zero_sum=0.3),
    "even, BatchNorm noise 0.1, relative": Policy(shares="even", noise="relative"),
    "uneven, state zeroed": Policy(shares="uneven", carry="zero"),
    "uneven, state copied": Policy(shares="uneven", carry="copy"),
}

HEAD = """# How soon copies part

Made by `make parting` (torch {torch}, timm {timm}; {machine}; float32).

A copy that never differs from its original is a waste of a neuron. Here a network trains on
long-tailed digits (imbalance 100), turns 30 % of its neurons over once, and goes on with its
optimizer. The figure compares how far copy and original have moved since, over all weights that
produce them: the length of the difference of both moves, divided by the length of the original's;
the median over all pairs and over {seeds} seeds. At 0 both move alike; two that move independently
are at about 1.4, and at 2 they move in opposite directions.

| network | optimizer | way | 1 step | 10 steps | 100 steps |
| --- | --- | --- | ---: | ---: | ---: |
"""


class Batches:
    """Batches of long-tailed digits, the same for the same seed."""

    def __init__(self, seed: int) -> None:
        data = load("digits-lt", seed=seed)
        assert isinstance(data.train, TensorSet)
        self.set, self.draw = data.train, torch.Generator().manual_seed(seed)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            order = torch.randperm(len(self.set), generator=self.draw)
            for chosen in order.split(32)[:-1]:
                yield self.set.batch(chosen, self.draw)


def produced(plastic: fxplastic.PlasticModule, name: str) -> Tensor:
    """The weights that produce each neuron of a group, one row per neuron."""
    named = dict(plastic.named_parameters())
    rows = [
        named[site.parameter].detach().movedim(site.axis, 0)[site.positions].flatten(1)
        for site in plastic.groups[name].producers
        if site.parameter in named and site.rows is None
    ]
    return torch.cat(rows, 1)


def trained(network: str, optimizer: str, seed: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A network after a few epochs, and its optimizer."""
    name, arguments = NETWORKS[network]
    torch.manual_seed(seed)
    model = timm.create_model(name, num_classes=10, in_chans=1, **arguments)
    made = OPTIMIZERS[optimizer](model.parameters())
    for _, batch in zip(range(80), Batches(seed), strict=False):
        step(model, made, batch)
    return model, made


def step(model: nn.Module, optimizer: torch.optim.Optimizer, batch: tuple[Tensor, Tensor]) -> None:
    optimizer.zero_grad()
    functional.cross_entropy(model(batch[0]), batch[1]).backward()
    optimizer.step()


def distances(network: str, optimizer: str, seed: int) -> dict[str, list[list[float]]]:
    """Per way, the ratios of all pairs after each number of steps."""
    model, made = trained(network, optimizer, seed)
    example = torch.zeros(2, 1, 32, 32)
    scores = fxplastic.GradientScores(fxplastic.plasticize(model, example))
    for _, (images, labels) in zip(range(8), Batches(seed + 1), strict=False):
        model.zero_grad()
        functional.cross_entropy(model(images), labels).backward()
        scores.update()
    model.zero_grad()
    return {
        way: _after(*copy.deepcopy((model, made)), policy, scores.values(), seed)
        for way, policy in WAYS.items()
    }


def _after(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    policy: Policy,
    scores: dict[str, Tensor],
    seed: int,
) -> list[list[float]]:
    plastic = fxplastic.plasticize(model, torch.zeros(2, 1, 32, 32))
    plan = fxplastic.plan_turnover(plastic, scores, 0.3, shares=policy.split)
    fxplastic.rewrite_(plastic, plan, optimizer, policy=policy, seed=seed)
    start = {name: produced(plastic, name).clone() for name in plan.edits}
    found = []
    for number, batch in zip(range(1, max(STEPS) + 1), Batches(seed + 2), strict=False):
        step(model, optimizer, batch)
        if number in STEPS:
            found.append([r for name in plan.edits for r in _ratios(plastic, name, plan, start)])
    return found


def _ratios(
    plastic: fxplastic.PlasticModule, name: str, plan: fxplastic.Plan, start: dict[str, Tensor]
) -> list[float]:
    slots, originals = (list(found) for found in copies_of(plan.edits[name]))
    now = produced(plastic, name)
    steps = now - start[name]  # noise that was there from the start is no parting
    apart = (steps[slots] - steps[originals]).norm(dim=1)
    moved = steps[originals].norm(dim=1)
    return (apart / moved.clamp_min(1e-30))[moved > 0].tolist()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    seeds = parser.parse_args().seeds
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    made = origin()
    text = HEAD.format(seeds=seeds, machine=made["machine"], **made["versions"])
    for network in NETWORKS:
        for optimizer in OPTIMIZERS:
            runs = [distances(network, optimizer, seed) for seed in tqdm(range(seeds))]
            for way in WAYS:
                if "BatchNorm noise" in way and "BatchNorm" not in network:
                    continue
                every = [[r for run in runs for r in run[way][i]] for i in range(len(STEPS))]
                cells = [f"{statistics.median(ratios):.2g}" for ratios in every]
                text += f"| {network} | {optimizer} | {way} | {' | '.join(cells)} |\n"
    TABLE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
