"""Weights at which a wrong rewrite shows: no norm is fresh, no layer scale is zero.

A fresh model hides mistakes: a BatchNorm with weight 1 and bias 0 may be permuted at will, and
behind a layer scale of zero nothing can be seen at all.
"""

import torch
from torch import Tensor, nn


def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """The same model in float64, every one-dimensional or constant tensor drawn afresh.

    Norm weights and variances come from [0.5, 1.5], biases and means from [-0.4, 0.4], constant
    tensors of more axes from [-0.5, 0.5]. Integer buffers and matrices keep their values, and so
    do buffers that are not persistent: they are constants of the code, which no checkpoint holds.
    """
    model.double()
    held = model.state_dict(keep_vars=True)
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            if name in held and tensor.is_floating_point() and tensor.numel():
                low, high = _interval(name, tensor)
                if low < high:
                    sample = torch.rand(tensor.shape, generator=draw, dtype=torch.float64)
                    tensor.copy_(low + (high - low) * sample)
    return model


def _interval(name: str, tensor: Tensor) -> tuple[float, float]:
    """Where to draw `tensor` from; an empty interval where its values are good as they are."""
    leaf = name.rsplit(".", 1)[-1]
    axes = sum(size > 1 for size in tensor.shape)
    constant = bool(tensor.eq(tensor.flatten()[0]).all())
    if leaf.endswith("var"):
        return 0.5, 1.5
    if leaf.endswith(("bias", "mean", "beta")) and axes <= 1:
        return -0.4, 0.4
    if axes <= 1 and constant:
        return 0.5, 1.5
    return (-0.5, 0.5) if constant else (0.0, 0.0)


def without_dropout(model: nn.Module) -> nn.Module:
    """The same model with the p of every element-wise dropout module set to 0.

    Copies of a neuron draw their own masks, so no turnover can be exact under dropout.
    """
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
        elif isinstance(module, nn.MultiheadAttention):
            module.dropout = 0.0
    return model
