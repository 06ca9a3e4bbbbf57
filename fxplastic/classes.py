"""Weights of classes, by how many samples each has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fxplastic.errors import ScoreError


def class_counts(labels: Tensor | Sequence[int] | Iterable[Any], classes: int) -> Tensor:
    """Number of samples of each class.

    Args:
        labels: the labels, as a tensor or a sequence of ints; or a loader of ``(inputs, labels)``
            batches, which is gone through once.
        classes: number of classes.

    Returns:
        int64 ``[classes]`` on the CPU.

    Raises:
        ScoreError: a label out of range, or none at all.

    >>> class_counts([0, 2, 2], classes=3)
    tensor([1, 0, 2])
    >>> class_counts([(torch.zeros(2, 4), torch.tensor([1, 1]))], classes=2)
    tensor([0, 2])
    """
    found = [labels] if isinstance(labels, Tensor) else [_labels_of(entry) for entry in labels]
    wrong = [tuple(row.shape) for row in found if row.ndim > 1]
    if wrong:
        raise ScoreError(f"labels have shape {wrong[0]}; give one class index for each sample")
    every = torch.cat([row.detach().reshape(-1).cpu() for row in found]) if found else None
    if every is None or not every.numel():
        raise ScoreError("there are no labels to count; give at least one")
    if every.is_floating_point() or every.is_complex():
        raise ScoreError(f"labels are {every.dtype}; give class indices as whole numbers")
    outside = every[(every < 0) | (every >= classes)]
    if outside.numel():
        raise ScoreError(
            f"label {int(outside[0])} is out of range: with {classes} classes, labels are 0 to "
            f"{classes - 1}"
        )
    return torch.bincount(every.long(), minlength=classes)


def _labels_of(entry: object) -> Tensor:
    """Labels of one entry of a sequence or of a loader."""
    if isinstance(entry, Mapping | str):
        raise ScoreError(
            f"a batch is a {type(entry).__name__}; count from the labels, or from a loader of "
            "(inputs, labels)"
        )
    if isinstance(entry, tuple | list):
        if len(entry) < 2:
            raise ScoreError(
                f"a batch of {len(entry)} entries has no labels; a loader gives (inputs, labels)"
            )
        entry = entry[1]
    return torch.as_tensor(entry)


def class_weights(
    counts: Sequence[int] | Tensor,
    scheme: str | Sequence[float] | Tensor = "inverse",
    *,
    beta: float = 0.9999,
) -> Tensor:
    """Weight of each class's samples, normalised to a mean of 1 over the samples.

    Args:
        counts: number of training samples of each class, ``[classes]``; `class_counts` counts.
        scheme: ``"inverse"`` frequency, ``"effective"`` number of samples (Cui et al., 2019), or
            one weight for each class.
        beta: of the effective number, between 0 and 1.

    Returns:
        float32 ``[classes]`` on the device of `counts`, for the `weight` of a loss.

    Raises:
        ScoreError: a class without samples, no such scheme, or weights of another length, not
            finite or negative.

    >>> class_weights([99, 1])
    tensor([ 0.5051, 50.0000])
    >>> class_weights([3, 1], [1.0, 5.0])
    tensor([0.5000, 2.5000])
    """
    number = torch.as_tensor(counts).to(torch.float64)
    if number.ndim != 1 or number.numel() == 0:
        raise ScoreError(f"counts has shape {tuple(number.shape)}; give one number per class")
    empty = [i for i, n in enumerate(number.tolist()) if not 0 < n < float("inf")]
    if empty:
        raise ScoreError(
            f"class {empty[0]} has {number[empty[0]].item():g} samples, which has no weight; "
            "leave it out, or count at least one"
        )
    if not 0.0 < beta < 1.0:
        raise ScoreError(f"beta={beta!r}; give a number between 0 and 1")
    weight = _raw(number, scheme, beta)
    return (weight * number.sum() / (weight * number).sum()).to(torch.float32)


def _raw(number: Tensor, scheme: str | Sequence[float] | Tensor, beta: float) -> Tensor:
    """Weights that are not normalised yet, float64."""
    if isinstance(scheme, str):
        if scheme == "inverse":
            return 1.0 / number
        if scheme == "effective":
            return (1.0 - beta) / (1.0 - beta**number)
        raise ScoreError(
            f"scheme={scheme!r}; give 'inverse', 'effective', or one weight for each class"
        )
    given = torch.as_tensor(scheme).to(number)
    if given.shape != number.shape:
        raise ScoreError(
            f"there are {tuple(given.shape)} weights for {len(number)} classes; give one for each"
        )
    wrong = [i for i, w in enumerate(given.tolist()) if not 0.0 <= w < float("inf")]
    if wrong or not given.sum() > 0:
        where = f"class {wrong[0]} is {given[wrong[0]].item()}" if wrong else "every class is 0"
        raise ScoreError(f"the weight of {where}; give finite numbers, not all of them 0")
    return given
