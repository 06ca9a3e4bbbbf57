"""The module that a plan is carried out on: the model's own tensors under two traced forwards."""

from __future__ import annotations

import copy
import itertools
import linecache
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import update_wrapper
from types import FunctionType, MappingProxyType
from typing import Any

import torch
from torch import fx, nn

from fxplastic.errors import GuardError, TraceError
from fxplastic.graph_data import Copies, data_of, from_data
from fxplastic.groups import ChannelGroup, FrozenAxis, Options, fingerprint
from fxplastic.guards import enter_grad_mode
from fxplastic.inputs import to_meta
from fxplastic.meta import made_tensors
from fxplastic.plan import Plan
from fxplastic.trace import Traced, dtype_of

Forward = Callable[..., Any]
_counter = itertools.count()
_MODULE_STATE = frozenset(vars(nn.Module())) - {"training"}
# What `module.compile()` leaves: a call that is bound to this very module. In a copy it would
# compute the original.
_COMPILED = "_compiled_call_impl"
_OWN = ("_plastic", "_graph", _COMPILED)


@dataclass(frozen=True)
class _State:
    """All that a `PlasticModule` holds beside what every module holds."""

    groups: Mapping[str, ChannelGroup]
    frozen: tuple[FrozenAxis, ...]
    traced: Traced
    forwards: Mapping[bool, Forward]
    codes: Mapping[bool, str]
    watched: Mapping[bool, tuple[tuple[str, nn.Module], ...]]
    grad_modes: bool
    options: Options
    history: tuple[Plan, ...] = ()


def _compile(graph: fx.Graph, label: str) -> tuple[Forward, str]:
    """The forward function of `graph`, and its text (which tracebacks can show)."""
    code = graph.python_code(root_module="self")
    name = f"<fxplastic {label} forward {next(_counter)}>"
    linecache.cache[name] = (len(code.src), None, code.src.splitlines(keepends=True), name)
    namespace: dict[str, Any] = dict(code.globals)
    exec(compile(code.src, name, "exec"), namespace)
    forward: Forward = namespace["forward"]
    return forward, code.src


def _build(
    root: nn.Module,
    traced: Traced,
    groups: Mapping[str, ChannelGroup],
    frozen: tuple[FrozenAxis, ...],
    options: Options,
    history: tuple[Plan, ...] = (),
) -> _State:
    compiled = {m: _compile(g, "train" if m else "eval") for m, g in traced.graphs.items()}
    watched = {
        m: tuple((p, root.get_submodule(p)) for p in paths) for m, paths in traced.watched.items()
    }
    nodes = itertools.chain.from_iterable(g.nodes for g in traced.graphs.values())
    return _State(
        groups=dict(groups),
        frozen=tuple(frozen),
        traced=traced,
        forwards={m: forward for m, (forward, _) in compiled.items()},
        codes={m: text for m, (_, text) in compiled.items()},
        watched=watched,
        grad_modes=any(n.target is enter_grad_mode for n in nodes),
        options=options,
        history=history,
    )


