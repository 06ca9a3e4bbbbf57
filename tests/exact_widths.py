"""What it means that a change of widths is exact, measured on one model in float64."""

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import fxplastic
from fxplastic.coverage import coverage
from fxplastic.interpret import plain_attention
from tests.exact_models import ModelSpec
from tests.exact_parts import (
    MODES,
    State,
    distance,
    mask_,
    outputs,
    prepared,
    restore,
    same_bits,
    snapshot,
    tensors,
)

TOLERANCE = 1e-10
SHARES = ("even", "uneven", "signed")
GROWN, PRUNED = 1.25, 0.7


class Widths:
    """One model, and what it computes at the widths that it has."""

    def __init__(self, spec: ModelSpec, size: int, plastic: fxplastic.PlasticModule) -> None:
        self.spec, self.size, self.plastic = spec, size, plastic
        self.images = spec.images(size, 2, seed=6)
        self.state = snapshot(plastic)
        self.whole = {m: outputs(plastic, self.images, train) for m, train in MODES.items()}
        restore(plastic, self.state)

    def errors(self, module: nn.Module, reference: Mapping[str, Any]) -> dict[str, float]:
        """Distance of a module's outputs from reference outputs, by mode; it is left alone."""
        state = snapshot(module)
        found = {}
        for mode, training in MODES.items():
            found[f"error_{mode}"] = distance(
                outputs(module, self.images, training), reference[mode]
            )
            restore(module, state)
        return found

    def masked(self, plan: fxplastic.Plan) -> dict[str, Any]:
        """Outputs of the stock model with the consumers of what `plan` prunes at zero."""
        model = prepared(self.spec, self.size, dropout=False)
        restore(model, self.state)
        mask_(model, self.plastic.groups, pruned(plan))
        state: State = snapshot(model)
        found = {}
        for mode, training in MODES.items():
            found[mode] = outputs(model, self.images, training)
            restore(model, state)
        return found


def pruned(plan: fxplastic.Plan) -> dict[str, list[int]]:
    """Neurons of each group that no new one copies."""
    return {
        name: sorted(set(range(edit.size)) - set(edit.take)) for name, edit in plan.edits.items()
    }


def check_widths(
    spec: ModelSpec, size: int, plastic: fxplastic.PlasticModule, make_optimizer: Any, step: Any
) -> dict[str, Any]:
    """Growth, pruning, and both at once with a training step, a new discovery, a second plan."""
    here = Widths(spec, size, plastic)
    row: dict[str, Any] = {}
    for shares in SHARES:
        plan = fxplastic.plan_widths(plastic, GROWN, shares=shares)
        row |= {"refused": refused(plastic, plan)} if shares == "even" else {}
        wider = fxplastic.rewrite(plastic, plan).module
        row[f"grow {shares}"] = here.errors(wider, here.whole)
        del wider
    plan = fxplastic.plan_widths(plastic, PRUNED)
    masked = here.masked(plan)
    row["prune"] = here.errors(fxplastic.rewrite(plastic, plan).module, masked)
    row["effect"] = distance(masked["eval"], here.whole["eval"])
    row["input_untouched"] = same_bits(here.state, tensors(plastic))
    return row | {"mixed": check_mixed(here, make_optimizer, step)}


def refused_share(rows: Iterable[Mapping[str, Any]]) -> float:
    """Over several models, the part of the plastic slots that groups of fixed width hold."""
    slots = [(r["neurons"] * r["slots_per_neuron"], r) for r in rows if "widths" in r]
    lost = sum(n * r["widths"]["refused"]["share"] for n, r in slots)
    return lost / max(sum(n for n, _ in slots), 1.0)


def refused(plastic: fxplastic.PlasticModule, plan: fxplastic.Plan) -> dict[str, Any]:
    """Groups that did not grow although a quarter of a block is a neuron, and their slots."""
    stuck = [
        name
        for name, group in plastic.groups.items()
        if group.exact and group.block_size >= 4 and name not in plan.edits
    ]
    parameters = list(plastic.named_parameters())
    lost = coverage(parameters, {name: plastic.groups[name] for name in stuck}).share
    reasons = [note for note in plan.notes if note.split(" ", 1)[0] in stuck]
    share = lost / coverage(parameters, plastic.groups).share
    return {"groups": stuck, "share": share, "reasons": reasons}


