"""Optimizers of every class that can be carried, and how far carried state is from the real one."""

import copy
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import timm.optim
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from fxplastic.discover import discover
from fxplastic.plan import Plan
from fxplastic.rewrite import rewrite, rewrite_
from fxplastic.trace import trace
from tests.hand_made import Branches, ConvNet, HandMade, build, images, train_step
from tests.test_optim import STEPS, kill_

STILL = 1e-16  # a learning rate at which weights stand still


@dataclass(frozen=True)
class Case:
    """One class with one set of options."""

    label: str
    kind: type[Optimizer]
    options: dict[str, Any]
    matrices: bool = False  # it takes two axes, no more and no fewer


class Wide(HandMade):
    """Layers that are wide enough for factored state, and a kernel with four axes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.mix = nn.Conv2d(3, 20, 3), nn.Conv2d(20, 24, 3)
        self.fc, self.out = nn.Linear(24 * 4, 24), nn.Linear(24, 20)
        self.groups = dict(discover(self, trace(self, (torch.zeros(2, 3, 6, 6),))).groups)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.mix(torch.relu(self.conv(x))))
        return self.out(torch.relu(self.fc(x.flatten(1))))


def _t(name: str, **options: Any) -> tuple[type[Optimizer], dict[str, Any]]:
    return getattr(torch.optim, name), options


def _m(name: str, **options: Any) -> tuple[type[Optimizer], dict[str, Any]]:
    module, _, kind = name.rpartition(".")
    return getattr(getattr(timm.optim, module), kind), options


_ALL = {
    "SGD": _t("SGD", momentum=0.9),
    "SGD nesterov": _t("SGD", momentum=0.9, nesterov=True),
    "SGD dampened": _t("SGD", momentum=0.9, dampening=0.3),
    "SGD, decay 5e-4": _t("SGD", momentum=0.9, weight_decay=5e-4),
    "Adam": _t("Adam"),
    "Adam amsgrad": _t("Adam", amsgrad=True),
    "Adam, decay 1e-2": _t("Adam", weight_decay=1e-2),
    "AdamW": _t("AdamW", weight_decay=0.1),
    "AdamW amsgrad": _t("AdamW", amsgrad=True),
    "NAdam": _t("NAdam"),
    "RAdam": _t("RAdam"),
    "Adamax": _t("Adamax"),
    "Adagrad": _t("Adagrad"),
    "Adagrad from 0.1": _t("Adagrad", initial_accumulator_value=0.1),
    "Adadelta": _t("Adadelta"),
    "RMSprop": _t("RMSprop"),
    "RMSprop centered, momentum": _t("RMSprop", centered=True, momentum=0.9),
    "Rprop": _t("Rprop", step_sizes=(1e-18, 1e-16)),
    "Muon": _t("Muon"),
    "Adafactor": _t("Adafactor"),
    "timm AdaBelief": _m("adabelief.AdaBelief"),
    "timm AdaBelief amsgrad": _m("adabelief.AdaBelief", amsgrad=True),
    "timm Adafactor": _m("adafactor.Adafactor", scale_parameter=False),
    "timm Adafactor, beta1": _m("adafactor.Adafactor", scale_parameter=False, betas=(0.9, 0.999)),
    "timm AdafactorBigVision": _m("adafactor_bv.AdafactorBigVision"),
    "timm AdamP": _m("adamp.AdamP"),
    "timm AdamWLegacy": _m("adamw.AdamWLegacy"),
    "timm AdamWLegacy amsgrad": _m("adamw.AdamWLegacy", amsgrad=True),
    "timm NAdamW": _m("nadamw.NAdamW"),
    "timm NAdamLegacy": _m("nadam.NAdamLegacy"),
    "timm RAdamLegacy": _m("radam.RAdamLegacy"),
    "timm Adan": _m("adan.Adan"),
    "timm Adopt": _m("adopt.Adopt"),
    "timm Lamb": _m("lamb.Lamb"),
    "timm LaProp": _m("laprop.LaProp"),
    "timm Lars": _m("lars.Lars", momentum=0.9, always_adapt=True),
    "timm Lion": _m("lion.Lion"),
    "timm Mars": _m("mars.Mars"),
    "timm Muon": _m("muon.Muon"),
    "timm NvNovoGrad": _m("nvnovograd.NvNovoGrad"),
    "timm RMSpropTF": _m("rmsprop_tf.RMSpropTF", centered=True, momentum=0.9),
    "timm SGDP": _m("sgdp.SGDP", momentum=0.9),
    "timm SGDW": _m("sgdw.SGDW", momentum=0.9),
}
CASES = tuple(
    Case(label, kind, options, matrices=label == "Muon") for label, (kind, options) in _ALL.items()
)
MODELS: tuple[type[HandMade], ...] = (Branches, ConvNet, Wide)


def make(case: Case, model: nn.Module) -> Optimizer:
    """The optimizer of a case, with a learning rate at which weights stand still."""
    chosen: Iterable[Tensor] = [p for p in model.parameters() if not case.matrices or p.ndim == 2]
    return case.kind(chosen, **{"lr": STILL, **case.options})


def inputs(kind: type[HandMade], step: int) -> Tensor:
    if kind is Wide:
        generator = torch.Generator().manual_seed(step)
        return torch.randn(5, 3, 6, 6, generator=generator, dtype=torch.float64)
    return images(kind, seed=10 + step)


def plan_for(model: HandMade, shares: str) -> Plan:
    """A turnover whose pruned neurons are dead."""
    plan = Plan.random(model, turnover=0.4, seed=3, shares=shares)
    kill_(model, plan)
    return plan


def errors(case: Case, kind: type[HandMade], shares: str = "signed") -> dict[str, float]:
    """By state key, the distance of carried from recomputed state, relative to the latter.

    Carried: some steps, then the plan. Recomputed: the plan, then the same steps. Weights stand
    still, so that both have the same gradients, up to what the plan does to them.
    """
    torch.manual_seed(0)
    carried = build(kind) if kind is not Wide else Wide().double()
    plan = plan_for(carried, shares)
    again = copy.deepcopy(carried)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        first, second = make(case, carried), None
        for step in range(STEPS):
            train_step(carried, first, inputs(kind, step))
        rewrite_(carried, plan, first)
        again = rewrite(again, plan).module
        second = make(case, again)
        for step in range(STEPS):
            train_step(again, second, inputs(kind, step))
    return _distances(first, second, dict(again.named_parameters()))


def _distances(
    first: Optimizer, second: Optimizer, named: dict[str, nn.Parameter]
) -> dict[str, float]:
    found: dict[str, float] = {}
    pairs = zip(first.param_groups[0]["params"], second.param_groups[0]["params"], strict=True)
    for mine, other in pairs:
        if first.state[mine].keys() != second.state[other].keys():
            raise AssertionError("the two have other keys")
        for key, value in first.state[mine].items():
            wanted = second.state[other][key]
            if torch.is_tensor(value) and value.ndim:
                off = float((value - wanted).abs().max()) / max(float(wanted.abs().max()), 1e-300)
                found[key] = max(found.get(key, 0.0), off)
    return found
