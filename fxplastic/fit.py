"""New sizes in a graph: every node is run on meta tensors, and must give the shapes predicted.

A node that does not has its sizes set (`fxplastic.size_args`); if it has none, or they do not
help, the widths are refused, with the node, the source line and the groups.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxplastic.errors import FxPlasticError, WidthError
from fxplastic.guards import CHECKS, expect_length
from fxplastic.identity import Ids
from fxplastic.interpret import (
    MetaInterpreter,
    example_values,
    plain_attention,
    source_of,
    tensors_in,
)
from fxplastic.leaves import Attributes, fit_leaf
from fxplastic.measure import Measured, Seen
from fxplastic.meta import on_meta
from fxplastic.numbers import Numbers
from fxplastic.scale import Scale, Shape, new_shapes
from fxplastic.size_args import Fit, Setter, SizeArgs, op_name
from fxplastic.size_setters import SIZE_ARGS
from fxplastic.trace import Traced


def fit_graphs(
    model: nn.Module, traced: Traced, measured: Measured, scale: Scale
) -> dict[str, Attributes]:
    """Set sizes in the graphs of `traced`, in place, and in leaf modules of `model`.

    Args:
        model: a module with parameters of the new shapes; sizes in its leaf modules are set.
        traced: graphs of its own, not shared with another module.
        measured: the run on sizes of the model as it was.
        scale: what changes.

    Returns:
        The attributes that were set in leaf modules, by the module's path.

    Raises:
        WidthError: a node cannot be made to give the shapes predicted.
    """
    attributes: dict[str, Attributes] = {}
    for training, graph in traced.graphs.items():
        with plain_attention(), on_meta(model, training), torch.no_grad():
            fitter = _Fitter(model, graph, traced, measured, scale, training)
            fitter.run(*example_values(graph, traced), initial_env=fitter.env)
        for path, found in fitter.attributes.items():
            if attributes.setdefault(path, found) != found:
                raise WidthError(f"module {path!r} would need two sizes at once: {found}")
    for path, found in attributes.items():
        vars(model.get_submodule(path)).update(found)
    return attributes


class _Fitter(MetaInterpreter):
    """Runs a graph on new widths and sets sizes on the way."""

    def __init__(
        self,
        model: nn.Module,
        graph: fx.Graph,
        traced: Traced,
        measured: Measured,
        scale: Scale,
        training: bool,
    ) -> None:
        super().__init__(model, graph, traced)
        self.garbage_collect_values = False
        self.seen = {n: s for (mode, n), s in measured.seen.items() if mode == training}
        self.scale = scale
        self.numbers = Numbers(self.env, self.seen, scale)
        self._own = set(graph.nodes)
        self.attributes: dict[str, Attributes] = {}

    def run_node(self, n: fx.Node) -> Any:
        """Run one node so that it gives what it should."""
        if n not in self._own:  # made on the way, and run already
            return self.env[n]
        result = self._run(n)
        if n.op != "output":
            self.numbers.note(n, result)
        return result

    def _run(self, n: fx.Node) -> Any:
        self.numbers.at(n)
        if n.op == "output":
            with self._naming(n):
                n.args = self.numbers.former(tuple(n.args))
        if n.op in ("placeholder", "output", "get_attr"):
            return super().run_node(n)
        if n.target in CHECKS:
            self._renew(n)
            return super().run_node(n)
        wanted = self._wanted(n)
        entry = SIZE_ARGS.get(op_name(n))
        self._keep_numbers(n, entry)
        if entry is not None and entry.always and entry.setter is not None:
            self._set(n, entry.setter, wanted)
        if n.op == "call_module":
            self._fit_module(n, wanted)
        result, problem = self._attempt(n, wanted)
        if problem is not None and entry is not None and entry.setter is not None:
            self._set(n, entry.setter, wanted)
            result, problem = self._attempt(n, wanted)
        if problem is None:
            return result
        groups = self._groups(n)
        blamed = ", ".join(map(repr, groups))
        text = f"{problem}. Leave {blamed} out of the plan, or write the line without fixed sizes"
        raise self._refused(n, text, groups)

    def _refused(self, n: fx.Node, text: str, groups: Sequence[str] = ()) -> WidthError:
        """An error that names the node and its source line."""
        where = f"{n.format_node()} ({source_of(n) or 'source unknown'})"
        blamed = tuple(groups) or self._groups(n)
        shown = ", ".join(map(repr, blamed))
        return WidthError(
            f"the new widths of {shown} cannot be laid out at {where}: {text}", blamed
        )

    # ------------------------------------------------------------ what a node should give
    def _wanted(self, n: fx.Node) -> list[list[Shape]]:
        seen = self.seen[n.name]
        with self._naming(n):
            return [
                new_shapes(shape, ids, self.scale)
                for shape, ids in zip(seen.shapes, seen.ids, strict=True)
            ]

    def _attempt(self, n: fx.Node, wanted: Sequence[Sequence[Shape]]) -> tuple[Any, str | None]:
        """What the node gives, and what is wrong with it."""
        try:
            result = super().run_node(n)
        except FxPlasticError as error:
            return None, str(error.__cause__ or error).split("\n")[0]
        shapes = [tuple(t.shape) for t in tensors_in(result)]
        if len(shapes) != len(wanted):
            return None, f"it gives {len(shapes)} tensors, not {len(wanted)}"
        for shape, options in zip(shapes, wanted, strict=True):
            if shape not in options:
                return None, f"it gives shape {list(shape)}, not {list(options[0])}"
        return result, None

    # ------------------------------------------------------------ arguments
    def _keep_numbers(self, n: fx.Node, entry: SizeArgs | None) -> None:
        """Numbers that follow a width have their former value, except where sizes belong.

        What only computes numbers from numbers is left alone.
        """
        shapes = [self.seen[a.name].shapes for a in (n, *n.all_input_nodes)]
        if not any(shapes):
            return

        def kept(place: int | str, argument: Any) -> Any:
            sized = entry is not None and entry.covers(place)
            return argument if sized else self.numbers.former(argument)

        with self._naming(n):
            n.args = tuple(kept(i, a) for i, a in enumerate(n.args))
            n.kwargs = {k: kept(k, a) for k, a in n.kwargs.items()}

    def _renew(self, n: fx.Node) -> None:
        """A guard looks at former values; one on the length of a tensor expects the new one."""
        value, expected = n.args[:2]
        with self._naming(n):
            n.args = (self.numbers.former(value), *n.args[1:])
        now = self.numbers.value(value)
        if n.target is expect_length and isinstance(now, Tensor) and now.shape[0] != expected:
            n.update_arg(1, now.shape[0])

    def _set(self, n: fx.Node, setter: Setter, wanted: Sequence[Sequence[Shape]]) -> None:
        with self._naming(n):
            setter(Fit(n, wanted, self.numbers, self._old_shape, self._names))

    @contextmanager
    def _naming(self, n: fx.Node) -> Iterator[None]:
        """Errors about widths name the node."""
        try:
            yield
        except WidthError as error:
            raise self._refused(n, str(error), error.groups) from None
        except Exception as error:  # a call in a form that no setter knows
            raise self._refused(n, f"its sizes cannot be set ({error})") from error

    def _old_shape(self, leaf: fx.Node) -> Shape:
        return self.seen[leaf.name].shapes[0]

    def _names(self, leaf: fx.Node) -> tuple[Ids, ...]:
        return self.seen[leaf.name].ids[0]

    def _fit_module(self, n: fx.Node, wanted: Sequence[Sequence[Shape]]) -> None:
        path = str(n.target)
        module = self.fetch_attr(path)
        given = [*n.args, *n.kwargs.values()]
        inputs = [self.numbers.value(a) for a in given]
        found = fit_leaf(module, inputs, wanted[0][0]) if wanted else {}
        if self.attributes.setdefault(path, found) != found:
            raise self._refused(n, f"the layer would need two sizes at once, {found} and others")
        vars(module).update({k: v for k, v in found.items() if getattr(module, k) != v})

    # ------------------------------------------------------------ who is to blame
    def _groups(self, n: fx.Node) -> tuple[str, ...]:
        found: dict[str, None] = {}
        for node in (n, *n.all_input_nodes):
            seen: Seen = self.seen[node.name]
            for ids in (one for fields in seen.ids for one in fields):
                found.update(dict.fromkeys(self.scale.groups_in(ids[self._changes(ids)])))
        if not found and n.op == "call_module":  # what changes lies inside it
            found = {g: None for g in self.scale.changing if g.startswith(f"{n.target}.")}
        return tuple(found) or self.scale.changing

    def _changes(self, ids: Ids) -> Any:
        return self.scale.weight[ids.clip(0)] != 1.0
