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
    """`new` in the memory format of `old`, as its strides say it.

    >>> old = torch.ones(4, 3, 1, 1).to(memory_format=torch.channels_last)
    >>> laid_like(torch.ones(5, 3, 1, 1), old).stride()
    (3, 1, 3, 3)
    """
    form = {4: torch.channels_last, 5: torch.channels_last_3d}.get(old.ndim)
    if form is None or new.ndim != old.ndim or not _laid(old, form):
        return new
    return torch.empty_like(new, memory_format=form).copy_(new)


def _laid(tensor: Tensor, form: torch.memory_format) -> bool:
    """Whether strides say so, of which `is_contiguous` leaves out those of axes of length 1."""
    if tensor.layout != torch.strided:
        return False
    like = torch.empty_like(tensor, device="meta", memory_format=form)
    plain = torch.empty_like(tensor, device="meta", memory_format=torch.contiguous_format)
    return tensor.stride() == like.stride() != plain.stride()
