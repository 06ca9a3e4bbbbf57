"""How many samples each class keeps, and which: the long tail of a balanced data set."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fxplastic.errors import DataError


def exponential_counts(most: int, classes: int, imbalance: float) -> tuple[int, ...]:
    """Samples of each class, ``most * imbalance ** (-c / (classes - 1))``, head first.

    The profile is that of Cui et al. (2019); it is rounded down, as in the code of LDAM (Cao et
    al., 2019), which most papers on long-tailed CIFAR take over. No class has less than 1.

    Args:
        most: samples of class 0.
        classes: how many classes there are.
        imbalance: samples of the first class over samples of the last; at least 1.

    Raises:
        DataError: `most` or `classes` below 1, or an imbalance that is not finite or below 1.

    >>> exponential_counts(5000, 10, 100)
    (5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50)
    """
    for name, number in (("most", most), ("classes", classes)):
        if not is_whole(number) or number < 1:
            raise DataError(f"{name}={number!r}; give a whole number of at least 1")
    check_imbalance(imbalance)
    # The power of 1 / imbalance, not of imbalance: rounding down then gives what LDAM's code does.
    share = 1.0 / imbalance
    return tuple(max(1, int(most * share ** (c / max(1, classes - 1)))) for c in range(classes))


def keep_counts(labels: Tensor, counts: Sequence[int], seed: int) -> Tensor:
    """Which samples to keep, so that class c has ``counts[c]`` of them.

    Every sample gets a key, and each class keeps its smallest ones. So the same seed keeps the
    same samples of a class at any imbalance, fewer of them where the count is smaller. Keys are
    raw output of PCG64, the part of NumPy's generators that is the same in all its versions and on
    all platforms.

    Args:
        labels: of all samples, int64 ``[N]``.
        counts: samples to keep, one number per class.
        seed: 0 or more.

    Returns:
        Indices into `labels`, int64 ``[sum(counts)]``, class by class.

    Raises:
        DataError: labels that no count is given for, a class with too few samples, a bad seed.

    >>> keep_counts(torch.tensor([0, 1, 0, 1, 0]), [2, 1], seed=0)
    tensor([2, 0, 3])
    """
    check_seed(seed)
    available = class_counts(labels, len(counts))
    for c, (wanted, there) in enumerate(zip(counts, available, strict=True)):
        if not is_whole(wanted) or not 0 <= wanted <= there:
            raise DataError(
                f"class {c} is to keep {wanted!r} samples, and has {there}; give a whole number "
                f"from 0 to {there}"
            )
    keys = np.random.PCG64(seed).random_raw(len(labels))
    numbers = labels.cpu().numpy()
    order = np.lexsort((keys, numbers))  # by class, then by key
    first = np.cumsum([0, *available])
    kept = [order[first[c] : first[c] + wanted] for c, wanted in enumerate(counts)]
    return torch.from_numpy(np.concatenate(kept))


def class_counts(labels: Tensor, classes: int) -> tuple[int, ...]:
    """Samples of each class; `labels` are checked to be int64 ``[N]`` and in range."""
    if labels.ndim != 1 or labels.dtype != torch.int64:
        raise DataError(
            f"labels are {labels.dtype} of shape {tuple(labels.shape)}; give int64 of shape [N]"
        )
    if classes < 1:
        raise DataError(f"there are {classes} classes; give at least one")
    outside = ((labels < 0) | (labels >= classes)).nonzero()
    if len(outside):
        place = int(outside[0])
        raise DataError(
            f"the label of sample {place} is {int(labels[place])}; give labels from 0 to "
            f"{classes - 1}"
        )
    return tuple(torch.bincount(labels, minlength=classes).tolist())


def check_imbalance(imbalance: float) -> None:
    """Raises DataError unless it is a finite number of at least 1."""
    number = isinstance(imbalance, int | float) and not isinstance(imbalance, bool)
    if not number or not math.isfinite(imbalance) or imbalance < 1:
        raise DataError(
            f"imbalance={imbalance!r}; give a finite number of at least 1: samples of the most "
            "frequent class over samples of the rarest"
        )


def check_seed(seed: int) -> None:
    """Raises DataError unless it is a whole number of at least 0."""
    if not is_whole(seed) or seed < 0:
        raise DataError(f"seed={seed!r}; give a whole number of at least 0")


def is_whole(value: object) -> bool:
    """Whether it is an int; True and False are not counted as such."""
    return isinstance(value, int) and not isinstance(value, bool)
