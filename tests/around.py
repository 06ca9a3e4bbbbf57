"""Turnovers of small timm models with something around them, compared with masking in float64."""

import copy
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import fxplastic
from fxplastic import Plan, Plasticity, PlasticModule, Schedule
from fxplastic.turnover import Turnover
from tests.exact_parts import distance, mask_, outputs, restore, snapshot
from tests.oracle import pruned
from tests.randomise import randomise

CLASSES = 5
EXACT = 1e-12  # largest difference over the largest output, in float64

Loss = Callable[[nn.Module, int], Tensor]


def small(
    name: str, wrap: Callable[[nn.Module], object] | None = None, **options: Any
) -> nn.Module:
    """A timm model in float64, wrapped up by `wrap`, with weights at which a mistake shows."""
    torch.manual_seed(0)
    model: nn.Module = timm.create_model(name, num_classes=CLASSES, **options)
    if wrap is not None:
        wrap(model)
    return randomise(model, seed=1)


def images(batch: int = 4, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(batch, 3, 64, 64, generator=draw, dtype=torch.float64).to(dtype)


def loss_of(model: nn.Module, seed: int) -> Tensor:
    dtype = next(model.parameters()).dtype
    return cross_entropy(model(images(CLASSES, seed, dtype)), torch.arange(CLASSES))


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    """With momentum, over what is to be trained."""
    trained = [p for p in model.parameters() if p.requires_grad]
    return torch.optim.SGD(trained, lr=1e-3, momentum=0.9)


def seen(model: nn.Module, x: Tensor) -> list[Tensor]:
    """Outputs in both modes; the model is left as it was."""
    state, flags = snapshot(model), [(m, m.training) for m in model.modules()]
    found = []
    for training in (False, True):
        found += outputs(model, x, training)
        restore(model, state)
    for module, flag in flags:
        module.training = flag
    return found


def dead(plastic: Any, plan: Plan) -> dict[str, list[int]]:
    return {name: pruned(plastic.groups[name], edit.take) for name, edit in plan.edits.items()}


def masked(model: nn.Module, plastic: Any, plan: Plan, x: Tensor) -> list[Tensor]:
    """What the model gives with the neurons that `plan` prunes at zero; it is left as it was."""
    state = snapshot(model)
    mask_(model, plastic.groups, dead(plastic, plan))
    found = seen(model, x)
    restore(model, state)
    return found


@dataclass(frozen=True, eq=False)
class Made:
    """A turnover that `Plasticity` made, and how far the model is from the masked one."""

    turnover: Turnover
    optimizer: torch.optim.Optimizer
    plasticity: Plasticity
    before: Mapping[str, Tensor]
    error: float
    effect: float


def turn_over(
    model: nn.Module,
    plastic: PlasticModule,
    *,
    loss: Loss = loss_of,
    after_step: Callable[[], object] = lambda: None,
    during: Callable[[], AbstractContextManager[object]] = nullcontext,
    **options: Any,
) -> Made:
    """Train two steps, turn over, compare with masking in float64, and train another step."""
    model.train()
    optimizer = sgd(model)
    plasticity = Plasticity(plastic, optimizer, schedule=Schedule(every=1), **options)

    def step(seed: int) -> None:
        optimizer.zero_grad()
        with during():
            value = loss(model, seed)
        value.backward()
        plasticity.after_backward()
        optimizer.step()
        after_step()

    step(1)
    step(2)
    before = snapshot(model)
    turnover = plasticity.end_epoch()
    assert turnover is not None
    after, x = snapshot(model), images(2)
    wide = model if next(model.parameters()).dtype == x.dtype else copy.deepcopy(model).double()
    restore(wide, after)
    turned = seen(wide, x)
    restore(wide, before)
    plain, expected = seen(wide, x), masked(wide, plastic, turnover.plan, x)
    restore(model, after)
    made = Made(turnover, optimizer, plasticity, before, *_far(turned, expected, plain))
    step(3)
    assert all(p.isfinite().all() for p in model.parameters())
    return made


def _far(turned: list[Tensor], expected: list[Tensor], plain: list[Tensor]) -> tuple[float, float]:
    return distance(turned, expected), distance(expected, plain)


def wider_and_narrower(model: nn.Module, plastic: PlasticModule) -> dict[str, float]:
    """How far `rewrite` at other widths is from the model as it is, and from the masked one."""
    x = images(2)
    grown = Plan.random(plastic, grow=0.5, seed=1, shares="uneven")
    shrunk = Plan.random(plastic, prune=0.25, seed=2)
    found = {}
    for name, plan in (("grown", grown), ("shrunk", shrunk)):
        expected = masked(model, plastic, plan, x)
        result = fxplastic.rewrite(plastic, plan).module
        found[name] = distance(seen(result, x), expected)
    return found


def sites_of(plastic: PlasticModule) -> dict[str, str]:
    """Of each exact group's sites, the role, by ``"parameter:axis"``."""
    return {
        f"{s.parameter}:{s.axis}": s.role
        for group in plastic.groups.values()
        if group.exact
        for s in group.sites
    }


def reasons(plastic: PlasticModule, parameter: str) -> str:
    """Why the axes of a parameter are frozen."""
    return "; ".join(record.reason for record in plastic.frozen if record.parameter == parameter)
