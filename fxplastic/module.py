"""The module that a plan is carried out on: the model's own tensors under two traced forwards."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from dataclasses import replace
from functools import update_wrapper
from types import FunctionType, MappingProxyType
from typing import Any

import torch
from torch import fx, nn

from fxplastic.compiled import State, build
from fxplastic.errors import GuardError, TraceError
from fxplastic.graph_data import Copies, data_of, from_data
from fxplastic.groups import ChannelGroup, FrozenAxis, Options, fingerprint
from fxplastic.meta import made_tensors
from fxplastic.trace import Traced

_MODULE_STATE = frozenset(vars(nn.Module())) - {"training"}
# What `module.compile()` leaves: a call that is bound to this very module. In a copy it would
# compute the original.
_COMPILED = "_compiled_call_impl"
_OWN = ("_plastic", "_graph", _COMPILED)


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

    _plastic: State

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
        self._install(build(self, traced, groups, frozen, options))

    def _install(self, state: State) -> None:
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
        self._install(build(self, traced, state.groups, state.frozen, state.options, state.history))

    @property
    def code(self) -> str:
        """The Python text of the current mode's forward."""
        return self._plastic.codes[bool(self.training)]

    def recompile(self) -> Any:
        """Compile both forwards again, after a graph was edited in place."""
        state = self._plastic
        self._install(
            build(self, state.traced, state.groups, state.frozen, state.options, state.history)
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
        state: State = contents["_plastic"]
        graphs: Any = state.traced.graphs
        traced = replace(state.traced, graphs={m: from_data(d) for m, d in graphs.items()})
        restore: Any = super().__setstate__
        restore({k: v for k, v in contents.items() if k != "_plastic"})
        self._install(build(self, traced, state.groups, state.frozen, state.options, state.history))

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
    shared: Any = kind.forward  # of a subclass, its own
    if isinstance(shared, FunctionType):
        code, cells = shared.__code__.replace(), shared.__closure__
        own = FunctionType(code, shared.__globals__, shared.__name__, shared.__defaults__, cells)
        # mypy cannot know that the class is this one module's.
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
