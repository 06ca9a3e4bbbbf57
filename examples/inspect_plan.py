"""Read a plan before it is carried out: groups, sites, takes, shares, and what is frozen.

python examples/inspect_plan.py
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

import fxplastic


class Gated(nn.Module):
    """A convolution with a channel gate, a depthwise convolution and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.gate = nn.Linear(8, 8)
        self.head = nn.Linear(8, 4)

    def forward(self, images: Tensor) -> Tensor:
        features = self.depthwise(self.norm(self.stem(images)).relu())
        gate = self.gate(features.mean((2, 3))).sigmoid()
        return self.head((features * gate[:, :, None, None]).mean((2, 3)))


def show_groups(plastic: fxplastic.PlasticModule) -> None:
    """Each group's sites: where its neurons are copied, and where they are scaled."""
    for group in plastic.groups.values():
        exactness = "exact" if group.exact else "approximate"
        print(f"{group.name}: {group.size} neurons, {group.block_count} block(s), {exactness}")
        for site in group.sites:
            print(f"    {site}")
    print("frozen:")
    for axis in plastic.frozen:
        print(f"    {axis.parameter}:{axis.axis}, {axis.positions} positions: {axis.reason}")


def show_plan(plan: fxplastic.Plan) -> None:
    """Which neurons a plan prunes and which it splits, and into what shares."""
    for name, edit in plan.edits.items():
        print(f"{name}: prunes {list(edit.pruned)}")
        for source, slots in edit.copies.items():
            if len(slots) > 1:
                print(f"    {source} -> {list(slots)}, shares {[edit.share[j] for j in slots]}")


def main() -> None:
    """Inspect one plan, then carry it out on a copy and compare."""
    torch.manual_seed(0)
    model, images = Gated().eval(), torch.randn(2, 3, 8, 8)
    plastic = fxplastic.plasticize(model, images)
    show_groups(plastic)

    # Neuron 7 goes, and 2 is split into its slot: three quarters stay, one quarter moves.
    name = next(iter(plastic.groups))
    take, share = [0, 1, 2, 3, 4, 5, 6, 2], [1, 1, 0.75, 1, 1, 1, 1, 0.25]
    plan = fxplastic.Plan.from_takes(plastic, {name: take}, shares={name: share})
    print(f"\n{plan}\n")
    show_plan(plan)
    assert fxplastic.Plan.from_json(plan.to_json()) == plan

    turned = fxplastic.rewrite(plastic, plan).module  # pure: plastic is as it was
    moved = [
        key for key, value in turned.state_dict().items()
        if not torch.equal(value, plastic.state_dict()[key])
    ]  # fmt: skip
    print(f"\nchanged by the plan: {moved}")


if __name__ == "__main__":
    main()
