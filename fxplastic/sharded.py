"""Tensors of which each process has a part (`DTensor`, as FSDP2 makes them of parameters).

A rewrite takes one tensor at a time together, as a forward of the sharded model does with a whole
block, and keeps this process's part of the result.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fxplastic.errors import FxPlasticError


def is_sharded(tensor: object) -> bool:
    """Whether other processes have parts of it, or copies, that follow the same mesh."""
    found = sys.modules.get("torch.distributed.tensor")  # never imported: there can be none
    return found is not None and isinstance(tensor, found.DTensor)


def require_whole(named: Iterable[tuple[str, Tensor]], error: type[FxPlasticError]) -> None:
    """Raise `error` where a tensor is sharded: what is made for it would be no sharded one."""
    for name, tensor in named:
        if is_sharded(tensor):
            raise error(
                f"{name!r} is sharded over processes, and its shape and its layers cannot change; "
                "use rewrite_ (constant widths), or rewrite the model before it is sharded"
            )


def here(tensor: Tensor) -> Tensor:
    """The part that lies in this process, in the same memory; a plain tensor as it is."""
    if not is_sharded(tensor):
        return tensor
    part: Tensor = _any(tensor.detach()).to_local()
    return part


def whole(tensor: Tensor) -> Tensor:
    """The whole tensor, which all processes of its mesh have to ask for; a plain one as it is."""
    if not is_sharded(tensor):
        return tensor
    with torch.no_grad():
        full: Tensor = _any(tensor.detach()).full_tensor()
    return full


def part_of(new: Tensor, like: Tensor) -> Tensor:
    """The part of a whole tensor that lies here, if it is sharded as `like` is."""
    if not is_sharded(like) or is_sharded(new):
        return here(new)
    from torch.distributed.tensor import distribute_tensor

    wanted = _any(like)
    mine = distribute_tensor(new, wanted.device_mesh, wanted.placements, src_data_rank=None)
    part: Tensor = here(mine)
    same = part.untyped_storage().data_ptr() == new.untyped_storage().data_ptr()
    return part.clone() if same else part  # a view would keep the whole one alive


def region(tensor: Tensor) -> tuple[slice, ...]:
    """Where this process's part lies in the whole tensor, axis by axis."""
    if not is_sharded(tensor):
        return tuple(slice(0, n) for n in tensor.shape)
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    like = _any(tensor)
    shape, offset = compute_local_shape_and_global_offset(
        tensor.shape, like.device_mesh, like.placements
    )
    return tuple(slice(first, first + n) for first, n in zip(offset, shape, strict=True))


def mesh_of(tensors: Sequence[Tensor], error: type[FxPlasticError]) -> Any:
    """The device mesh that sharded tensors lie on; `None` where none is sharded.

    Raises:
        error: they lie on several, or in a way that cannot be taken together part by part.
    """
    found = None
    for tensor in filter(is_sharded, tensors):
        like = _any(tensor)
        kinds = {type(placement).__name__ for placement in like.placements}
        if not kinds <= {"Shard", "Replicate"}:
            raise error(
                f"a parameter of shape {tuple(tensor.shape)} is laid out by "
                f"{', '.join(sorted(kinds))} over the processes; only Shard and Replicate are "
                "known. Shard the model with fully_shard on a mesh of its own"
            )
        if found is not None and like.device_mesh != found:
            raise error(
                f"parameters lie on several device meshes ({found} and {like.device_mesh}); give "
                "fully_shard the same mesh everywhere"
            )
        found = like.device_mesh
    return found


def counts_here(tensor: Tensor, mesh: Any) -> bool:
    """Whether this process's part is the one of its copies that a sum over the mesh counts."""
    where = mesh.get_coordinate()
    if not is_sharded(tensor):
        return not any(where)
    copies = zip(where, _any(tensor).placements, strict=True)
    return not any(at for at, placement in copies if placement.is_replicate())


def over_mesh(value: Tensor, mesh: Any, least: bool = False) -> Tensor:
    """The sum (or the least) of a tensor over all processes of a mesh, in place."""
    from torch import distributed as dist

    how = dist.ReduceOp.MIN if least else dist.ReduceOp.SUM
    for dim in range(mesh.ndim):
        dist.all_reduce(value, op=how, group=mesh.get_group(dim))
    return value


def reshard(plastic: object) -> None:
    """Let `fully_shard` take back what it gathered for a forward: parts are the real weights.

    The root's weights stay gathered after a forward without a backward, and its state is known
    only to the hooks that the traced module has in common with the model.
    """
    for state in _states(plastic) if isinstance(plastic, nn.Module) else ():
        for group in _groups(state):
            group.reshard()


def _states(module: nn.Module) -> Iterator[Any]:
    seen = set()
    for one in module.modules():
        for hook in one._forward_pre_hooks.values():
            state = getattr(hook, "__self__", None)
            if type(state).__name__ == "FSDPState" and id(state) not in seen:
                seen.add(id(state))
                yield state


def _groups(state: Any) -> Sequence[Any]:
    several = getattr(state, "_fsdp_param_groups", None)
    if several is not None:
        return list(several)
    one = getattr(state, "_fsdp_param_group", None)
    return [] if one is None else [one]


def _any(tensor: Tensor) -> Any:
    return tensor
