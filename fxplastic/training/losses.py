"""Losses for long-tailed classes, each a function of logits, labels and epoch.

The epoch is an argument because deferred reweighting changes with it; the others ignore it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

import torch
from torch import Tensor
from torch.nn import functional

from fxplastic.classes import class_weights
from fxplastic.errors import TrainingError

LossName = Literal["cross_entropy", "weighted", "drw", "logit_adjustment", "few"]
FEW = 20  # classes with fewer samples are few-shot (Liu et al., 2019)


class Loss(Protocol):
    """Logits ``[batch, classes]``, labels int64 ``[batch]``, epoch from 1; gives a scalar."""

    def __call__(self, logits: Tensor, labels: Tensor, epoch: int, /) -> Tensor:
        """The mean loss of a batch."""
        ...


@dataclass(frozen=True)
class CrossEntropy:
    """Plain cross entropy, the mean over samples."""

    def __call__(self, logits: Tensor, labels: Tensor, _epoch: int, /) -> Tensor:
        """The mean loss of a batch."""
        return functional.cross_entropy(logits, labels)


@dataclass(frozen=True, eq=False)
class Weighted:
    """Each sample's cross entropy times its class's weight, the mean over samples.

    The sum of losses is divided by the number of samples, not by the sum of their weights, so that
    a rare sample weighs the same whatever else is in its batch.

    Args:
        weight: float32 ``[classes]``.
    """

    weight: Tensor

    def __call__(self, logits: Tensor, labels: Tensor, _epoch: int, /) -> Tensor:
        """The mean loss of a batch."""
        losses = functional.cross_entropy(logits, labels, reduction="none")
        return (losses * self.weight[labels]).mean()


@dataclass(frozen=True, eq=False)
class Deferred:
    """Deferred reweighting (DRW; Cao et al., 2019): plain, then weighted from an epoch on.

    The weighted mean is divided by the sum of the batch's weights, as the paper's code does
    through the `weight` of torch's cross entropy; a factor on all weights changes nothing.

    Args:
        weight: float32 ``[classes]``.
        start: the first weighted epoch, counted from 1.
    """

    weight: Tensor
    start: int

    def __call__(self, logits: Tensor, labels: Tensor, epoch: int, /) -> Tensor:
        """The mean loss of a batch."""
        weight = self.weight if epoch >= self.start else None
        return functional.cross_entropy(logits, labels, weight=weight)


@dataclass(frozen=True, eq=False)
class LogitAdjustment:
    """Cross entropy of ``logits + tau * log(prior)`` (Menon et al., 2021, equation 10).

    Predictions are made from the logits as they are.

    Args:
        offset: ``tau * log(prior)``, float32 ``[classes]``.
    """

    offset: Tensor

    def __call__(self, logits: Tensor, labels: Tensor, _epoch: int, /) -> Tensor:
        """The mean loss of a batch."""
        return functional.cross_entropy(logits + self.offset, labels)


def make_loss(
    name: str,
    counts: Sequence[int],
    *,
    start: int = 1,
    tau: float = 1.0,
    device: torch.device | str = "cpu",
) -> Loss:
    """The loss called `name`, for classes with these numbers of training samples.

    Args:
        name: ``"cross_entropy"``; ``"weighted"`` by inverse frequency; ``"drw"``, effective-number
            weights (Cui et al., 2019, beta 0.9999) from epoch `start` on; ``"logit_adjustment"``;
            ``"few"``: like weighted, of classes with fewer than 20 samples alone, for scores.
        counts: training samples of each class, ``[classes]``.
        start: first weighted epoch of ``"drw"``, from 1.
        tau: strength of the logit adjustment.
        device: of the logits.

    Raises:
        TrainingError: no such loss, a `tau` that is no number above 0, or no class that has few
            samples.
        ScoreError: a class without samples.

    >>> loss = make_loss("logit_adjustment", [3, 1])
    >>> loss(torch.zeros(1, 2), torch.tensor([1]), 1)  # -log(1/4)
    tensor(1.3863)
    """
    if not 0.0 < tau < math.inf:
        raise TrainingError(f"tau={tau!r}; give a number above 0")
    inverse = class_weights(counts)  # refuses a class without samples, whichever loss it is for
    if name == "cross_entropy":
        return CrossEntropy()
    if name == "weighted":
        return Weighted(inverse.to(device))
    if name == "drw":
        return Deferred(class_weights(counts, "effective").to(device), start)
    if name == "logit_adjustment":
        prior = torch.tensor(counts, dtype=torch.float64)
        return LogitAdjustment((tau * (prior / prior.sum()).log()).float().to(device))
    if name == "few":
        rare = [float(weight) * (n < FEW) for weight, n in zip(inverse, counts, strict=True)]
        if not any(rare):
            raise TrainingError(
                f"loss='few' is of classes with fewer than {FEW} samples, and the rarest has "
                f"{min(counts)}; give another loss, or a larger imbalance"
            )
        return Weighted(class_weights(counts, rare).to(device))
    raise TrainingError(f"loss={name!r}; give one of {', '.join(get_args(LossName))}")


def check_labels(labels: Tensor, classes: int) -> None:
    """Refuse labels that are no class, and classes that have no label.

    Args:
        labels: int64 ``[samples]``.
        classes: their number; labels go from 0 to ``classes - 1``.

    Raises:
        TrainingError: it names the first bad sample, or the first empty class.
    """
    if labels.ndim != 1 or labels.dtype != torch.int64:
        raise TrainingError(
            f"labels are {labels.dtype} of shape {tuple(labels.shape)}; give int64, one per sample"
        )
    bad = ((labels < 0) | (labels >= classes)).nonzero().flatten()
    if len(bad):
        first = int(bad[0])
        raise TrainingError(
            f"training sample {first} has label {int(labels[first])}, and {len(bad)} of "
            f"{len(labels)} labels are out of range; with {classes} classes they go from 0 to "
            f"{classes - 1}"
        )
    empty = (torch.bincount(labels, minlength=classes) == 0).nonzero().flatten()
    if len(empty):
        raise TrainingError(
            f"class {int(empty[0])} has no training sample, and {len(empty)} of {classes} classes "
            "have none; leave them out of the data, or keep at least one sample of each"
        )
