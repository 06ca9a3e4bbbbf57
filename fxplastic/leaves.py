"""Sizes that the layers of `torch.nn` keep as attributes, beside their parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

Attributes = dict[str, Any]
Shape = tuple[int, ...]


def held(module: nn.Module, name: str) -> Tensor | None:
    """A layer's own tensor; nothing is computed.

    Of one that is computed, by a parametrization or by a hook of `torch.nn.utils`, it is what it
    is computed from and has its shape.

    >>> held(nn.utils.parametrizations.weight_norm(nn.Linear(2, 3)), "weight").shape
    torch.Size([3, 2])
    """
    made = getattr(module, "parametrizations", {})
    if name in made:
        parts = list(made[name].parameters(recurse=False))
    elif name in vars(module):  # a hook makes it of `weight_orig`, or of `weight_g` and `weight_v`
        parts = [p for n, p in module.named_parameters(recurse=False) if n.startswith(name)]
    else:
        own: Tensor | None = getattr(module, name, None)
        return own
    return max(parts, key=lambda t: (t.ndim, t.numel()), default=None)


def sizes_of(module: nn.Module, old: Shape | None, new: Shape | None) -> Attributes:
    """Attributes that follow from the new shape of a layer's weight (`None` without one).

    Args:
        module: any module; one that keeps no sizes has none to set.
        old: shape of its weight as it was.
        new: shape of its weight as it will be.

    >>> sizes_of(nn.Linear(3, 8), (8, 3), (10, 3))
    {'in_features': 3, 'out_features': 10}
    """
    if old is None or new is None or old == new:
        return {}
    if isinstance(module, _ConvNd):
        return _convolution(module, old, new)
    if isinstance(module, nn.Linear):
        return {"in_features": new[1], "out_features": new[0]}
    if isinstance(module, nn.Bilinear):
        return {"out_features": new[0], "in1_features": new[1], "in2_features": new[2]}
    if isinstance(module, nn.Embedding | nn.EmbeddingBag):
        return {"embedding_dim": new[1]}
    if isinstance(module, _NormBase):
        return {"num_features": new[0]}
    if isinstance(module, nn.GroupNorm):
        alone = {"num_groups": new[0]} if module.num_groups == module.num_channels else {}
        return {"num_channels": new[0]} | alone
    if isinstance(module, nn.LayerNorm | nn.RMSNorm):
        return {"normalized_shape": tuple(new)}
    return {"num_parameters": new[0]} if isinstance(module, nn.PReLU) else {}


def _convolution(module: _ConvNd, old: Shape, new: Shape) -> Attributes:
    """In and out channels; a depthwise layer stays one. A call settles `groups` (`fit_leaf`)."""
    groups = module.groups
    if groups > 1 and groups == old[0]:
        groups = new[0]
    a, b = new[0], new[1] * groups
    sizes = (b, a) if not module.transposed else (a, b)
    return {"in_channels": sizes[0], "out_channels": sizes[1], "groups": groups}


def fit_leaf(module: nn.Module, inputs: Sequence[Any], out: Shape) -> Attributes:
    """Attributes with which a layer gives shape `out`, where its weight alone does not settle them.

    Those that do not change are among them.
    """
    layer: Any = module
    found: Attributes = {}
    weight = held(module, "weight") if isinstance(module, _ConvNd) else None
    if (
        isinstance(module, _ConvNd)
        and weight is not None
        and isinstance(next(iter(inputs), None), Tensor)
    ):
        axis = inputs[0].ndim - 1 - len(module.kernel_size)  # 0 for a sample without a batch axis
        channels, made = inputs[0].shape[axis], out[axis]
        groups = (made if module.transposed else channels) // weight.shape[1]
        found = {"groups": groups, "in_channels": channels, "out_channels": made}
    elif isinstance(module, nn.Unflatten) and isinstance(layer.dim, int):
        given = layer.unflattened_size
        dim = layer.dim % (len(out) - len(given) + 1)
        new = out[dim : dim + len(given)]
        sizes = (-1 if old == -1 else n for old, n in zip(given, new, strict=True))
        found = {"unflattened_size": type(given)(sizes)}
    elif isinstance(module, _NormBase) and layer.weight is None and layer.running_mean is None:
        found = {"num_features": out[1]}
    elif isinstance(module, nn.GroupNorm) and layer.weight is None:
        alone = layer.num_groups == layer.num_channels
        found = {"num_channels": out[1]} | ({"num_groups": out[1]} if alone else {})
    return found