def check_mixed(here: Widths, make_optimizer: Any, step: Any) -> dict[str, Any]:
    """Every other group grows and the others shrink; then all that a user does next."""
    plastic = here.plastic
    wanted = {n: (GROWN, PRUNED)[i % 2] for i, n in enumerate(plastic.groups)}
    plan = fxplastic.plan_widths(plastic, wanted, shares="signed")
    optimizer = make_optimizer(here.spec, plastic)
    step(plastic, optimizer, here.images)
    here.state = snapshot(plastic)
    foretold = fxplastic.forecast(plastic, plan)
    result = fxplastic.rewrite(plastic, plan, optimizer)
    module = result.module
    row: dict[str, Any] = here.errors(module, here.masked(plan))
    row["parameters"] = foretold.parameters[1] == sum(p.numel() for p in module.parameters())
    row["macs"] = foretold.macs[1] == macs(module, here)
    row["shapes"] = shapes_agree(module, plastic, plan)
    again = fxplastic.plasticize(module, here.spec.images(here.size, 2))
    row["same_groups"] = same_groups(again, plastic, plan)
    second = fxplastic.plan_widths(again, {n: (PRUNED, GROWN)[i % 2] for i, n in enumerate(wanted)})
    row["second"] = second_holds(here, again, second)
    state = snapshot(module)
    step(module, result.optimizer, here.images)
    row["step_moves"] = not same_bits(state, tensors(module))
    row["finite"] = all(bool(t.isfinite().all()) for t in tensors(module).values())
    row["input_untouched"] = same_bits(here.state, tensors(plastic))
    return row


def macs(module: fxplastic.PlasticModule, here: Widths) -> int:
    """Multiply-accumulates of a real forward on inputs like the example's."""
    module.eval()
    plain = sdpa_kernel(SDPBackend.MATH)  # the counter knows no fused attention on the CPU
    with FlopCounterMode(display=False) as counter, torch.no_grad(), plain, plain_attention():
        module(here.images)
    return int(counter.get_total_flops()) // 2


def shapes_agree(module: nn.Module, plastic: nn.Module, plan: fxplastic.Plan) -> bool:
    """Whether every axis has what the plan adds to it, counted by the sites' positions."""
    wanted = {name: list(t.shape) for name, t in tensors(plastic).items()}
    for name, edit in plan.edits.items():
        for site in plastic.groups[name].sites:
            more = len(edit.take) // edit.blocks - edit.size // edit.blocks
            # In a grouped convolution's input axis, one block lies on every row.
            blocks = 1 if site.rows is not None else edit.blocks
            wanted[site.parameter][site.axis] += more * blocks * site.positions.shape[1]
    return {n: list(t.shape) for n, t in tensors(module).items()} == wanted


def same_groups(
    again: fxplastic.PlasticModule, before: fxplastic.PlasticModule, plan: fxplastic.Plan
) -> bool:
    """Whether the groups have the old names and sites, and the sizes that the plan gives them."""

    def look(module: fxplastic.PlasticModule) -> dict[str, list[tuple[object, ...]]]:
        return {
            name: [(s.parameter, s.axis, s.role, s.positions.shape[1]) for s in group.sites]
            for name, group in module.groups.items()
        }

    sizes = {n: g.size for n, g in before.groups.items()}
    sizes |= {n: len(edit.take) for n, edit in plan.edits.items()}
    found = {n: g.size for n, g in again.groups.items()}
    return look(again) == look(before) and found == sizes and again.fingerprint == plan.target


def second_holds(here: Widths, again: fxplastic.PlasticModule, plan: fxplastic.Plan) -> float:
    """Largest error of a second rewrite against masking the first one's result."""
    masked = copy.deepcopy(again)
    mask_(masked, again.groups, pruned(plan))
    state = snapshot(masked)
    reference = {}
    for mode, training in MODES.items():
        reference[mode] = outputs(masked, here.images, training)
        restore(masked, state)
    return max(here.errors(fxplastic.rewrite(again, plan).module, reference).values())


def width_failures(row: Mapping[str, Any]) -> Iterable[str]:
    """What in a row of `check_widths` is not good enough."""
    for kind in (*(f"grow {shares}" for shares in SHARES), "prune", "mixed"):
        for key, value in row[kind].items():
            if isinstance(value, bool) and not value:
                yield f"{kind}: {key}"
            elif isinstance(value, float) and not value <= TOLERANCE:
                yield f"{kind}: {key} {value:.1e} > {TOLERANCE}"
    if not row["effect"] > 1e3 * TOLERANCE:
        yield f"pruning changes outputs by {row['effect']:.1e} only: the check sees nothing"
    if not row["input_untouched"]:
        yield "widths: input_untouched"
