"""A data-parallel wrapper for a rewritten module, like the one around the module before."""

from __future__ import annotations

import inspect
from typing import Any

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from fxplastic.errors import RankError

_GIVEN = {"module", "bucket_cap_mb", "init_sync"}


def rewrap(wrapper: nn.Module, module: nn.Module, **settings: Any) -> DistributedDataParallel:
    """`DistributedDataParallel` around `module`, with the settings and hooks that `wrapper` has.

    `rewrite_` needs none of it: the wrapper stays valid, since parameters stay the same objects.
    A plan that changes widths makes new parameters, which an old wrapper does not know.

    Args:
        wrapper: what wraps the model that was rewritten; not used any more afterwards.
        module: what the rewrite returned, on the same device.
        settings: arguments of `DistributedDataParallel` to be given anew.

    Returns:
        A new wrapper. Its buckets are of default size unless ``bucket_cap_mb`` is given.

    Raises:
        RankError: `wrapper` is no `DistributedDataParallel`, or `module` is one itself.
    """
    if not isinstance(wrapper, DistributedDataParallel):
        raise RankError(
            f"{type(wrapper).__name__} is no DistributedDataParallel; give what wraps the model"
        )
    if isinstance(module, DistributedDataParallel):
        raise RankError("the new module is wrapped already; give the module itself")
    known = inspect.signature(DistributedDataParallel.__init__).parameters
    kept = {
        name: getattr(wrapper, name)
        for name in known
        if name not in _GIVEN and hasattr(wrapper, name)
    }
    if "forward_sync_buffers" in known:
        kept.pop("broadcast_buffers", None)  # its older name: only one of them may be given
    if "process_group" in kept:
        kept.pop("device_mesh", None)
    result = DistributedDataParallel(module, **{**kept, **settings})
    for hook, state in list(wrapper._comm_hooks):
        result.register_comm_hook(state, hook)
    return result
