"""A model on the meta device for a moment: same modules, shapes and dtypes, no values.

Every parameter and buffer object is swapped for a *twin* on the meta device, and afterwards every
module's `__dict__` is put back as it was, caches that its forward filled included.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from fxplastic.errors import TraceError
from fxplastic.sharded import is_sharded

REGISTERED = ("_parameters", "_buffers", "_modules")


@dataclass
class Twins:
    """Meta twins of tensors, one per original object.

    Attributes:
        originals: original tensor of each twin, by the twin's `id`.
    """

    originals: dict[int, Tensor] = field(default_factory=dict)
    _by_original: dict[int, Tensor] = field(default_factory=dict)

    def of(self, tensor: Tensor) -> Tensor:
        """The twin of `tensor` (itself, if it is a twin); tied tensors share one."""
        if id(tensor) in self.originals:
            return tensor
        twin = self._by_original.get(id(tensor))
        if twin is None:
            if nn.parameter.is_lazy(tensor):
                raise TraceError(
                    "a lazy module has parameters without a shape; run the model once before"
                )
            twin = meta_like(tensor)
            self._by_original[id(tensor)] = twin
            self.originals[id(twin)] = tensor  # also keeps both ids from being reused
        return twin


def meta_like(tensor: Tensor) -> Tensor:
    """A meta tensor of the same shape, strides, dtype and kind (Parameter or not)."""
    if is_sharded(tensor):  # of its parts, another tensor of parts would be made
        size, stride = tuple(tensor.shape), tensor.stride()
        twin = torch.empty_strided(size, stride, dtype=tensor.dtype, device="meta")
    else:
        twin = torch.empty_like(tensor, device="meta")
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(twin, requires_grad=tensor.requires_grad)
    return twin


def map_tensors(value: Any, change: Callable[[Tensor], Any]) -> Any:
    """`value` with `change` applied to it or, one level deep, to what a plain container holds.

    The very same object comes back where nothing in it is a tensor.
    """
    if isinstance(value, Tensor):
        return change(value)
    kind = type(value)
    if kind in (list, tuple) and any(isinstance(v, Tensor) for v in value):
        return kind([change(v) if isinstance(v, Tensor) else v for v in value])
    if kind in (dict, OrderedDict) and any(isinstance(v, Tensor) for v in value.values()):
        return kind((k, change(v) if isinstance(v, Tensor) else v) for k, v in value.items())
    return value


def map_tree(value: Any, change: Callable[[Any], Any]) -> Any:
    """`value` with `change` applied to each leaf of its lists, tuples, dicts and slices."""
    kind = type(value)
    if kind is tuple or kind is list:
        return kind([map_tree(v, change) for v in value])
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return kind(*(map_tree(v, change) for v in value))
    if isinstance(value, list):
        return [map_tree(v, change) for v in value]
    if isinstance(value, dict):
        return {k: map_tree(v, change) for k, v in value.items()}
    if kind is slice:
        return slice(*(map_tree(v, change) for v in (value.start, value.stop, value.step)))
    return change(value)


def plain_attributes(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """Names and values of `module`'s attributes outside its registries."""
    own = module.__dict__
    return ((k, own[k]) for k in list(own) if k not in REGISTERED)


def made_tensors(model: nn.Module) -> dict[int, Tensor]:
    """Copies of the tensors that hooks keep on modules, by the `id` of each; without their graph.

    Such is the weight under a mask, or under the older weight norm: made anew before each forward
    from what is trained, and nothing that `copy.deepcopy` takes.
    """
    found: dict[int, Tensor] = {}

    def note(tensor: Tensor) -> Tensor:
        if not tensor.is_leaf:
            found[id(tensor)] = tensor.detach().clone()
        return tensor

    for module in model.modules():
        for _, value in plain_attributes(module):
            map_tensors(value, note)
    return found


def _swap(module: nn.Module, twins: Twins) -> None:
    for registry in (module._parameters, module._buffers):
        for name, tensor in registry.items():
            if tensor is not None:
                registry[name] = twins.of(tensor)  # type: ignore[assignment]
    for name, value in plain_attributes(module):
        changed = map_tensors(value, twins.of)
        if changed is not value:
            module.__dict__[name] = changed


_CONTAINERS = (dict, list, set, deque, OrderedDict, defaultdict)
_PLAIN = frozenset({bool, int, float, str, type(None), Tensor, nn.Parameter})


def _capture(value: Any, seen: dict[int, tuple[Any, Any]]) -> None:
    """Remember the contents of every builtin container reachable from `value`."""
    if not isinstance(value, _CONTAINERS) or id(value) in seen:
        if type(value) is tuple:
            for item in value:
                _capture(item, seen)
        return
    contents = value.copy() if value else ()
    seen[id(value)] = (value, contents)
    if contents and not isinstance(value, set):
        for item in contents.values() if isinstance(contents, dict) else contents:
            if type(item) not in _PLAIN:
                _capture(item, seen)


def _put_back(value: Any, contents: Any) -> None:
    if not contents and not value:
        return
    if isinstance(value, dict) and contents:
        same = len(value) == len(contents) and all(
            k is j and value[k] is contents[j] for k, j in zip(value, contents, strict=True)
        )
    else:
        same = len(value) == len(contents) and all(
            a is b for a, b in zip(value, contents, strict=True)
        )
    if same:
        return
    value.clear()
    (value.extend if isinstance(value, (list, deque)) else value.update)(contents)


@contextmanager
def restored(model: nn.Module) -> Iterator[None]:
    """Put every module's `__dict__` back on exit, with the containers that it reaches."""
    seen: dict[int, tuple[Any, Any]] = {}
    for module in model.modules():
        _capture(module.__dict__, seen)
    try:
        yield
    finally:
        for value, contents in seen.values():
            _put_back(value, contents)


@contextmanager
def on_meta(model: nn.Module, training: bool) -> Iterator[Twins]:
    """Swap all tensors of `model` for meta twins and set all training flags, for a `with` block.

    Tied tensors stay tied (one twin per object). Nothing of the model's own is left changed
    afterwards, also if the block raises. Yields the twins, with the original of each.

    Raises:
        TraceError: a lazy module still has parameters without a shape.

    >>> layer = nn.Linear(2, 3)
    >>> with on_meta(layer, training=False):
    ...     layer.weight.device, layer(torch.empty(1, 2, device="meta")).shape
    (device(type='meta'), torch.Size([1, 3]))
    >>> layer.weight.device, layer.training
    (device(type='cpu'), True)
    """
    twins = Twins()
    with restored(model):
        for module in model.modules():
            if isinstance(module, torch.jit.ScriptModule):
                continue  # its tensors and its flag live in C++
            _swap(module, twins)
            module.__dict__["training"] = training
            module.__dict__.pop("_compiled_call_impl", None)  # what `module.compile()` left
        yield twins


def real_device(model: nn.Module) -> torch.device | None:
    """The one device of the parameters (else of the buffers); `None` where there are neither.

    Raises:
        TraceError: the parameters lie on several devices.
    """
    devices: dict[torch.device, str] = {}
    for name, parameter in model.named_parameters():
        devices.setdefault(parameter.device, name)
    if len(devices) > 1:
        shown = ", ".join(f"{n} on {d}" for d, n in devices.items())
        raise TraceError(
            f"the parameters lie on several devices ({shown}); move the model to one with .to(...)"
        )
    found = list(devices) or [b.device for b in model.buffers()]
    return found[0] if found else None
