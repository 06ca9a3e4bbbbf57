"""A data set held in memory, whose batches are cut, augmented and normalised in one go."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.utils.data import Dataset

from fxplastic.data.profiles import is_whole
from fxplastic.errors import DataError

Border = Literal["zero", "edge"]


@dataclass(frozen=True)
class Augmentation:
    """A random crop after padding, and a mirror image of every other sample.

    Attributes:
        padding: pixels on each side; a sample moves by at most as many, in both directions.
        flip: whether left and right are exchanged with probability 1/2.
        border: what is moved in: ``"zero"`` (black, as in `torchvision.transforms.RandomCrop`) or
            the ``"edge"`` pixel, which leaves no trace on a uniform background.

    Raises:
        DataError: a padding that is negative or not a whole number, or no such border.
    """

    padding: int = 4
    flip: bool = False
    border: Border = "zero"

    def __post_init__(self) -> None:
        if not is_whole(self.padding) or self.padding < 0:
            raise DataError(f"padding={self.padding!r}; give a whole number of at least 0")
        if self.border not in get_args(Border):
            raise DataError(f"border={self.border!r}; give 'zero' or 'edge'")


@dataclass(frozen=True, eq=False)
class TensorSet(Dataset[tuple[Tensor, int]]):
    """All images in one tensor; `batch` is what to train with, and makes a run repeatable.

    Attributes:
        images: uint8 or float32 ``[N, C, H, W]``; uint8 is divided by 255.
        labels: int64 ``[N]``.
        mean: of each channel, subtracted.
        std: of each channel, divided by.
        augmentation: for training, or None.

    Raises:
        DataError: shapes, types or devices that don't fit together.
    """

    images: Tensor = field(repr=False)
    labels: Tensor = field(repr=False)
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augmentation: Augmentation | None = None

    def __post_init__(self) -> None:
        shape = tuple(self.images.shape)
        if len(shape) != 4 or self.images.dtype not in (torch.uint8, torch.float32):
            raise DataError(
                f"images are {self.images.dtype} of shape {shape}; give uint8 or float32 of shape "
                "[N, C, H, W]"
            )
        if tuple(self.labels.shape) != shape[:1] or self.labels.dtype != torch.int64:
            raise DataError(
                f"labels are {self.labels.dtype} of shape {tuple(self.labels.shape)} for "
                f"{shape[0]} images; give int64 of shape [{shape[0]}]"
            )
        if self.images.device != self.labels.device:
            raise DataError(
                f"images are on {self.images.device}, labels on {self.labels.device}; "
                "give both on one device"
            )
        if len(self.mean) != shape[1] or len(self.std) != shape[1] or min(self.std) <= 0:
            raise DataError(
                f"mean={self.mean} and std={self.std} for {shape[1]} channels; give one number "
                "per channel, each std above 0"
            )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """One sample, normalised and never augmented: float32 ``[C, H, W]`` and its label."""
        return self._normalised(self.images[index]), int(self.labels[index])

    def batch(self, indices: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """Samples by index, normalised, and augmented if the set is to be.

        All chance is the generator's, whatever else draws numbers in the process, so that a run
        is repeated bit for bit from the generator's seed.

        Args:
            indices: int64 ``[B]``.
            generator: for the augmentation; None leaves the samples as they are.

        Returns:
            Images float32 ``[B, C, H, W]`` and labels int64 ``[B]``, on the set's device.

        Raises:
            DataError: indices of another type or shape.
            IndexError: an index that no sample has.

        >>> images = torch.tensor([[[[0, 255]]], [[[255, 255]]]], dtype=torch.uint8)
        >>> tiny = TensorSet(images, torch.tensor([3, 4]), mean=(0.5,), std=(0.5,))
        >>> tiny.batch(torch.tensor([0]), None)
        (tensor([[[[-1.,  1.]]]]), tensor([3]))
        """
        if indices.ndim != 1 or indices.dtype != torch.int64:
            raise DataError(
                f"indices are {indices.dtype} of shape {tuple(indices.shape)}; give int64 of shape "
                "[B]"
            )
        chosen = indices.to(self.images.device)
        images, labels = self.images[chosen], self.labels[chosen]
        if generator is not None and self.augmentation is not None:
            images = augmented(images, self.augmentation, generator)
        return self._normalised(images), labels

    def to(self, device: torch.device | str) -> TensorSet:
        """The same set on another device; this one stays where it is."""
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))

    def _normalised(self, images: Tensor) -> Tensor:
        # In the order of torchvision's ToTensor and Normalize, to be equal to them bit for bit.
        scaled = images.float().div(255) if images.dtype == torch.uint8 else images
        mean, std = (
            torch.tensor(row, device=images.device)[:, None, None] for row in (self.mean, self.std)
        )
        return (scaled - mean) / std


def augmented(images: Tensor, how: Augmentation, generator: torch.Generator) -> Tensor:
    """Each image moved, and perhaps mirrored, on its own; same shape and type.

    Args:
        images: ``[B, C, H, W]``.
        how: how far, and whether mirrored.
        generator: on any device; numbers are drawn there.
    """
    count, channels, height, width = images.shape
    device = images.device

    def drawn(choices: int) -> Tensor:
        numbers = torch.randint(choices, (count, 1), generator=generator, device=generator.device)
        return numbers.to(device)

    rows = torch.arange(height, device=device) + drawn(2 * how.padding + 1) - how.padding
    columns = torch.arange(width, device=device) + drawn(2 * how.padding + 1) - how.padding
    if how.flip:
        columns = torch.where(drawn(2) == 1, columns.flip(1), columns)
    moved = images[
        torch.arange(count, device=device)[:, None, None, None],
        torch.arange(channels, device=device)[:, None, None],
        rows.clamp(0, height - 1)[:, None, :, None],
        columns.clamp(0, width - 1)[:, None, None, :],
    ]
    if how.border == "edge":
        return moved
    inside_rows = (rows >= 0) & (rows < height)
    inside_columns = (columns >= 0) & (columns < width)
    inside = inside_rows[:, None, :, None] & inside_columns[:, None, None, :]
    return torch.where(inside, moved, torch.zeros((), dtype=images.dtype, device=device))
