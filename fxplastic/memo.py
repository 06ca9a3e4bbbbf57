"""What an ATen call gives on meta tensors, remembered: networks repeat themselves.

On meta most ops run as Python decompositions, about a millisecond a call, and a run on names makes
the same calls over and over: block after block, in both modes, at every other width. Shapes,
strides and dtypes of the results depend on those of the arguments alone.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

Described = tuple[tuple[int, ...], tuple[int, ...], torch.dtype]

_BATCH_NORM = torch.ops.aten.native_batch_norm.default
_MOST = 4096  # calls that are remembered before all are forgotten
_results: dict[object, tuple[bool, tuple[Described, ...]]] = {}
_harmless: set[object] = set()  # calls that write to their first argument, and do nothing else


def on_meta_tensors(
    func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any], key: object | None
) -> Any:
    """The result of ``func(*args, **kwargs)``, all tensors on meta.

    Calls that make new tensors are remembered, and those that write to their first argument and
    leave its shape: on meta, nothing comes of them. Views and whatever has other arguments than
    tensors, numbers and lists of them are executed each time. `key` is what `key_of` says.
    """
    if key is None:
        return func(*args, **kwargs)
    if not _makes_new(func):
        return _in_place(func, args, kwargs, key) if _writes_first(func) else func(*args, **kwargs)
    key = key, torch.get_default_dtype()
    if key not in _results:
        found = batch_norm_gives(*args) if func is _BATCH_NORM and not kwargs else None
        if found is None:
            result = func(*args, **kwargs)
            found = _described(result, (*args, *kwargs.values()))
            if found is None:
                return result
        if len(_results) >= _MOST:
            _results.clear()
        _results[key] = found
    several, known = _results[key]
    made = tuple(
        torch.empty_strided(size, stride, dtype=dtype, device="meta")
        for size, stride, dtype in known
    )
    return made if several else made[0]


def batch_norm_gives(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor | None,
    var: Tensor | None,
    training: bool,
    *_: float,
) -> tuple[bool, tuple[Described, ...]] | None:
    """What a batch norm gives in the common case, which spares its long decomposition.

    Takes the op's own arguments, and says what `_described` would of its results.
    ``None`` where its decomposition has to say: other layouts, mixed types, other sizes.
    """
    vectors = [v for v in (weight, bias, mean, var) if v is not None]
    plain = x.dtype in (torch.float32, torch.float64) and x.ndim >= 2 and x.is_contiguous()
    if not plain or any(v.shape != x.shape[1:2] or v.dtype != x.dtype for v in vectors):
        return None
    statistics = x.numel() > x.shape[1] if training else mean is not None and var is not None
    if not statistics:
        return None
    vector = ((x.shape[1],), (1,), x.dtype)
    return True, ((tuple(x.shape), x.stride(), x.dtype), vector, vector)


def _in_place(func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any], key: object) -> Any:
    if key in _harmless:
        return args[0]
    before = args[0].shape, args[0].stride(), args[0].storage_offset(), args[0].dtype
    result = func(*args, **kwargs)
    after = args[0].shape, args[0].stride(), args[0].storage_offset(), args[0].dtype
    if result is args[0] and before == after:
        if len(_harmless) >= _MOST:
            _harmless.clear()
        _harmless.add(key)
    return result


def forget() -> None:
    """Forget all calls, as in a new process."""
    _results.clear()
    _harmless.clear()


class MetaMode(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch has no types here
    """A dispatch mode for calls on meta tensors."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)  # type: ignore[no-untyped-call]  # nor here

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # nor here

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing is compiled inside, and the wrapper that sees to it costs more than the call."""
        return False


class Remembering(MetaMode):
    """While it is entered, calls on meta tensors are answered from what is remembered."""

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """The result of the call, executed only if it is a new one."""
        kwargs = kwargs or {}
        return on_meta_tensors(func, args, kwargs, key_of(func, args, kwargs))


def key_of(func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> object | None:
    """The call without its tensors' values; ``None`` where some argument is not plain."""
    try:
        return func, _frozen(args), tuple((k, _frozen(v)) for k, v in sorted(kwargs.items()))
    except TypeError:
        return None


@cache
def _makes_new(func: OpOverload) -> bool:
    return all(a.alias_info is None for a in func._schema.arguments)


@cache
def _writes_first(func: OpOverload) -> bool:
    """Whether an op writes to its first argument, which it returns, and to nothing else."""
    aliased = [i for i, a in enumerate(func._schema.arguments) if a.alias_info is not None]
    info = func._schema.arguments[0].alias_info if aliased == [0] else None
    return info is not None and info.is_write and len(func._schema.returns) == 1


def _frozen(value: Any) -> object:
    if isinstance(value, Tensor):
        if value.layout != torch.strided or value.device.type != "meta":
            raise TypeError("not to be remembered")
        return value.shape, value.stride(), value.dtype
    if isinstance(value, list | tuple):
        return tuple(_frozen(v) for v in value)
    if value is None or isinstance(value, bool | int | float | complex | str):
        return type(value), value  # 1, 1.0 and True are equal, and give different dtypes
    if isinstance(value, torch.dtype | torch.device | torch.layout | torch.memory_format):
        return value
    raise TypeError("not to be remembered")


def _described(result: Any, given: tuple[Any, ...]) -> tuple[bool, tuple[Described, ...]] | None:
    """Whether these are several tensors, and what they are like; ``None`` if not new and plain."""
    outs = result if isinstance(result, tuple) else (result,)
    held = {t.untyped_storage()._cdata for t in given if isinstance(t, Tensor)}
    for out in outs:
        plain = type(out) is Tensor and out.layout == torch.strided and out.is_meta
        if not plain or out.untyped_storage()._cdata in held or out.storage_offset():
            return None
    return isinstance(result, tuple), tuple((tuple(t.shape), t.stride(), t.dtype) for t in outs)
