"""A long-tailed training set beside its test set."""

from __future__ import annotations

from collections.abc import Sized
from dataclasses import dataclass, field
from typing import cast

from torch import Tensor
from torch.utils.data import Dataset

from fxplastic.data.profiles import class_counts
from fxplastic.errors import DataError


@dataclass(frozen=True, eq=False)
class LongTailed:
    """A classification data set whose training classes are of unequal size.

    Attributes:
        name: what `load` knows it by.
        train: gives ``(image, label)``, a float32 ``[C, H, W]`` and an int; has a length.
        test: the same, best balanced.
        classes: name of each class.
        counts: training samples of each class.
        input_size: ``(C, H, W)`` of an image.
        labels: of the training samples, int64 ``[N]``; known without loading an image.

    Raises:
        DataError: `counts` are not those of `labels`, or a class has no sample.
    """

    name: str
    train: Dataset[tuple[Tensor, int]]
    test: Dataset[tuple[Tensor, int]]
    classes: tuple[str, ...]
    counts: tuple[int, ...]
    input_size: tuple[int, int, int]
    labels: Tensor = field(repr=False)

    def __post_init__(self) -> None:
        found = class_counts(self.labels, len(self.classes))
        if found != self.counts:
            raise DataError(
                f"counts of {self.name!r} are {self.counts}, its labels have {found}; give those"
            )
        if 0 in found:
            raise DataError(
                f"class {found.index(0)} of {self.name!r} has no training sample; leave it out"
            )
        if len(self.labels) != len(cast(Sized, self.train)):
            raise DataError(
                f"{self.name!r} has {len(self.labels)} labels for {len(cast(Sized, self.train))} "
                "training samples; give one each"
            )

    def splits(self, many: int = 100, few: int = 20) -> dict[str, tuple[int, ...]]:
        """Classes by training samples, the split of OLTR (Liu et al., 2019).

        Args:
            many: more samples than this make a class ``"many"``.
            few: fewer samples than this make a class ``"few"``; the rest is ``"medium"``.

        Returns:
            Class indices under ``"many"``, ``"medium"`` and ``"few"``; each may be empty.

        Raises:
            DataError: `few` is above ``many + 1``, so that a class could be both.
        """
        if few > many + 1:
            raise DataError(
                f"few={few} with many={many}: a class could be both; give few <= many + 1"
            )
        result: dict[str, list[int]] = {"many": [], "medium": [], "few": []}
        for c, count in enumerate(self.counts):
            result["many" if count > many else "few" if count < few else "medium"].append(c)
        return {name: tuple(found) for name, found in result.items()}


def describe(data: LongTailed) -> str:
    """A few lines for people: sizes, imbalance, and how many classes are many, medium and few."""
    most, least = max(data.counts), min(data.counts)
    size = " x ".join(str(side) for side in data.input_size)
    splits = {name: len(found) for name, found in data.splits().items()}
    return (
        f"{data.name}: {len(data.classes)} classes, images of {size}\n"
        f"  {len(data.labels)} to train, {len(cast(Sized, data.test))} to test\n"
        f"  from {most} down to {least} training images a class, imbalance {most / least:.4g}\n"
        f"  {splits['many']} many (over 100), {splits['medium']} medium (20 to 100), "
        f"{splits['few']} few (under 20)"
    )
