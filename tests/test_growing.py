"""A training run that widens its network step by step and loses nothing on the way."""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import timm
import torch
from timm.models.resnet import BasicBlock, ResNet
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR

import fxplastic

KEPT = 1e-6  # of the logits' norm, in float32; two runs of one function differ by up to 7e-7
STEPS, EPOCHS = 3, 4
LAST = STEPS * EPOCHS


def resnet(part: float) -> nn.Module:
    """ResNet-18 with `part` of its width; the deep stem, as timm fixes the width of the other."""
    channels = tuple(int(part * c) for c in (64, 128, 256, 512))
    return ResNet(
        BasicBlock,
        (2, 2, 2, 2),
        num_classes=5,
        channels=channels,
        stem_width=int(part * 32),
        stem_type="deep",
    )


def vit(part: float) -> nn.Module:
    return timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, num_classes=5, depth=4,
        embed_dim=48, mlp_ratio=4 * part,
    )  # fmt: skip


@dataclass
class Run:
    """A model in training with everything that has to follow its growth."""

    model: fxplastic.PlasticModule
    optimizer: torch.optim.Optimizer
    scheduler: CosineAnnealingLR
    average: ModelEmaV3

    def train(self, images: Tensor, labels: Tensor) -> float:
        self.model.train()
        self.optimizer.zero_grad()
        loss = nn.functional.cross_entropy(self.model(images), labels)
        loss.backward()
        self.optimizer.step()
        self.average.update(self.model)
        return float(loss.detach())

    def grow(self, sizes: dict[str, int]) -> None:
        plan = fxplastic.plan_widths(self.model, sizes, shares="uneven", seed=1)
        new = {n: size for n, size in sizes.items() if size != self.model.groups[n].size}
        assert {n: len(e.take) for n, e in plan.edits.items()} == new != {}
        assert in_float64(self.model, plan) <= 1e-12, "what float32 loses is rounding"
        result = fxplastic.rewrite(self.model, plan, self.optimizer)
        result.rebind(self.scheduler, self.average)
        self.model, self.optimizer = result.module, result.optimizer


def in_float64(model: fxplastic.PlasticModule, plan: fxplastic.Plan) -> float:
    """Largest difference that the plan makes to any logit, over the largest, without rounding."""
    double = copy.deepcopy(model).double().eval()
    images = torch.randn(4, 3, 32, 32, dtype=torch.float64)
    before = logits(double, images)
    after = logits(fxplastic.rewrite(double, plan).module, images)
    return float((after - before).abs().max() / before.abs().max())


def logits(model: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        return model.eval()(images)


def lost(after: Tensor, before: Tensor) -> float:
    return float((after - before).norm() / before.norm())


@pytest.mark.parametrize("build", [resnet, vit])
def test_growing_from_half_to_full_width_loses_nothing(build: Callable[[float], nn.Module]) -> None:
    torch.manual_seed(0)
    images, labels = torch.randn(16, 3, 32, 32), torch.randint(0, 5, (16,))
    full = fxplastic.plasticize(build(1.0), images)
    model = fxplastic.plasticize(build(0.5), images)
    assert model.groups.keys() == full.groups.keys()
    sizes = {name: (group.size, full.groups[name].size) for name, group in model.groups.items()}
    assert all(2 * half == whole for half, whole in sizes.values())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)
    run = Run(model, optimizer, CosineAnnealingLR(optimizer, LAST), ModelEmaV3(model, decay=0.5))
    rates, losses = [], []
    for epoch in range(LAST):
        if epoch % EPOCHS == EPOCHS - 1:
            step = epoch // EPOCHS + 1
            before = [logits(m, images) for m in (run.model, run.average.module)]
            run.grow(
                {n: half + (whole - half) * step // STEPS for n, (half, whole) in sizes.items()}
            )
            after = [logits(m, images) for m in (run.model, run.average.module)]
            pairs = zip(after, before, strict=True)
            worst = max(lost(new, old) for new, old in pairs)
            print(f"step {step}: {worst:.1e} of the norm")
            assert worst <= KEPT
        rates.append(run.optimizer.param_groups[0]["lr"])
        losses.append(run.train(images, labels))
        run.scheduler.step()
    check_end(run, build(1.0), images)
    twin = torch.optim.AdamW(build(0.5).parameters(), lr=1e-3)
    schedule = CosineAnnealingLR(twin, LAST)
    expected = []
    for _ in range(LAST):
        expected.append(twin.param_groups[0]["lr"])
        twin.step()
        schedule.step()
    assert rates == pytest.approx(expected)
    assert losses[-1] < 0.75 * losses[0]


def check_end(run: Run, stock: nn.Module, images: Tensor) -> None:
    """The grown weights and their average load into the stock model of full width."""
    for module in (run.model, run.average.module):
        stock.load_state_dict(module.state_dict(), strict=True)
        assert lost(logits(module, images), logits(stock, images)) <= KEPT
    own = {id(p) for p in run.model.parameters()}
    assert {id(p) for group in run.optimizer.param_groups for p in group["params"]} == own
    for parameter, state in run.optimizer.state.items():
        assert state["exp_avg"].shape == state["exp_avg_sq"].shape == parameter.shape
        assert float(state["step"]) == LAST
