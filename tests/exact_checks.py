"""What it means that a turnover is exact, measured on one model in float64.

`measure` returns the figures of one model as plain data; `failures` says which of them are not
good enough.
"""

import copy
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

import fxplastic
from fxplastic.coverage import coverage, frozen_reasons
from tests.exact_models import ModelSpec
from tests.exact_parts import (
    MODES,
    State,
    distance,
    equal_outputs,
    equal_outputs_shared,
    mask_,
    outputs,
    prepared,
    restore,
    same_bits,
    same_leaves,
    snapshot,
    tensors,
    turnover,
)
from tests.exact_widths import check_widths, width_failures

TOLERANCE = 1e-10  # relative to the largest output; float64 rounding is about 1e-15
BATCH = 2
KINDS = ("uneven", "signed")


# --- training ---------------------------------------------------------------------------------


def make_optimizer(spec: ModelSpec, model: nn.Module) -> torch.optim.Optimizer:
    if spec.optimizer == "SGD":
        return torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)
    return torch.optim.AdamW(model.parameters(), lr=1e-4)


def train_step(model: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor) -> set[str]:
    """One step in train mode; returns the names of the parameters that have a gradient."""
    model.train()
    optimizer.zero_grad(set_to_none=True)
    torch.manual_seed(11)
    leaves, _ = tree_flatten(model(images))
    loss = sum(leaf.tanh().square().mean() for leaf in leaves if isinstance(leaf, Tensor))
    loss.backward()
    optimizer.step()
    return {name for name, p in model.named_parameters() if p.grad is not None}


# --- the checks -------------------------------------------------------------------------------


def check_trace(spec: ModelSpec, size: int) -> dict[str, bool]:
    """Traced outputs, names and another batch size, with dropout as the model has it."""
    model = prepared(spec, size, dropout=True)
    plain = copy.deepcopy(model)
    plastic = fxplastic.plasticize(model, spec.images(size, BATCH))
    names = [list(dict(m.named_parameters())) for m in (plain, plastic)]
    keys = [list(m.state_dict()) for m in (plain, plastic)]
    return {
        "traced_bits": equal_outputs(plain, plastic, spec.images(size, BATCH)),
        "other_batch": equal_outputs(plain, plastic, spec.images(size, BATCH + 1, seed=3)),
        "names": names[0] == names[1] and keys[0] == keys[1],
    }


def check_turnover(
    spec: ModelSpec, size: int, model: nn.Module, plastic: fxplastic.PlasticModule, kind: str
) -> dict[str, Any]:
    """One turnover of every exact group: pure and in place, against masking, JSON and training."""
    images = spec.images(size, BATCH, seed=5)
    optimizer = make_optimizer(spec, model)
    had_grad = train_step(model, optimizer, images)
    before = snapshot(model)
    takes, shares, pruned = turnover(plastic.groups, kind, seed=KINDS.index(kind))
    plan = fxplastic.Plan.from_takes(plastic, takes, shares)

    moments = copy.deepcopy(optimizer.state_dict())
    pure = fxplastic.rewrite(plastic, plan, optimizer)
    untouched = same_bits(before, tensors(model)) and same_leaves(moments, optimizer.state_dict())
    row: dict[str, Any] = {"input_untouched": untouched}
    del moments
    fxplastic.rewrite_(plastic, plan, optimizer)
    turned = snapshot(plastic)
    row["pure_same_bits"] = same_bits(turned, tensors(pure.module))
    row |= _against_masking(spec, size, plastic, before, pruned)
    restore(plastic, turned)
    row["loads_strict"] = _loads_into_stock(spec, size, plastic, images)
    row["json"] = _replays(spec, size, plan, before, turned)
    restore(plastic, turned)
    after = train_step(model, optimizer, images), train_step(pure.module, pure.optimizer, images)
    row["grads"] = had_grad == after[0] == after[1]
    row["steps_alike"] = same_bits(snapshot(model), tensors(pure.module))
    row["original_alive"] = equal_outputs_shared(model, plastic, images)
    return row


