"""Long-tailed CIFAR-10 and CIFAR-100 (Cui et al., 2019), in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
import torchvision
from torch import Tensor

from fxplastic.data.long_tailed import LongTailed
from fxplastic.data.profiles import class_counts, exponential_counts, keep_counts
from fxplastic.data.tensor_set import Augmentation, TensorSet
from fxplastic.errors import DataError

CifarClasses = Literal[10, 100]

# Those of LDAM's code (Cao et al., 2019), which uses them for both sets.
MEAN = (0.4914, 0.4822, 0.4465)
STD = (0.2023, 0.1994, 0.2010)


def load_cifar(
    classes: CifarClasses,
    root: Path,
    *,
    imbalance: float = 100.0,
    seed: int = 0,
    download: bool = False,
) -> LongTailed:
    """CIFAR with an exponential training profile, and its whole test set.

    Training images are padded by 4 black pixels, cropped at random and mirrored.

    Args:
        classes: 10 or 100.
        root: folder of torchvision's files.
        imbalance: samples of class 0 over samples of the last class; at least 1.
        seed: of which samples are kept.
        download: fetch the files if they are not there.

    Raises:
        DataError: files that are not there or damaged, a bad imbalance or seed.
    """
    images, labels, names = _read(classes, root, True, download)
    most = min(class_counts(labels, classes))
    kept = keep_counts(labels, exponential_counts(most, classes, imbalance), seed)
    train = TensorSet(images[kept], labels[kept], MEAN, STD, Augmentation(4, flip=True))
    test_images, test_labels, _ = _read(classes, root, False, download)
    return LongTailed(
        f"cifar{classes}-lt",
        train,
        TensorSet(test_images, test_labels, MEAN, STD),
        classes=names,
        counts=class_counts(train.labels, classes),
        input_size=(3, 32, 32),
        labels=train.labels,
    )


def _read(
    classes: CifarClasses, root: Path, train: bool, download: bool
) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """Images uint8 [N, 3, 32, 32], labels int64 [N], and the names of the classes."""
    kind = torchvision.datasets.CIFAR10 if classes == 10 else torchvision.datasets.CIFAR100
    try:
        found = kind(root, train=train, download=download)
    except (RuntimeError, OSError) as error:
        raise DataError(
            f"CIFAR-{classes} is not at root={str(root)!r}: {error}; put torchvision's folder "
            f"{kind.base_folder!r} there, or give download=True"
        ) from error
    images = torch.from_numpy(found.data).permute(0, 3, 1, 2).contiguous()
    return images, torch.tensor(found.targets, dtype=torch.int64), tuple(found.classes)
