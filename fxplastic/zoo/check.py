"""What is checked of one model, on the meta device and in float64, as one row of plain data."""

from __future__ import annotations

import gc
import hashlib
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from fxplastic.coverage import coverage, held_back
from fxplastic.discover import Discovery, discover
from fxplastic.forecast import count_parameters
from fxplastic.guards import CHECKS
from fxplastic.labels import Run
from fxplastic.layouts import codes_of
from fxplastic.module import PlasticModule
from fxplastic.partition import partition
from fxplastic.plan import Plan
from fxplastic.resize import remember_run
from fxplastic.rewrite import rewrite
from fxplastic.trace import Traced, trace
from fxplastic.width_planner import plan_widths
from fxplastic.zoo.catalog import Entry, build, family, own_inputs, smaller_inputs
from fxplastic.zoo.float64 import (
    GROWN,
    PRUNED,
    TURNED,
    VALUE,
    Row,
    measure,
    predicted_shapes,
    shapes_of,
)
from fxplastic.zoo.inputs import Inputs

TOLERANCE = 1e-9
"""Largest difference allowed, relative to the largest output, in float64."""
MOST_PARAMETERS = 100_000_000
BATCH, SMALL = 4, 140
REASONS = 12

Reuse = Callable[[str], Row | None]


@dataclass
class _Steps:
    """Where a check stands, so that an error can say what it was about."""

    name: str = "build"

    def at(self, name: str) -> None:
        """Note the step that is taken now."""
        self.name = name


def check(entry: Entry, reuse: Reuse, most: int = MOST_PARAMETERS, begun: Row | None = None) -> Row:
    """The row of one model; an exception of any kind becomes the row's error.

    Args:
        entry: the model.
        reuse: the float64 figures of a model that is the same program, by that program's hash.
        most: models with more parameters have no float64 check.
        begun: the model's row without these checks, to be completed.
    """
    step, row = _Steps(), {"model": entry.key, **(begun or {})}
    start = time.perf_counter()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _check(entry, reuse, most, step, row)
    except Exception as error:  # the table has to show it, whatever it is
        text = f"{type(error).__name__}: {error}".splitlines()[0][:500]
        row |= {"error": text, "step": step.name}
    gc.collect()
    spent = time.perf_counter() - start + row.get("seconds", 0.0)
    return row | {"seconds": round(spent, 1)}


def _check(entry: Entry, reuse: Reuse, most: int, step: _Steps, row: Row) -> None:
    model = build(entry, {}, "meta")
    own = own_inputs(entry, model)
    row |= {"family": family(entry, model), "parameters": count_parameters(model)}
    row["input"] = str(own)
    step.at("trace")
    args, kwargs = own.make("meta", torch.float32)
    start = time.perf_counter()
    traced = trace(model, args, kwargs)
    row["trace_s"] = round(time.perf_counter() - start, 2)
    if "meta" not in row:
        _without_weights(model, traced, step, row)
    if row["parameters"] > most:
        return
    step.at("choose an input")
    calls, key = calls_of(traced), program(PlasticModule(model, traced, {}, ()))
    del model, traced
    inputs, small_key = _smallest(entry, own, calls, key)
    # Statistics of a batch of two single pixels are signs: any rounding error is blown up by them.
    if inputs.side <= SMALL:
        inputs = inputs.batched(BATCH)
    row["program"] = hashlib.sha256(f"{key} {small_key}".encode()).hexdigest()[:16]
    row["tested"] = f"{inputs.batch}x{inputs}"
    known = reuse(row["program"])
    row["float64"] = known if known is not None else measure(entry, inputs, step.at)


def _without_weights(model: nn.Module, traced: Traced, step: _Steps, row: Row) -> None:
    step.at("discover")
    start = time.perf_counter()
    found = discover(model, traced, VALUE, witness=True)
    row["discover_s"] = round(time.perf_counter() - start, 2)
    row |= _found(model, found)
    plastic = PlasticModule(model, traced, found.groups, found.frozen, VALUE)
    step.at("rewrite on meta")
    if plastic.groups:
        remember_run(plastic, Run.of(found.ledger))
    row["meta"] = _on_meta(plastic)


# ---------------------------------------------------------------- what was found
def _found(model: nn.Module, found: Discovery) -> Row:
    """Slot coverage under each option, groups and neurons, and what holds slots back."""
    parameters = list(model.named_parameters())
    kinds = {"default": found.groups, "value": found.groups, "approximate": found.groups}
    kinds["default"] = partition(model, found.ledger, found.atoms).groups
    kinds["approximate"] = partition(
        model, found.ledger, found.atoms, open_attention=True, approximate=True
    ).groups
    shares = {}
    for name, groups in kinds.items():
        every = {n: replace(g, exact=True) for n, g in groups.items()}
        shares[name] = round(coverage(parameters, every).share, 5)
    held = held_back(parameters, found.groups, found.frozen)
    return {
        "coverage": shares,
        "groups": len(found.groups),
        "neurons": sum(g.size for g in found.groups.values()),
        "slots": held.slots,
        "frozen": [[text, round(share, 5)] for text, share in held.shares[:REASONS]],
        "unexplained": round(held.unexplained, 6),
    }


