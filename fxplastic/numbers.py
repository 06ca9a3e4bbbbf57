"""Numbers that a graph computes from sizes, when some of the sizes change.

A size that is used as a number (``x / x.shape[1]``, a guard on ``x.numel()``) has to keep the value
that it had, and to go on following the batch and the image. So its *former* value is computed in
the graph: from the new sizes, scaled back where a width has changed.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import reduce
from typing import Any

import numpy as np
from torch import Tensor, fx

from fxplastic.errors import WidthError
from fxplastic.identity import Ids
from fxplastic.measure import Seen
from fxplastic.meta import map_tree
from fxplastic.scale import EXACT, Scale

_MERGING = frozenset({"flatten", "view", "reshape"})


class Numbers:
    """Which numbers of a graph follow a change of widths, and what they would be without it.

    Args:
        env: what each node of the new graph gives; filled as nodes are run.
        seen: what each node gave before the change.
        scale: what changes.
    """

    def __init__(self, env: dict[fx.Node, Any], seen: dict[str, Seen], scale: Scale) -> None:
        self.env, self.seen, self.scale = env, seen, scale
        self._touched: set[fx.Node] = set()
        self._former: dict[fx.Node, Any] = {}
        self._before: fx.Node | None = None
        self._single = False  # whether some input has an axis of size 1

    def at(self, node: fx.Node) -> None:
        """New nodes go in front of `node` from here on."""
        self._before = node

    def note(self, node: fx.Node, value: Any) -> None:
        """Remember whether a node gave a number that follows the change."""
        seen = self.seen[node.name]
        if node.op == "placeholder":
            self._single |= any(1 in shape for shape in seen.shapes)
        if seen.shapes or not is_number(value):
            return
        through = any(a in self._touched for a in node.all_input_nodes)
        if through or type(value) is not type(seen.plain) or value != seen.plain:
            self._touched.add(node)

    def value(self, leaf: Any) -> Any:
        """The new value of an argument, nodes replaced by what they give."""
        return map_tree(leaf, lambda x: self.env[x] if isinstance(x, fx.Node) else x)

    def old(self, leaf: Any) -> Any:
        """The old value of an argument, with `None` in place of tensors."""
        return map_tree(leaf, lambda x: self.seen[x.name].plain if isinstance(x, fx.Node) else x)

    # ------------------------------------------------------------ former values
    def former(self, leaf: Any) -> Any:
        """An argument with every number in it as it would be without the change."""
        return map_tree(leaf, self._former_of)

    def _former_of(self, leaf: Any) -> Any:
        if not isinstance(leaf, fx.Node) or leaf not in self._touched:
            return leaf
        if leaf not in self._former:
            tensors = [a for a in leaf.all_input_nodes if self.seen[a.name].shapes]
            self._former[leaf] = self._read(leaf, tensors[0]) if tensors else self._redone(leaf)
        return self._former[leaf]

    def _redone(self, node: fx.Node) -> Any:
        """A number that was computed from numbers, computed from their former values."""
        args: Any = self.former(tuple(node.args))
        kwargs = self.former(dict(node.kwargs))
        whole: Any = args[0] if args else None
        if node.target is operator.getitem and isinstance(whole, tuple):
            place: Any = self.old(node.args[1])
            return whole[place]
        return self.make(node.op, node.target, args, kwargs)

    def _read(self, node: fx.Node, tensor: fx.Node) -> Any:
        """A number that was read off a tensor."""
        old = self.seen[tensor.name].shapes[0]
        name = node.target if isinstance(node.target, str) else node.target.__name__
        whole = tuple(self.size(tensor, axis) for axis in range(len(old)))
        place: Any = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
        if (node.target is getattr and place == "shape") or (name == "size" and place is None):
            return whole
        if name in ("numel", "nelement"):
            return reduce(lambda a, b: self.make("call_function", operator.mul, (a, b)), whole, 1)
        if name in ("size", "len"):
            return whole[0 if place is None else self.old(place)]
        raise WidthError(
            f"{node.format_node()} reads a number off a tensor that changes its width, and what "
            "it would be without the change is not known",
            self.scale.changing,
        )

    def size(self, tensor: fx.Node, axis: int) -> Any:
        """The former size of a tensor's axis."""
        old, new = self.seen[tensor.name].shapes[0][axis], self.env[tensor].shape[axis]
        shape = self.make("call_function", getattr, (tensor, "shape"))
        size = self.make("call_function", operator.getitem, (shape, axis))
        return size if old == new else self.scaled(size, new, old, tensor, axis)

    def scaled(self, number: Any, old: int, new: int, tensor: fx.Node, axis: int) -> Any:
        """What becomes of a number along an axis that is `old` on the example inputs.

        It is to be `new` on them, and right on other batches and images: times the factor of the
        axis where all of it changes alike, plus the difference where every neuron lies on it once.

        Raises:
            WidthError: neither is so, or the example inputs cannot tell.
        """
        if not isinstance(number, fx.Node):
            return new
        if self.even(tensor, axis):
            product = self.make("call_function", operator.mul, (number, new))
            return self.make("call_function", operator.floordiv, (product, old))
        if self.repeats(tensor, axis):
            raise WidthError(
                f"axis {axis} of {tensor.name!r} holds neurons that change by different factors, "
                "each of them several times: sizes along it cannot follow",
                self._blamed(tensor, axis),
            )
        if self._single or self._merged(tensor):
            raise WidthError(
                f"neurons that change by different factors lie on axis {axis} of {tensor.name!r}, "
                "and whether they do so once for each sample cannot be told where an axis has size "
                "1 on the example inputs; give a batch of two, and more than one pixel or token",
                self._blamed(tensor, axis),
            )
        return self.make("call_function", operator.add, (number, new - old))

    def make(self, op: str, target: Any, args: Any, kwargs: Any = None) -> Any:
        """A new node with its values before and after; plain numbers are computed at once."""
        kwargs = {} if kwargs is None else kwargs
        call: Callable[..., Any] = target
        if op == "call_method":
            call = operator.methodcaller(target, *args[1:], **kwargs)
            args, kwargs = args[:1], {}
        leaves: list[Any] = []
        map_tree((args, kwargs), leaves.append)
        if not any(isinstance(leaf, fx.Node) for leaf in leaves):
            return call(*args, **kwargs)
        assert self._before is not None
        graph = self._before.graph
        with graph.inserting_before(self._before):
            node = graph.create_node(op, target, tuple(args), kwargs)
        for key in ("source", "module"):
            node.meta[key] = self._before.meta.get(key, "")
        self.env[node] = call(*self.value(tuple(args)), **self.value(kwargs))
        old_args = [self._old_tensor(a) for a in args]
        self.seen[node.name] = Seen((), (), call(*old_args, **self.old(kwargs)))
        return node

    def _old_tensor(self, leaf: Any) -> Any:
        """The old value of an argument; a tensor's stand-in has its old shape."""
        if isinstance(leaf, fx.Node) and self.seen[leaf.name].shapes:
            return _Shaped(self.seen[leaf.name].shapes[0])
        return self.old(leaf)

    # ------------------------------------------------------------ axes
    def repeats(self, tensor: fx.Node, axis: int) -> bool:
        """Whether a neuron that changes, or one position of any, lies on an axis more than once.

        Two positions of a parameter may belong to one neuron that does not change (a query's
        channel and its key's); the same position twice is an axis that repeats with the inputs.
        """
        for line in self._lines(tensor, axis):
            at, named = np.maximum(line, 0), line[line > 0]
            changed = self.scale.neuron[at][(line > 0) & (self.scale.weight[at] != 1.0)]
            if np.unique(changed).size < changed.size or np.unique(named).size < named.size:
                return True
        return False

    def _merged(self, tensor: fx.Node) -> bool:
        """Whether an axis of size 1 was merged with neurons that change, on the way to `tensor`.

        On other inputs it may have another size (a stride that leaves one token of four), and the
        neurons then lie on the merged axis several times.
        """
        waiting, done = [tensor], set()
        while waiting:
            node = waiting.pop()
            seen = self.seen.get(node.name)
            if node in done or seen is None or not self._carries(seen):
                continue
            done.add(node)
            name = node.target if isinstance(node.target, str) else node.target.__name__
            before = [self.seen[a.name] for a in node.all_input_nodes if a.name in self.seen]
            if name in _MERGING and any(1 in s for b in before for s in b.shapes[:1]):
                return True
            waiting.extend(node.all_input_nodes)
        return False

    def _carries(self, seen: Seen) -> bool:
        """Whether a node gave tensors that hold neurons that change."""
        fields = [ids for some in seen.ids for ids in some]
        return any(bool((self.scale.weight[np.maximum(ids, 0)] != 1.0).any()) for ids in fields)

    def _blamed(self, tensor: fx.Node, axis: int) -> tuple[str, ...]:
        """The groups that change on an axis."""
        lines = [line[self.scale.weight[np.maximum(line, 0)] != 1.0] for line in
                 self._lines(tensor, axis)]  # fmt: skip
        names = [name for line in lines for name in self.scale.groups_in(line)]
        return tuple(dict.fromkeys(names)) or self.scale.changing

    def even(self, tensor: fx.Node, axis: int) -> bool:
        """Whether a whole axis changes by one factor."""
        lines = self._lines(tensor, axis)
        weights = [self.scale.weight[np.maximum(line, 0)] for line in lines]
        return all(np.abs(w - w[0]).max() < EXACT for w in weights)

    def _lines(self, tensor: fx.Node, axis: int) -> list[Ids]:
        """For each neural field along an axis that changes, its first line."""
        found = []
        for ids in self.seen[tensor.name].ids[0]:
            at = np.maximum(ids, 0)
            if ids.shape[axis] > 1 and bool((self.scale.weight[at] != 1.0).any()):
                found.append(np.moveaxis(ids, axis, 0).reshape(ids.shape[axis], -1)[:, 0])
        return found


class _Shaped:
    """Stands for a tensor of which only the shape is asked."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape


def is_number(value: Any) -> bool:
    """Whether `value` is a number, a truth value, or a tuple of them such as a `torch.Size`."""
    if isinstance(value, tuple):
        return all(is_number(v) for v in value)
    return isinstance(value, int | float) and not isinstance(value, Tensor)
