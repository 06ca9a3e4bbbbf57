"""Accuracy on the test set: overall, for many, medium and few samples, and class by class."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from sklearn.metrics import accuracy_score, recall_score
from torch import Tensor, nn

from fxplastic.data import LongTailed
from fxplastic.errors import TrainingError
from fxplastic.training.batches import Loading, test_batches


@dataclass(frozen=True)
class Accuracy:
    """Accuracies in percent; None where there is no class, or no test sample, to take it of.

    Attributes:
        top1: over all test samples; NaN where nothing was tested.
        splits: under ``"many"``, ``"medium"`` and ``"few"``, the mean over their classes, as in
            OLTR (Liu et al., 2019).
        per_class: of each class.
    """

    top1: float
    splits: Mapping[str, float | None]
    per_class: tuple[float | None, ...]


def not_tested(classes: int, splits: Mapping[str, Sequence[int]]) -> Accuracy:
    """What is known of an epoch without an evaluation."""
    return Accuracy(math.nan, dict.fromkeys(splits), (None,) * classes)


@torch.no_grad()
def predictions(
    model: nn.Module, data: LongTailed, how: Loading, device: torch.device
) -> tuple[Tensor, Tensor]:
    """True and predicted test classes, int64 ``[N]`` each, on the CPU.

    The model runs in eval mode; its mode is put back.

    Raises:
        TrainingError: a logit is not finite, so that a prediction would mean nothing.
    """
    training = model.training
    model.eval()
    truth, found = [], []
    finite = torch.ones((), dtype=torch.bool, device=device)
    for images, labels in test_batches(data, len(cast(Sized, data.test)), how):
        truth.append(labels.to(device))
        logits = model(images.to(device, non_blocking=True))
        finite &= logits.isfinite().all()
        found.append(logits.argmax(1))
    model.train(training)
    if not finite:
        raise TrainingError(
            "logits of test images are not finite: the weights have diverged; checkpoints of "
            "epochs before are kept. Give a smaller lr, and start anew in another folder"
        )
    return torch.cat(truth).cpu(), torch.cat(found).cpu()


def accuracy(
    truth: Tensor, found: Tensor, classes: int, splits: Mapping[str, Sequence[int]]
) -> Accuracy:
    """Accuracies of predictions.

    Args:
        truth: true classes, int64 ``[N]``.
        found: predicted classes, int64 ``[N]``.
        classes: their number.
        splits: class indices by name.

    >>> accuracy(torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1]), 2, {"few": [1]}).per_class
    (50.0, 100.0)
    """
    recalls = 100 * recall_score(
        truth, found, labels=np.arange(classes), average=None, zero_division=np.nan
    )
    return Accuracy(
        top1=100 * float(accuracy_score(truth, found)),
        splits={name: _mean(recalls[list(chosen)]) for name, chosen in splits.items()},
        per_class=tuple(_mean(recalls[[c]]) for c in range(classes)),
    )


def _mean(recalls: np.ndarray) -> float | None:
    known = recalls[~np.isnan(recalls)]
    return float(known.mean()) if len(known) else None
