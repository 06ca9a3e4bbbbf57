"""From a module to graphs: symbolic tracing with proxies that know their values.

One graph per training flag, as branches (auxiliary heads, dropout) differ between the two. Leaf
modules are those of `torch.nn`; every other module is opened, so that its parameters are seen
where they are used. Built on `torch.fx` (Reed et al., 2022).
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from fxplastic.errors import TraceError
from fxplastic.graph_data import from_data, to_data
from fxplastic.inputs import Bound, bind
from fxplastic.meta import map_tree, on_meta, real_device
from fxplastic.modes import asks_unseen
from fxplastic.patches import forget_proxies
from fxplastic.surroundings import Constants
from fxplastic.tracer import ValueTracer

__all__ = ["Traced", "on_meta", "trace"]


@dataclass(frozen=True, eq=False)
class Traced:
    """What tracing made of a model.

    Attributes:
        graphs: the graph of each training flag. Nodes carry ``meta["source"]``, the user's
            ``"file:line in function"``.
        constants: tensors that the model's code made or held outside its attributes, by the name
            that `get_attr` nodes use.
        args: positional example inputs, tensors on meta.
        kwargs: keyword example inputs, tensors on meta.
        inputs: one value per placeholder, by its target; the default where none was given.
        watched: per training flag, the modules whose own flag their code has read.
        dtype: of the model's floating parameters (of the first, where there are several).
        recomputed: source lines of activation checkpointing, which the graphs do without.
    """

    graphs: Mapping[bool, fx.Graph]
    constants: Mapping[str, Tensor]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    inputs: Mapping[str, Any] = field(default_factory=dict)
    watched: Mapping[bool, tuple[str, ...]] = field(default_factory=dict)
    dtype: torch.dtype | None = None
    recomputed: tuple[str, ...] = ()


def _refuse_wrapped(model: nn.Module) -> None:
    kind = type(model).__name__
    if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        raise TraceError(f"the model is wrapped in {kind}; pass model.module and wrap afterwards")
    if "_orig_mod" in model.__dict__.get("_modules", {}):
        raise TraceError("the model is compiled; pass model._orig_mod, which shares its tensors")
    if isinstance(model, torch.jit.ScriptModule):
        raise TraceError(f"{kind} is scripted: its code cannot be traced; pass the Python module")
    for path, module in model.named_modules():
        if path:
            _refuse_compiled(path, module)
        if not isinstance(module, torch.jit.ScriptModule):  # it stays whole
            _refuse_names(path, module)


def _refuse_names(path: str, module: nn.Module) -> None:
    """FX writes names into the text of a program between double quotes, just as they are."""
    for name in (*module._modules, *module._parameters, *module._buffers):
        if '"' in name or "\\" in name or not name.isprintable():
            where = f"of {path!r} " if path else ""
            raise TraceError(
                f"the name {name!r} {where}cannot be written into a traced program; rename that "
                "module or tensor without quotes, backslashes and control characters"
            )


def _refuse_compiled(path: str, module: nn.Module) -> None:
    """A part that is compiled in place is fine: its own forward is still there to trace."""
    if "_orig_mod" in module.__dict__.get("_modules", {}):
        raise TraceError(
            f"{path!r} is wrapped by torch.compile; put its _orig_mod back in its place, and "
            "compile it in place: .compile()"
        )
    if hasattr(module.__dict__.get("forward"), "_torchdynamo_orig_callable"):
        raise TraceError(
            f"the forward of {path!r} was replaced by a compiled one, which would stay bound to "
            "this module in every copy of it; delete that attribute, and compile the module in "
            "place: .compile()"
        )


def _draws() -> tuple[Any, Any, Any]:
    generator: Any = np.random.get_state()
    return random.getstate(), (generator[1].tolist(), *generator[2:]), torch.get_rng_state()


@contextmanager
def _no_hidden_draws() -> Iterator[None]:
    """Stop if a random number was drawn that the graph would hold as a constant."""
    python, numpy, before = random.getstate(), np.random.get_state(), _draws()
    yield
    after = _draws()
    sources = ("Python's random module", "numpy.random", "torch's default generator")
    same = (before[0] == after[0], before[1] == after[1], bool(torch.equal(before[2], after[2])))
    if all(same):
        return
    random.setstate(python)
    np.random.set_state(numpy)
    torch.set_rng_state(before[2])
    raise TraceError(
        f"forward draws from {sources[same.index(False)]} in a way that tracing would fix for all "
        "calls; draw with torch.rand(...) inside forward instead"
    )


@contextmanager
def _no_cached_proxies() -> Iterator[list[ValueTracer]]:
    tracers: list[ValueTracer] = []
    try:
        yield tracers
    finally:
        if any(tracer.leaks() for tracer in tracers):
            forget_proxies()


def _device(model: nn.Module, bound: Bound, original: tuple[Any, ...]) -> torch.device:
    found = real_device(model)
    if found is not None:
        return found
    tensors = (v for v in (*original, *bound.kwargs.values()) if isinstance(v, Tensor))
    return next((t.device for t in tensors), torch.device("cpu"))


def trace(
    model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None = None
) -> Traced:
    """Trace `model` in training and in eval mode; nothing of it is changed.

    Args:
        model: any module whose forward is Python code.
        args: positional example inputs; only shapes, dtypes and non-tensors are used.
        kwargs: keyword example inputs.

    Raises:
        TraceError: the model's code cannot be traced, or fails on the example inputs.

    >>> traced = trace(nn.Linear(2, 3), (torch.zeros(4, 2),))
    >>> [node.op for node in traced.graphs[False].nodes if node.op != "get_attr"]
    ['placeholder', 'call_function', 'call_function', 'output']
    """
    _refuse_wrapped(model)
    bound = bind(model, args, dict(kwargs or {}))
    device = _device(model, bound, (*args, *(kwargs or {}).values()))
    constants = Constants()
    graphs: dict[bool, fx.Graph] = {}
    watched: dict[bool, tuple[str, ...]] = {}
    recomputed: dict[str, None] = {}
    matters = True
    for training in (True, False):
        if not training and not matters:  # the model's code has not asked: it is the same program
            graphs[training], watched[training] = from_data(to_data(graphs[True])), ()
            break
        with _no_hidden_draws(), _no_cached_proxies() as tracers, on_meta(model, training) as twins:
            tracer = ValueTracer(bound, twins, device, constants)
            tracers.append(tracer)
            graphs[training] = tracer.run(model)
            watched[training] = tracer.flags_read()
            recomputed |= dict.fromkeys(tracer.recomputed)
            matters = tracer.mode_matters or asks_unseen(model)
    inputs = {i.name: i.value for i in bound.inputs}
    used = {n.target for g in graphs.values() for n in g.nodes if n.op == "get_attr"}
    kept = {name: tensor for name, tensor in constants.tensors.items() if name in used}
    return Traced(
        graphs, kept, bound.args, bound.kwargs, inputs, watched, dtype_of(model), (*recomputed,)
    )


def dtype_of(model: nn.Module) -> torch.dtype | None:
    """The dtype of the first floating parameter."""
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), None)


def as_it_is(traced: Traced, model: nn.Module) -> Traced:
    """`traced` with example inputs in the model's present dtype, which may have changed since."""
    now = dtype_of(model)
    if now == traced.dtype or now is None:
        return traced

    def change(value: Any) -> Any:
        moved = isinstance(value, Tensor) and value.dtype == traced.dtype
        return value.to(now) if moved else value

    args, kwargs = map_tree(traced.args, change), map_tree(traced.kwargs, change)
    inputs = map_tree(dict(traced.inputs), change)
    return replace(traced, args=args, kwargs=kwargs, inputs=inputs, dtype=now)
