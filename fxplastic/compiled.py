"""Traced graphs compiled to forward functions, as what a plastic module holds."""

from __future__ import annotations

import itertools
import linecache
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import fx, nn

from fxplastic.errors import TraceError
from fxplastic.groups import ChannelGroup, FrozenAxis, Options
from fxplastic.guards import enter_grad_mode
from fxplastic.plan import Plan
from fxplastic.trace import Traced

Forward = Callable[..., Any]
_counter = itertools.count()


@dataclass(frozen=True)
class State:
    """All that a `fxplastic.PlasticModule` holds beside what every module holds."""

    groups: Mapping[str, ChannelGroup]
    frozen: tuple[FrozenAxis, ...]
    traced: Traced
    forwards: Mapping[bool, Forward]
    codes: Mapping[bool, str]
    watched: Mapping[bool, tuple[tuple[str, nn.Module], ...]]
    grad_modes: bool
    options: Options
    history: tuple[Plan, ...] = ()


def compiled(graph: fx.Graph, label: str) -> tuple[Forward, str]:
    """The forward function of `graph`, and its text (which tracebacks can show).

    Raises:
        TraceError: something in the graph has a name that no program can hold.
    """
    code = graph.python_code(root_module="self")
    name = f"<fxplastic {label} forward {next(_counter)}>"
    linecache.cache[name] = (len(code.src), None, code.src.splitlines(keepends=True), name)
    namespace: dict[str, Any] = dict(code.globals)
    try:
        exec(compile(code.src, name, "exec"), namespace)
    except SyntaxError as error:
        raise TraceError(
            f"what was traced is no program: {error.msg} in {(error.text or '').strip()!r}; look "
            "there for the name of an attribute that holds quotes or backslashes, and rename it"
        ) from error
    forward: Forward = namespace["forward"]
    return forward, code.src


def build(
    root: nn.Module,
    traced: Traced,
    groups: Mapping[str, ChannelGroup],
    frozen: tuple[FrozenAxis, ...],
    options: Options,
    history: tuple[Plan, ...] = (),
) -> State:
    """All that a module with these graphs holds, compiled; `root` has the modules they name."""
    made = {m: compiled(g, "train" if m else "eval") for m, g in traced.graphs.items()}
    watched = {
        m: tuple((p, root.get_submodule(p)) for p in paths) for m, paths in traced.watched.items()
    }
    nodes = itertools.chain.from_iterable(g.nodes for g in traced.graphs.values())
    return State(
        groups=dict(groups),
        frozen=tuple(frozen),
        traced=traced,
        forwards={m: forward for m, (forward, _) in made.items()},
        codes={m: text for m, (_, text) in made.items()},
        watched=watched,
        grad_modes=any(n.target is enter_grad_mode for n in nodes),
        options=options,
        history=history,
    )
