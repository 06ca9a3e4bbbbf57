"""What a plan will make of a model: widths, parameters and multiplications, before it is done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from fxplastic.errors import PlanError
from fxplastic.interpret import MetaInterpreter, example_values, plain_attention
from fxplastic.meta import on_meta
from fxplastic.module import PlasticModule
from fxplastic.plan import Plan, check_plan
from fxplastic.plastic import require_plastic
from fxplastic.resize import resized
from fxplastic.trace import as_it_is
from fxplastic.widths import new_sizes


@dataclass(frozen=True)
class Forecast:
    """Figures before and after a plan.

    Attributes:
        widths: for each group whose number of neurons changes, the number before and after.
        parameters: number of elements of all parameters, before and after.
        macs: multiply-accumulates of one forward pass on the example inputs in eval mode, before
            and after, by `torch.utils.flop_counter`: convolutions, matrix products, attention.
    """

    widths: Mapping[str, tuple[int, int]]
    parameters: tuple[int, int]
    macs: tuple[int, int]

    def __str__(self) -> str:
        lines = [f"{name}: {old} -> {new} neurons" for name, (old, new) in self.widths.items()]
        for what, (old, new) in (("parameters", self.parameters), ("MACs", self.macs)):
            part = f" ({new / old:.3f} of it)" if old else ""
            lines.append(f"{what}: {old:,} -> {new:,}{part}")
        return "\n".join(lines)


def forecast(plastic: PlasticModule, plan: Plan) -> Forecast:
    """Widths, parameters and MACs before and after `plan`; nothing is carried out.

    Args:
        plastic: the module as it is.
        plan: made for it.

    Raises:
        PlanError: the plan was made for another model.
        WidthError: its widths cannot be laid out.

    >>> from fxplastic import plan_widths, plasticize
    >>> mlp = nn.Sequential(nn.Linear(3, 20), nn.ReLU(), nn.Linear(20, 2))
    >>> plastic = plasticize(mlp, torch.zeros(1, 3))
    >>> print(forecast(plastic, plan_widths(plastic, 1.5)))
    0.weight:0: 20 -> 30 neurons
    parameters: 122 -> 182 (1.492 of it)
    MACs: 100 -> 150 (1.500 of it)
    """
    require_plastic(plastic, PlanError)
    check_plan(plastic, plan)
    sizes = new_sizes(plan)
    after = resized(plastic, sizes).module if not plan.keeps_widths else plastic
    widths = {n: (plastic.groups[n].size, size) for n, size in sizes.items()}
    return Forecast(
        {name: pair for name, pair in widths.items() if pair[0] != pair[1]},
        (count_parameters(plastic), count_parameters(after)),
        (count_macs(plastic), count_macs(after)),
    )


def count_parameters(module: nn.Module) -> int:
    """Number of elements of all parameters; tied ones once."""
    return sum(parameter.numel() for parameter in module.parameters())


def count_macs(plastic: PlasticModule) -> int:
    """Multiply-accumulates of one forward pass in eval mode on the example inputs, on meta."""
    from torch.utils.flop_counter import FlopCounterMode  # loads Triton, in a quarter of a second

    traced, counter = as_it_is(plastic.traced, plastic), FlopCounterMode(display=False)
    graph = traced.graphs[False]
    with plain_attention(), on_meta(plastic, training=False), torch.no_grad(), counter:
        MetaInterpreter(plastic, graph, traced).run(*example_values(graph, traced))
    return int(counter.get_total_flops()) // 2
