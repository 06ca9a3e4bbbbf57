"""Weights of classes, by how many samples each has."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fxplastic.errors import ScoreError


def class_weights(
    counts: Sequence[int] | Tensor, scheme: str = "inverse", *, beta: float = 0.9999
) -> Tensor:
    """Weight of each class's samples, normalised to a mean of 1 over the samples.

    Args:
        counts: number of training samples of each class, ``[classes]``.
        scheme: ``"inverse"`` frequency, or ``"effective"`` number of samples (Cui et al., 2019).
        beta: of the effective number, between 0 and 1.

    Returns:
        float32 ``[classes]`` on the device of `counts`, for the `weight` of a loss.

    Raises:
        ScoreError: a class without samples, or no such scheme.

    >>> class_weights([99, 1])
    tensor([ 0.5051, 50.0000])
    """
    number = torch.as_tensor(counts).to(torch.float64)
    if number.ndim != 1 or number.numel() == 0:
        raise ScoreError(f"counts has shape {tuple(number.shape)}; give one number per class")
    empty = [i for i, n in enumerate(number.tolist()) if not n > 0]
    if empty:
        raise ScoreError(
            f"class {empty[0]} has {number[empty[0]].item():g} samples, which has no weight; "
            "leave it out, or count at least one"
        )
    if scheme == "inverse":
        weight = 1.0 / number
    elif scheme == "effective":
        weight = (1.0 - beta) / (1.0 - beta**number)
    else:
        raise ScoreError(f"scheme={scheme!r}; give 'inverse' or 'effective'")
    return (weight * number.sum() / (weight * number).sum()).to(torch.float32)