class PlasticModule(fx.GraphModule):
    """A traced model whose neurons can be turned over.

    It shares the model's own parameters, buffers, submodules and hooks (the very same objects and
    dicts), so that an optimizer made before stays valid, `state_dict` has the model's keys in the
    model's order, and what is trained through one is trained in the other. There are two forwards,
    one per training flag; `train()` and `eval()` switch between them.

    Args:
        model: the module that was traced.
        traced: its graphs.
        groups: its channel groups, by name.
        frozen: axes that no plan may touch.
        options: what the groups were looked for with.

    Raises:
        TraceError: the model has an attribute with a name that this class needs itself.
    """

    _plastic: _State

    def __init__(
        self,
        model: nn.Module,
        traced: Traced,
        groups: Mapping[str, ChannelGroup],
        frozen: tuple[FrozenAxis, ...],
        options: Options = Options(),  # noqa: B008, a frozen value
    ) -> None:
        super().__init__({}, fx.Graph(), "PlasticModule")
        _refuse_clashes(self, model, traced)
        for name in _MODULE_STATE & vars(model).keys():
            self.__dict__[name] = vars(model)[name]
        for graph in traced.graphs.values():
            for node in graph.nodes:
                first = str(node.target).split(".")[0]
                if node.op == "get_attr" and first in vars(model):
                    self.__dict__[first] = vars(model)[first]
        self.__dict__.update(traced.constants)
        self.training = model.training
        self._install(_build(self, traced, groups, frozen, options))

    def _install(self, state: _State) -> None:
        self.__dict__["_plastic"] = state
        _give_own_forward(type(self))
        graphs = state.traced.graphs
        if isinstance(graphs, Copies):
            graphs.own(self)
            return
        for graph in graphs.values():
            graph.owning_module = self

    # ------------------------------------------------------------ what it knows
    @property
    def groups(self) -> Mapping[str, ChannelGroup]:
        """Channel groups by name."""
        return MappingProxyType(dict(self._plastic.groups))

    @property
    def frozen(self) -> tuple[FrozenAxis, ...]:
        """Axes that no plan may touch, with the reason."""
        return self._plastic.frozen

    @property
    def traced(self) -> Traced:
        """Both graphs and the example inputs (on meta)."""
        return self._plastic.traced

    @property
    def fingerprint(self) -> str:
        """Hash of the groups, not of the weights."""
        return fingerprint(self._plastic.groups)

    # ------------------------------------------------------------ graphs
    @property
    def graph(self) -> fx.Graph:
        """The graph of the current training mode."""
        if "_plastic" in self.__dict__:
            return self.traced.graphs[bool(self.training)]
        empty: fx.Graph = self.__dict__["_graph"]
        return empty

    @graph.setter
    def graph(self, graph: fx.Graph) -> None:
        if "_plastic" not in self.__dict__:
            self.__dict__["_graph"] = graph  # from GraphModule.__init__
            return
        graphs = dict(self.traced.graphs) | {bool(self.training): graph}
        state = self._plastic
        traced = replace(state.traced, graphs=graphs)
        self._install(
            _build(self, traced, state.groups, state.frozen, state.options, state.history)
        )

    @property
    def code(self) -> str:
        """The Python text of the current mode's forward."""
        return self._plastic.codes[bool(self.training)]

    def recompile(self) -> Any:
        """Compile both forwards again, after a graph was edited in place."""
        state = self._plastic
        self._install(
            _build(self, state.traced, state.groups, state.frozen, state.options, state.history)
        )
        return self.graph.python_code(root_module="self")

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the model's forward returns, in the current mode; same arguments.

        Raises:
            GuardError: the call does not fit what tracing fixed, or a module's training flag
                differs from this module's where the module's code depends on it.

        Warns:
            UserWarning: in training, of a model with activation checkpointing: these graphs keep
                what the model computes again.
        """
        state = self._plastic
        training = self.training
        if training and state.traced.recomputed and torch.is_grad_enabled():
            _warn_of_memory(state.traced.recomputed)
        for path, module in state.watched[training]:
            if module.training != training:
                raise GuardError(_mixed_flags(path, module.training, training))
        if state.grad_modes:  # an exception inside a no_grad block must not leave the mode behind
            with torch.set_grad_enabled(torch.is_grad_enabled()):
                return state.forwards[training](self, *args, **kwargs)
        return state.forwards[training](self, *args, **kwargs)

    # ------------------------------------------------------------ copies
    def __getstate__(self) -> dict[str, Any]:
        """Attributes, with graphs as plain data and without compiled code."""
        state = self._plastic
        contents = dict(self.__dict__)
        contents["_plastic"] = replace(
            state,
            traced=replace(
                state.traced,
                # Data in place of graphs, until `__setstate__` makes graphs of it again.
                graphs=data_of(state.traced.graphs),  # type: ignore[arg-type]
            ),
            forwards={},
            codes={},
        )
        contents.pop("_graph", None)
        contents.pop(_COMPILED, None)
        return contents

    def __setstate__(self, contents: dict[str, Any]) -> None:
        """Undo `__getstate__`."""
        state: _State = contents["_plastic"]
        graphs: Any = state.traced.graphs
        traced = replace(state.traced, graphs={m: from_data(d) for m, d in graphs.items()})
        restore: Any = super().__setstate__
        restore({k: v for k, v in contents.items() if k != "_plastic"})
        self._install(
            _build(self, traced, state.groups, state.frozen, state.options, state.history)
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return _blank, (), self.__getstate__()

    def __deepcopy__(self, memo: dict[int, Any]) -> PlasticModule:
        result = _blank()
        memo[id(self)] = result
        state = self._plastic
        memo[id(state)] = None  # compiled code, groups and graphs are not copied along
        contents = {k: v for k, v in self.__dict__.items() if k not in _OWN}
        for key, made in made_tensors(self).items():
            memo.setdefault(key, made)
        result.__dict__.update(copy.deepcopy(contents, memo))
        constants = copy.deepcopy(dict(state.traced.constants), memo)
        traced = replace(state.traced, graphs=Copies(state.traced.graphs), constants=constants)
        watched = copy.deepcopy(dict(state.watched), memo)
        result._install(replace(state, traced=traced, watched=watched))
        return result

    def __copy__(self) -> PlasticModule:
        result = _blank()
        result.__dict__.update(self.__dict__)
        result.__dict__.pop(_COMPILED, None)
        return result

    def _replicate_for_data_parallel(self) -> Any:
        replicate: Any = nn.Module._replicate_for_data_parallel
        return replicate(self)

    def __str__(self) -> str:
        return nn.Module.__repr__(self)


def _give_own_forward(kind: type[PlasticModule]) -> None:
    """A code object of its own for a module's class, which no other module has (see FX).

    `torch.compile` counts compilations by code object, and runs the ninth module of a run that
    grows step by step without compiling it where all of them share one.
    """
    shared = PlasticModule.forward
    own = FunctionType(shared.__code__.replace(), shared.__globals__, shared.__name__)
    kind.forward = update_wrapper(own, shared)  # type: ignore[method-assign]


def _blank() -> PlasticModule:
    """A `PlasticModule` without contents."""
    result = PlasticModule.__new__(PlasticModule)
    type(result).__name__ = "PlasticModule"
    return result


def _refuse_clashes(plastic: PlasticModule, model: nn.Module, traced: Traced) -> None:
    own = set(dir(PlasticModule)) | set(vars(plastic)) | {"_plastic"}
    taken = own - set(dir(nn.Module)) - _MODULE_STATE
    names = {*model._parameters, *model._buffers, *model._modules}
    for graph in traced.graphs.values():
        names |= {str(n.target).split(".")[0] for n in graph.nodes if n.op == "get_attr"}
    clashes = sorted(names & taken)
    if clashes:
        raise TraceError(
            f"{type(model).__name__} has an attribute {clashes[0]!r}, a name that the traced "
            "module needs for itself; rename it, or put the model inside another nn.Module"
        )


def _warn_of_memory(lines: tuple[str, ...]) -> None:
    if not torch.compiler.is_compiling():
        warnings.warn(
            f"the model checkpoints activations ({lines[0]}), and its traced forward keeps them "
            "all: it needs the memory that checkpointing was to spare. Train the original module, "
            "which computes them again: rewrites act on it in place",
            stacklevel=2,
        )


def _mixed_flags(path: str, found: bool, training: bool) -> str:
    mode = {True: "train", False: "eval"}
    return (
        f"module {path!r} is in {mode[found]} mode and the traced model in {mode[training]} mode, "
        "and the module's own code depends on the flag, which tracing fixed. Call "
        f".{mode[training]}() on the whole model, or train the original module, whose forward "
        "honours mixed flags: rewrites act on it in place"
    )


# ---------------------------------------------------------------- for the rest of the pass
# Functions, as every name that the class has is one that a model's attribute cannot have.
def options_of(plastic: PlasticModule) -> Options:
    """What the groups of `plastic` were looked for with."""
    return plastic._plastic.options


def history(plastic: PlasticModule) -> tuple[Plan, ...]:
    """The plans that were carried out on a module, oldest first.

    A copy has the history of what it was copied from. What a plan did to the weights is not in it,
    and a module that is made plastic anew (when a run is resumed, say) begins with none.

    >>> import fxplastic
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
    result._install(_build(result, traced, groups, frozen, options_of(plastic), history(plastic)))
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
