"""Long-tailed handwritten digits: scikit-learn's, which need no download."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional

from fxplastic.data.long_tailed import LongTailed
from fxplastic.data.profiles import class_counts, exponential_counts, keep_counts
from fxplastic.data.tensor_set import Augmentation, TensorSet
from fxplastic.errors import DataError

CLASSES = 10
SIDE = 32
TEST_PER_CLASS = 40


def load_digits(*, imbalance: float = 100.0, seed: int = 0) -> LongTailed:
    """The digits of `sklearn.datasets.load_digits`, 8 x 8 pixels, enlarged to 32 x 32.

    40 images of each class are set aside for the test first, so that they are the same at every
    imbalance. Class 0 keeps as many of the rest as the rarest class has. In training, an image is
    moved by up to 2 pixels.

    Args:
        imbalance: samples of class 0 over samples of class 9; at least 1.
        seed: of which images are set aside, and which are kept.

    Raises:
        DataError: scikit-learn is not installed; a bad imbalance or seed.
    """
    try:
        from sklearn import datasets
    except ImportError as error:
        raise DataError("digits-lt needs scikit-learn; pip install scikit-learn") from error
    raw = datasets.load_digits()
    small = torch.from_numpy(np.float32(raw.images) / 16)[:, None]
    images = functional.interpolate(small, size=(SIDE, SIDE), mode="bilinear")
    labels = torch.from_numpy(raw.target).long()

    held_out = keep_counts(labels, [TEST_PER_CLASS] * CLASSES, seed)
    rest = torch.ones(len(labels), dtype=torch.bool)
    rest[held_out] = False
    others = rest.nonzero()[:, 0]
    most = min(class_counts(labels[others], CLASSES))
    kept = others[keep_counts(labels[others], exponential_counts(most, CLASSES, imbalance), seed)]

    scale = ((0.5,), (0.5,))  # to -1 .. 1
    train = TensorSet(images[kept], labels[kept], *scale, Augmentation(2))
    return LongTailed(
        "digits-lt",
        train,
        TensorSet(images[held_out], labels[held_out], *scale),
        classes=tuple(str(c) for c in range(CLASSES)),
        counts=class_counts(train.labels, CLASSES),
        input_size=(1, SIDE, SIDE),
        labels=train.labels,
    )