def calls_of(traced: Traced) -> list[list[str]]:
    """The calls of both graphs on tensors, without arguments, guards and arithmetic on sizes."""
    return [
        [f"{n.op} {n.target}" for n in graph.nodes if not _about_sizes(n)]
        for graph in traced.graphs.values()
    ]


def _about_sizes(node: fx.Node) -> bool:
    plain = getattr(node.target, "__module__", "") in ("_operator", "builtins", "math")
    return node.target in CHECKS or (node.op == "call_function" and plain)


def program(plastic: PlasticModule) -> str:
    """Equal for models that are the same program up to the values of their weights."""
    layers = [
        (path, type(layer).__qualname__, layer.extra_repr())
        for path, layer in plastic.named_modules()
        if path and type(layer).__module__.startswith("torch.nn.")
    ]
    named: list[tuple[str, Tensor]] = [*plastic.named_parameters(remove_duplicate=False)]
    named += plastic.named_buffers(remove_duplicate=False)
    seen: dict[int, int] = {}
    tensors = [
        (name, tuple(t.shape), str(t.dtype), seen.setdefault(id(t), len(seen))) for name, t in named
    ]
    inputs = [tuple(t.shape) for t in tree_leaves(plastic.traced.inputs) if isinstance(t, Tensor)]
    text = repr((codes_of(plastic), layers, tensors, inputs))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


# ---------------------------------------------------------------- on meta
def _on_meta(plastic: PlasticModule) -> Row:
    """A turnover, and a plan that grows every other group and prunes the rest, without weights."""
    if not plastic.groups:
        return {"groups": 0}
    turned = rewrite(plastic, Plan.random(plastic, turnover=TURNED)).module
    plan = plan_widths(plastic, {n: (GROWN, PRUNED)[i % 2] for i, n in enumerate(plastic.groups)})
    row: Row = {"groups": len(plan.edits), "turned": shapes_of(turned) == shapes_of(plastic)}
    del turned
    row["fixed"] = refused(plastic, plan)
    if plan.edits:
        other = rewrite(plastic, plan).module
        row["shapes"] = shapes_of(other) == predicted_shapes(plastic, plan)
    return row


def refused(plastic: PlasticModule, plan: Plan) -> Row:
    """Groups that kept their width although a third of a block is a neuron, and why."""
    stuck = [
        name
        for name, group in plastic.groups.items()
        if group.block_size >= 4 and name not in plan.edits
    ]
    reasons = [note for note in plan.notes if note.split(" ", 1)[0] in stuck]
    parameters = list(plastic.named_parameters())
    lost = coverage(parameters, {name: plastic.groups[name] for name in stuck}).share
    return {"groups": len(stuck), "share": round(lost, 5), "why": [r[:300] for r in reasons[:3]]}


# ---------------------------------------------------------------- in float64
def _smallest(entry: Entry, own: Inputs, calls: list[list[str]], key: str) -> tuple[Inputs, str]:
    """The smallest input at which the model makes the same calls as at its own, and its program."""
    for inputs in smaller_inputs(entry, own):
        try:
            model = build(entry, inputs.options, "meta")
            args, _ = inputs.make("meta", torch.float32)
            traced = trace(model, args)
        except Exception:  # whatever the model says to a size that it cannot take
            continue
        if calls_of(traced) == calls:
            return inputs, program(PlasticModule(model, traced, {}, ()))
    return own, key


ERRORS = ("traced", "turnover_uneven", "turnover_signed", "growth", "pruning")
EFFECTS = ("turnover_effect", "pruning_effect")


def problems(row: Row) -> list[str]:
    """What in a row is not as it should be; empty for a model that passes."""
    if "error" in row:
        return [f"{row['step']}: {row['error']}"]
    found = [f"meta: {what}" for what in ("turned", "shapes") if not row["meta"].get(what, True)]
    if row["unexplained"] > 0:
        found.append(f"{row['unexplained']:.2%} of the slots are frozen without a reason")
    checks = row.get("float64", {})
    for what in ERRORS:
        error = checks.get(what, 0.0)
        if not error <= TOLERANCE:
            found.append(f"float64: {what} is off by {error:.1e}")
    found += [f"float64: {what}" for what in checks if checks[what] is False]
    if checks and checks["modes"] != ["eval", "train"]:
        found.append("float64: train mode was not checked, as the model does not run in it")
    for what in EFFECTS:
        if not checks.get(what, 1.0) > 1e3 * TOLERANCE:
            found.append(f"float64: {what} is {checks[what]:.1e}: the check sees nothing")
    return found