def _against_masking(
    spec: ModelSpec,
    size: int,
    plastic: fxplastic.PlasticModule,
    before: State,
    pruned: dict[str, list[int]],
) -> dict[str, float]:
    images = spec.images(size, BATCH, seed=6)
    masked = prepared(spec, size, dropout=False)
    restore(masked, before)
    whole = outputs(masked, images, training=False)
    mask_(masked, plastic.groups, pruned)
    row = {"effect": distance(outputs(masked, images, training=False), whole)}
    for mode, training in MODES.items():
        ours = outputs(plastic, images, training)
        row[f"error_{mode}"] = distance(ours, outputs(masked, images, training))
    return row


def _loads_into_stock(
    spec: ModelSpec, size: int, plastic: fxplastic.PlasticModule, images: Tensor
) -> bool:
    """Whether a fresh plain model takes the turned weights and computes the same."""
    fresh = spec.build(size, dropout=False)
    fresh.load_state_dict(plastic.state_dict(), strict=True)
    return equal_outputs(fresh, plastic, images)


def _replays(
    spec: ModelSpec, size: int, plan: fxplastic.Plan, before: State, turned: State
) -> bool:
    """Whether the plan, through JSON, does the same to a copy that was discovered anew."""
    again = fxplastic.Plan.from_json(plan.to_json())
    copied = prepared(spec, size, dropout=False)
    restore(copied, before)
    fxplastic.rewrite_(fxplastic.plasticize(copied, spec.images(size, BATCH)), again)
    return again == plan and same_bits(turned, tensors(copied))


def measure(spec: ModelSpec, size: int, progress: Callable[[str], None] = lambda _: None) -> dict:
    """All figures of one model as plain data, ready for JSON."""
    start = time.perf_counter()
    progress("discover")
    model = prepared(spec, size, dropout=False)
    plastic = fxplastic.plasticize(model, spec.images(size, BATCH))
    discovered = time.perf_counter() - start
    reach = coverage(plastic.named_parameters(), plastic.groups)
    row: dict[str, Any] = {
        "model": spec.name,
        "size": size,
        "floor": spec.floor,
        "coverage": reach.share,
        "neurons": reach.neurons,
        "groups": sum(group.exact for group in plastic.groups.values()),
        "slots_per_neuron": reach.slots_per_neuron,
        "reasons": frozen_reasons(plastic.frozen),
        "discover_seconds": discovered,
    }
    progress("trace")
    row |= check_trace(spec, size)
    for kind in KINDS if reach.neurons else ():
        progress(kind)
        row[kind] = check_turnover(spec, size, model, plastic, kind)
    if reach.neurons:
        progress("widths")
        row["widths"] = check_widths(spec, size, plastic, make_optimizer, train_step)
    row["seconds"] = time.perf_counter() - start
    return row


def failures(row: Mapping[str, Any]) -> list[str]:
    """What in a row of `measure` is not good enough; empty for an exact model."""
    bad = [key for key in ("traced_bits", "other_batch", "names") if not row[key]]
    if row["floor"] is not None and row["coverage"] < row["floor"]:
        bad.append(f"coverage {row['coverage']:.4f} < {row['floor']}")
    if row["floor"] is not None and not row["neurons"]:
        bad.append("no exact neuron")
    for kind in (kind for kind in KINDS if kind in row):
        bad += [f"{kind}: {problem}" for problem in _turnover_failures(row[kind])]
    if "widths" in row:
        bad += width_failures(row["widths"])
    return bad


def _turnover_failures(row: Mapping[str, Any]) -> Iterable[str]:
    for key, value in row.items():
        if isinstance(value, bool) and not value:
            yield key
        elif key.startswith("error") and not value <= TOLERANCE:
            yield f"{key} {value:.1e} > {TOLERANCE}"
    if not row["effect"] > 1e3 * TOLERANCE:
        yield f"masking changes outputs by {row['effect']:.1e} only: the check sees nothing"
