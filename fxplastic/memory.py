"""How tensors lie in memory: each that a rewrite touches on its own, and a new one like the old."""

from __future__ import annotations

import torch
from torch import Tensor

from fxplastic.errors import RewriteError
from fxplastic.plastic import Plastic
from fxplastic.sharded import here


def check_memory(plastic: Plastic, touched: set[int]) -> None:
    """Refuse tensors that share memory without being one object: they would be edited twice."""
    named: dict[str, Tensor] = dict(plastic.named_parameters())
    named |= plastic.named_buffers()
    for name, tensor in named.items():
        steps = zip(tensor.shape, tensor.stride(), strict=True) if id(tensor) in touched else ()
        if tensor.layout == torch.strided and any(n > 1 and not step for n, step in steps):
            raise RewriteError(
                f"{name!r} is an expanded tensor, several of its elements are one in memory; "
                "make it contiguous: .contiguous() before it becomes a parameter"
            )
    spans: dict[tuple[torch.device, int], list[tuple[int, int, str]]] = {}
    for name, tensor in ((name, here(tensor)) for name, tensor in named.items()):
        if tensor.numel() and tensor.layout == torch.strided and tensor.device.type != "meta":
            first = int(tensor.storage_offset()) * tensor.element_size()
            steps = zip(tensor.shape, tensor.stride(), strict=True)
            last = first + (1 + sum((n - 1) * int(s) for n, s in steps)) * tensor.element_size()
            key = (tensor.device, tensor.untyped_storage().data_ptr())
            spans.setdefault(key, []).append((first, last, name))
    for span in spans.values():
        span.sort()
        for i, (_, last, name) in enumerate(span):
            for first, _, other in span[i + 1 :]:
                if first >= last:
                    break
                if touched & {id(named[name]), id(named[other])}:
                    raise RewriteError(
                        f"{name!r} and {other!r} share memory but are two tensors; tie them by "
                        "assigning the same Parameter, or clone one of them"
                    )


def laid_like(new: Tensor, old: Tensor) -> Tensor:
    """`new` in the memory format of `old`."""
    for form in (torch.channels_last, torch.channels_last_3d):
        fitting = new.ndim == (4 if form is torch.channels_last else 5)
        if fitting and not old.is_contiguous() and old.is_contiguous(memory_format=form):
            return new.contiguous(memory_format=form)
    return new
