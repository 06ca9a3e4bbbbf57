"""How the sizes of each op are set: one small function an op, by the place of its arguments.

To teach the pass another op that takes sizes, add a function here; see `fxplastic.size_args`.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from fxplastic.size_args import SIZE_ARGS, Fit, Prefix, SizeArgs, op_name, size_args

__all__ = ["SIZE_ARGS"]


# ---------------------------------------------------------------- whole shapes
def _shape(fit: Fit, first: int, name: str, target: Sequence[int], first_axis: int = 0) -> None:
    """Set sizes given one by one, as a list, or as the `Size` of another tensor."""
    given = fit.node.args[first : SIZE_ARGS[op_name(fit.node)].last + 1]
    one = given[0] if len(given) == 1 else fit.node.kwargs.get(name) if not given else None
    if isinstance(one, list | tuple):
        fit.set(first, name, type(one)(_sizes(fit, one, target, first_axis)))
    elif isinstance(one, fx.Node) and isinstance(fit.value(one), tuple | list):
        parts = [_part(fit, one, axis) for axis in range(len(fit.value(one)))]
        fit.set(first, name, tuple(_sizes(fit, parts, target, first_axis)))
    elif given:
        rest = fit.node.args[first + len(given) :]
        fit.node.args = (*fit.node.args[:first], *_sizes(fit, given, target, first_axis), *rest)


def _part(fit: Fit, sizes: Any, axis: int) -> Any:
    """One of several sizes; of tuples that are added (``shape[:-1] + (n,)``), the number itself."""
    if not isinstance(sizes, fx.Node):
        return sizes[axis]
    if sizes.target is operator.add and len(sizes.args) == 2:
        first, second = sizes.args
        length = len(fit.value(first))
        return _part(fit, first, axis) if axis < length else _part(fit, second, axis - length)
    return fit.numbers.make("call_function", operator.getitem, (sizes, axis))


def _sizes(fit: Fit, given: Sequence[Any], target: Sequence[int], first_axis: int = 0) -> list[Any]:
    if len(given) != len(target):
        return list(given)
    return [
        leaf if isinstance(leaf, int) and leaf == -1 else fit.kept(leaf, size, fit.node, axis)
        for axis, (leaf, size) in enumerate(zip(given, target, strict=True), first_axis)
    ]


@size_args("view", "reshape", "expand", "broadcast_to", first=1, names=("size", "shape"))
def _reshape(fit: Fit) -> None:
    name = "size" if "size" in fit.node.kwargs else "shape"
    _shape(fit, 1, name, fit.target)


@size_args("new_zeros", "new_ones", "new_empty", "new_full", first=1, last=1, names=("size",))
def _new(fit: Fit) -> None:
    _shape(fit, 1, "size", fit.target)


for _op in ("new_zeros", "new_ones", "new_empty"):
    SIZE_ARGS[_op] = SizeArgs(1, names=frozenset({"size"}), setter=_new)


@size_args("zeros", "ones", "empty", "rand", "randn", first=0, names=("size",))
def _make(fit: Fit) -> None:
    _shape(fit, 0, "size", fit.target)


@size_args("full", first=0, last=0, names=("size",))
def _full(fit: Fit) -> None:
    _shape(fit, 0, "size", fit.target)


@size_args("unflatten", first=2, names=("sizes",))
def _unflatten(fit: Fit) -> None:
    dim = _dim(fit, 1, "dim", len(fit.target) - len(fit.value(fit.argument(2, "sizes"))) + 1)
    count = len(fit.value(fit.argument(2, "sizes")))
    _shape(fit, 2, "sizes", fit.target[dim : dim + count], dim)


@size_args("repeat", "tile", first=1, names=("repeats", "dims"))
def _repeat(fit: Fit) -> None:
    """Only an axis of size 1 takes its new size from here; others are tiled as often as before."""
    shape = fit.value(fit.source).shape
    before = (*[1] * (len(fit.target) - len(shape)), *shape)
    name = next((n for n in ("repeats", "dims") if n in fit.node.kwargs), "")
    given: Any = (fit.node.kwargs[name],) if name else fit.node.args[1:]
    listed = len(given) == 1 and isinstance(given[0], list | tuple)
    times = list(given[0] if listed else given)
    if len(times) != len(fit.target):
        return
    for axis, (n, size) in enumerate(zip(before, fit.target, strict=True)):
        if n == 1:
            times[axis] = fit.kept(times[axis], size, fit.node, axis)
    if listed:
        fit.set(1, name, tuple(times))
    else:
        fit.node.args = (fit.node.args[0], *times)


@size_args("pad", first=1, last=1, names=("pad",), always=True)
def _pad(fit: Fit) -> None:
    """Borders grow with what they lie beside: counted in the names of the padded tensor."""
    given, ndim = list(fit.argument(1, "pad")), len(fit.target)
    for place, leaf in enumerate(given):
        axis, width = ndim - 1 - place // 2, fit.old(leaf)
        given[place] = fit.numbers.former(leaf)
        for ids in fit.names(fit.node) if width > 0 else ():
            weight = fit.scale.weight[np.maximum(ids, 0)]
            if ids.shape[axis] > 1 and not bool((weight == 1.0).all()):
                line = np.moveaxis(weight, axis, 0).reshape(ids.shape[axis], -1)[:, 0]
                border = line[:width] if place % 2 == 0 else line[len(line) - width :]
                given[place] = fit.kept(leaf, round(float(border.sum())), fit.node, axis)
                break
    fit.set(1, "pad", tuple(given))


@size_args("roll", first=1, last=1, names=("shifts",), always=True)
def _roll(fit: Fit) -> None:
    """A shift along an axis that keeps its size is what it was; another may follow the width."""
    shifts, dims = fit.argument(1, "shifts"), fit.value(fit.argument(2, "dims", ()))
    source = fit.source
    ndim = fit.value(source).ndim
    listed = isinstance(shifts, list | tuple)
    axes = (dims,) if isinstance(dims, int) else tuple(dims)
    new = []
    for place, shift in enumerate(shifts if listed else (shifts,)):
        kept = bool(axes) and Prefix.of(fit, source, axes[place] % ndim) is None
        new.append(fit.numbers.former(shift) if kept else shift)
    fit.set(1, "shifts", tuple(new) if listed else new[0])


# ---------------------------------------------------------------- parts of an axis
@size_args("split", "split_with_sizes", "unsafe_split", first=1, last=1,
           names=("split_size_or_sections", "split_size"))  # fmt: skip
def _split(fit: Fit) -> None:
    source = fit.source
    dim = _dim(fit, 2, "dim", len(fit.target))
    sizes = [options[0][dim] for options in fit.wanted]
    given = fit.argument(1, "split_size_or_sections", fit.node.kwargs.get("split_size"))
    if isinstance(given, fx.Node) and isinstance(fit.old(given), int):
        given = [given] * len(sizes)
    if isinstance(given, list | tuple) and len(given) == len(sizes):
        pairs = zip(given, sizes, strict=True)
        sizes = [fit.kept(leaf, size, source, dim) for leaf, size in pairs]
    name = "split_size" if "split_size" in fit.node.kwargs else "split_size_or_sections"
    fit.set(1, name, sizes)


@size_args("chunk", "unsafe_chunk", first=99)
def _chunk(fit: Fit) -> None:
    """Parts that are no longer what `chunk` would make are split off by size."""
    dim = _dim(fit, 2, "dim", len(fit.target))
    source = fit.source
    whole = fit.numbers.size(source, dim)
    parts = fit.value(fit.argument(1, "chunks"))
    each = fit.numbers.make("call_function", operator.floordiv, (whole, parts))
    old = -(-fit.old_shape(source)[dim] // parts)
    sizes = [fit.numbers.scaled(each, old, o[0][dim], source, dim) for o in fit.wanted]
    fit.node.op, fit.node.target = "call_method", "split"
    fit.node.args, fit.node.kwargs = (source, sizes), {"dim": dim}


@size_args("narrow", first=2, names=("start", "length"), always=True)
def _narrow(fit: Fit) -> None:
    source = fit.source
    dim = _dim(fit, 1, "dim", len(fit.target))
    count = Prefix.of(fit, source, dim)
    start, length = fit.argument(2, "start"), fit.argument(3, "length")
    if count is None:
        fit.set(2, "start", fit.numbers.former(start))
        fit.set(3, "length", fit.numbers.former(length))
        return
    old = fit.old(start) % count.before
    first, last = count.at(old), count.at(old + fit.old(length))
    fit.set(2, "start", fit.kept(start, first, source, dim))
    fit.set(3, "length", fit.kept(length, last - first, source, dim))


@size_args("select", first=2, names=("index",), always=True)
def _select(fit: Fit) -> None:
    source = fit.source
    count = Prefix.of(fit, source, _dim(fit, 1, "dim", fit.value(source).ndim))
    index = fit.argument(2, "index")
    fit.set(2, "index", fit.numbers.former(index) if count is None else count.bound(index))


@size_args("getitem", "setitem", first=1, last=1, always=True)
def _item(fit: Fit) -> None:
    """Bounds of slices count the neurons in front of them."""
    source, index = fit.node.args[:2]
    tensor = fit.value(source)
    if not isinstance(tensor, Tensor):
        return
    items: list[Any] = list(index) if isinstance(index, tuple) else [index]
    new: list[Any] = []
    axis = 0
    taken = sum(_axes_taken(fit, item) for item in items)
    for item in items:
        value = fit.value(item) if isinstance(item, fx.Node) else item
        counts = isinstance(value, slice) or type(value) is int
        count = Prefix.of(fit, source, axis) if counts else None
        if count is not None and isinstance(item, slice):
            new.append(count.slice(item))
        elif count is not None:
            new.append(count.bound(item))
        else:
            new.append(fit.numbers.former(item))
        axis += tensor.ndim - taken if value is Ellipsis else _axes_taken(fit, item)
    fit.node.update_arg(1, tuple(new) if isinstance(index, tuple) else new[0])


def _axes_taken(fit: Fit, item: Any) -> int:
    value = fit.value(item) if isinstance(item, fx.Node) else item
    if value is None or value is Ellipsis or isinstance(value, bool):
        return 0
    return value.ndim if isinstance(value, Tensor) and value.dtype == torch.bool else 1


def _dim(fit: Fit, index: int, name: str, ndim: int) -> int:
    return int(fit.value(fit.argument(index, name, 0))) % ndim


# ---------------------------------------------------------------- groups and normalised shapes
_CONVOLUTIONS = tuple(f"conv{t}{n}d" for n in (1, 2, 3) for t in ("", "_transpose"))


@size_args(*_CONVOLUTIONS, first=6, last=6, names=("groups",))
def _groups(fit: Fit) -> None:
    x, weight = fit.value(fit.argument(0, "input")), fit.value(fit.argument(1, "weight"))
    transposed = "transpose" in op_name(fit.node)
    axis = 1 + x.ndim - weight.ndim  # 0 for a single sample without a batch axis
    channels = fit.target[axis] if transposed else x.shape[axis]
    fit.set(6, "groups", channels // weight.shape[1])


@size_args("group_norm", first=1, last=1, names=("num_groups",), always=True)
def _norm_groups(fit: Fit) -> None:
    """Groups of a single channel stay such."""
    groups, x = fit.argument(1, "num_groups"), fit.argument(0, "input")
    if fit.old(groups) == fit.old_shape(x)[1]:
        fit.set(1, "num_groups", fit.kept(groups, fit.value(x).shape[1], x, 1))


@size_args("layer_norm", "rms_norm", first=1, last=1, names=("normalized_shape",))
def _normalised(fit: Fit) -> None:
    given = fit.value(fit.argument(1, "normalized_shape"))
    fit.set(1, "normalized_shape", tuple(fit.target[-len(given) :]))
