"""Plain values as JSON and back, with what JSON does not have: tuples, dtypes, shapes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fxplastic.errors import SaveError


def encode(value: Any, where: str) -> Any:
    """`value` as JSON that `decode` turns back into an equal value of the same type.

    Numbers, text, flags, None, lists, tuples, dicts with text keys, dtypes; tensors on meta as
    shape and dtype.

    Raises:
        SaveError: something else; the message has `where`.

    >>> encode((0.9, None), "betas")
    {'tuple': [0.9, None]}
    >>> decode(encode({"betas": (0.9, float("inf"))}, "group"))
    {'betas': (0.9, inf)}
    """
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": repr(value)}
    if isinstance(value, torch.dtype):
        return {"dtype": str(value).removeprefix("torch.")}
    if isinstance(value, Tensor) and value.is_meta:
        kind = str(value.dtype).removeprefix("torch.")
        return {"tensor": list(value.shape), "dtype": kind, "grad": value.requires_grad}
    if type(value) in (list, tuple):
        items = [encode(item, where) for item in value]
        return items if isinstance(value, list) else {"tuple": items}
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {"dict": {key: encode(item, f"{where}[{key!r}]") for key, item in value.items()}}
    raise SaveError(
        f"{where} is a {type(value).__name__}, which no JSON holds: {value!r:.80}; give numbers, "
        "text, flags, None, and lists, tuples and dicts of them"
    )


def decode(value: Any) -> Any:
    """What `encode` wrote."""
    if isinstance(value, list):
        return [decode(item) for item in value]
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        return torch.zeros(
            value["tensor"], dtype=_dtype(value["dtype"]), device="meta",
            requires_grad=value["grad"],
        )  # fmt: skip
    if "dtype" in value:
        return _dtype(value["dtype"])
    if "float" in value:
        return float(value["float"])
    if "tuple" in value:
        return tuple(decode(item) for item in value["tuple"])
    return {key: decode(item) for key, item in value["dict"].items()}


def _dtype(name: str) -> torch.dtype:
    found = getattr(torch, name, None)
    if not isinstance(found, torch.dtype):
        raise SaveError(f"the file names a dtype {name!r}, which this PyTorch does not have")
    return found
