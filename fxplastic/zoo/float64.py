"""One model in float64: turnover in place, growth and pruning, against masking and itself."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fxplastic.discover import discover
from fxplastic.errors import FxPlasticError
from fxplastic.groups import Options
from fxplastic.labels import Run
from fxplastic.module import PlasticModule
from fxplastic.plan import Plan
from fxplastic.resize import remember_run
from fxplastic.rewrite import rewrite
from fxplastic.trace import trace
from fxplastic.trial import Trial, distance, float64_throughout
from fxplastic.verify import masked
from fxplastic.width_planner import plan_widths
from fxplastic.zoo.catalog import Entry, build
from fxplastic.zoo.inputs import Inputs

Row = dict[str, Any]
VALUE = Options("value")
GROWN, PRUNED, TURNED = 1.25, 0.7, 0.3


def shapes_of(module: nn.Module) -> dict[str, list[int]]:
    """Shape of every parameter and buffer, by name."""
    tensors: dict[str, Tensor] = dict(module.named_parameters()) | dict(module.named_buffers())
    return {name: list(tensor.shape) for name, tensor in tensors.items()}


def predicted_shapes(plastic: PlasticModule, plan: Plan) -> dict[str, list[int]]:
    """What every axis has after `plan`, counted by the sites' positions alone."""
    wanted = shapes_of(plastic)
    for name, edit in plan.edits.items():
        for site in plastic.groups[name].sites:
            more = len(edit.take) // edit.blocks - edit.size // edit.blocks
            blocks = 1 if site.rows is not None else edit.blocks  # there, a block lies on each row
            wanted[site.parameter][site.axis] += more * blocks * site.positions.shape[1]
    return wanted


def measure(entry: Entry, inputs: Inputs, tell: Callable[[str], None]) -> Row:
    """Turnover in place, growth and pruning, in both modes, on a copy with random weights."""
    tell("float64: discover")
    torch.manual_seed(0)
    start = time.perf_counter()
    model = build(entry, inputs.options, "cpu")
    args, kwargs = inputs.make("cpu", torch.float32)
    traced = trace(model, args, kwargs)
    found = discover(model, traced, VALUE, witness=True)
    plastic = PlasticModule(model, traced, found.groups, found.frozen, VALUE)
    trial = Trial.of(plastic, args, kwargs, seed=0)
    model.double()
    if plastic.groups:
        with float64_throughout():
            remember_run(trial.module, Run.of(found.ledger))
    del traced, found
    row: Row = {"groups": len(plastic.groups)}
    here = _Runs(trial, model, trial.modes())
    if not all(here.whole.values()):
        raise FxPlasticError("the model returns no floating tensor: there is nothing to compare")
    tell("float64: trace")
    row["traced"] = here.traced_error(plastic)
    row["floor"] = here.error(_nudged(trial.module), here.whole)
    del model, here.model, plastic
    with float64_throughout():
        for name, step in _STEPS.items() if trial.module.groups else ():
            tell(f"float64: {name}")
            row |= step(here)
    row["modes"] = ["train" if mode else "eval" for mode in here.modes]
    row["seconds"] = round(time.perf_counter() - start, 1)
    return row


def _nudged(module: PlasticModule) -> PlasticModule:
    """A copy with weights changed by a few parts in 1e16: no check can be finer than what it does.

    The rewrite of an ill-conditioned model is off by as much, however right it is.
    """
    result, generator = copy.deepcopy(module), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in result.parameters():
            if parameter.is_floating_point():
                noise = torch.rand(parameter.shape, generator=generator, dtype=parameter.dtype)
                parameter.mul_(1 + 1e-15 * (2 * noise - 1))
    return result


class _Runs:
    """Outputs of one trial's module in every mode, and distances from them."""

    def __init__(self, trial: Trial, model: nn.Module, modes: tuple[bool, ...]) -> None:
        self.trial, self.model, self.modes = trial, model, modes
        self.whole = self.of(trial.module)

    def of(self, module: nn.Module) -> dict[bool, list[Tensor]]:
        return {mode: self.trial.outputs(module, mode) for mode in self.modes}

    def error(self, module: nn.Module, reference: Mapping[bool, list[Tensor]]) -> float:
        found = self.of(module)
        return max(distance(found[mode], reference[mode]) for mode in self.modes)

    def traced_error(self, plastic: PlasticModule) -> float:
        """Distance of the traced module from the model itself, with the model's own weights."""
        return self.error(plastic, self.of(self.model))


def _turnover(here: _Runs) -> Row:
    module, row = here.trial.module, {}
    plan = Plan.random(module, turnover=TURNED)
    reference = here.of(masked(module, module.groups, plan))
    row["turnover_effect"] = max(distance(reference[m], here.whole[m]) for m in here.modes)
    for shares in ("uneven", "signed"):
        plan = Plan.random(module, turnover=TURNED, shares=shares)
        turned = rewrite(module, plan).module  # a copy, turned over in place
        row[f"turnover_{shares}"] = here.error(turned, reference)
    return row


def _growth(here: _Runs) -> Row:
    plan = plan_widths(here.trial.module, GROWN, shares="signed")
    row: Row = {"grown": len(plan.edits)}
    if plan.edits:
        wider = rewrite(here.trial.module, plan).module
        row["growth"] = here.error(wider, here.whole)
        row["growth_shapes"] = shapes_of(wider) == predicted_shapes(here.trial.module, plan)
    return row


def _pruning(here: _Runs) -> Row:
    module = here.trial.module
    plan = plan_widths(module, PRUNED)
    row: Row = {"pruned": len(plan.edits)}
    if plan.edits:
        reference = here.of(masked(module, module.groups, plan))
        row["pruning_effect"] = max(distance(reference[m], here.whole[m]) for m in here.modes)
        narrow = rewrite(module, plan).module
        row["pruning"] = here.error(narrow, reference)
        row["pruning_shapes"] = shapes_of(narrow) == predicted_shapes(module, plan)
    return row


_STEPS = {"turnover": _turnover, "growth": _growth, "pruning": _pruning}
