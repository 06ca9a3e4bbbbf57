"""What the rest of the pass asks of a plastic module, and the same module under other graphs.

Functions, as every name that the class has is one that a model's attribute cannot have.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from fxplastic.compiled import build
from fxplastic.errors import TraceError
from fxplastic.graph_data import Copies
from fxplastic.groups import ChannelGroup, FrozenAxis, Options
from fxplastic.inputs import to_meta
from fxplastic.module import PlasticModule
from fxplastic.plan import Plan
from fxplastic.trace import Traced, dtype_of


def options_of(plastic: PlasticModule) -> Options:
    """What the groups of `plastic` were looked for with."""
    return plastic._plastic.options


def history(plastic: PlasticModule) -> tuple[Plan, ...]:
    """The plans that were carried out on a module, oldest first.

    A copy has the history of what it was copied from. What a plan did to the weights is not in it,
    and a module that is made plastic anew (when a run is resumed, say) begins with none.

    >>> import fxplastic, torch
    >>> from torch import nn
    >>> mlp = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 2))
    >>> plastic = fxplastic.plasticize(mlp, torch.zeros(2, 3))
    >>> plan = fxplastic.Plan.from_takes(plastic, {"0.weight:0": [0, 1, 1]})
    >>> history(fxplastic.rewrite(plastic, plan).module) == (plan,), history(plastic)
    (True, ())
    """
    return plastic._plastic.history


def set_history(plastic: PlasticModule, plans: tuple[Plan, ...]) -> None:
    """Say which plans were carried out on a module."""
    plastic.__dict__["_plastic"] = replace(plastic._plastic, history=plans)


def codes_of(plastic: PlasticModule) -> dict[bool, str]:
    """The Python text of each mode's forward, by training flag."""
    return dict(plastic._plastic.codes)


def with_layout(
    plastic: PlasticModule,
    traced: Traced,
    groups: Mapping[str, ChannelGroup],
    frozen: tuple[FrozenAxis, ...],
) -> PlasticModule:
    """The same modules and tensors (shared) under other graphs and groups."""
    result = copy.copy(plastic)
    result._install(build(result, traced, groups, frozen, options_of(plastic), history(plastic)))
    return result


def own_graphs(traced: Traced) -> Traced:
    """`traced` with graphs of its own."""
    return replace(traced, graphs=Copies(traced.graphs))


def in_layout_of(plastic: PlasticModule, layout: PlasticModule) -> PlasticModule:
    """The modules and tensors of `plastic` (shared) under the groups and graphs of another.

    What those were compiled to serves both.
    """
    result, state = copy.copy(plastic), layout._plastic
    traced = replace(plastic.traced, graphs=Copies(state.traced.graphs))
    watched = {
        m: tuple((p, result.get_submodule(p)) for p, _ in some) for m, some in state.watched.items()
    }
    options, plans = options_of(plastic), history(plastic)
    result._install(replace(state, traced=traced, watched=watched, options=options, history=plans))
    return result


def traced_for(plastic: PlasticModule, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Traced:
    """Copies of a module's graphs for other example inputs.

    Raises:
        TraceError: there are more positional inputs than the graph takes, or unknown names.
    """
    old = plastic.traced
    names = [str(n.target) for n in old.graphs[False].nodes if n.op == "placeholder"]
    unknown = [name for name in kwargs if name not in names]
    if len(args) > len(names) or unknown:
        raise TraceError(
            f"the example inputs ({len(args)} by position, {list(kwargs)} by name) don't fit "
            f"the traced forward, whose inputs are {names}"
        )
    meta = to_meta(tuple(args)), to_meta(dict(kwargs))
    values = {**old.inputs, **dict(zip(names, meta[0], strict=False)), **meta[1]}
    dtype = dtype_of(plastic)
    return own_graphs(replace(old, args=meta[0], kwargs=meta[1], inputs=values, dtype=dtype))
