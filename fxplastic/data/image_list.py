"""Published list files (``relative/path.jpg label``), and the images that they name.

ImageNet-LT (Liu et al., 2019) and iNaturalist 2018 (Van Horn et al., 2018) are passed on in this
form. Everything that a list says is checked before the first image is loaded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from PIL import Image
from timm.data.transforms_factory import create_transform
from torch import Tensor
from torch.utils.data import Dataset

from fxplastic.data.long_tailed import LongTailed
from fxplastic.data.profiles import class_counts, is_whole
from fxplastic.errors import DataError


@dataclass(frozen=True)
class Listing:
    """The list files of a data set, relative to its root, and how many classes they have."""

    name: str
    train: str
    test: str
    classes: int


LISTINGS = {
    one.name: one
    for one in (
        Listing("imagenet-lt", "ImageNet_LT_train.txt", "ImageNet_LT_test.txt", 1000),
        Listing("inaturalist2018", "iNaturalist18_train.txt", "iNaturalist18_val.txt", 8142),
    )
}


@dataclass(frozen=True, eq=False)
class ImageList(Dataset[tuple[Tensor, int]]):
    """Images in files, loaded when asked for.

    Random transforms draw from the global generators of Python and torch, which a DataLoader seeds
    in each worker from its own `generator`.

    Attributes:
        root: folder that the paths start from.
        paths: of each sample, relative to `root`.
        labels: int64 ``[N]``.
        transform: from an RGB image to float32 ``[3, H, W]``.
    """

    root: Path
    paths: tuple[str, ...] = field(repr=False)
    labels: Tensor = field(repr=False)
    transform: Callable[[Image.Image], Tensor] = field(repr=False)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """One sample, transformed.

        Raises:
            DataError: the file cannot be read as an image.
        """
        path = self.root / self.paths[index]
        try:
            with Image.open(path) as image:
                picture = image.convert("RGB")
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error}; fetch the file again") from error
        return self.transform(picture), int(self.labels[index])


def load_listed(listing: Listing, root: Path, image_size: int = 224) -> LongTailed:
    """A data set from its list files, with timm's standard transforms.

    Training: random resized crop, mirroring, colour jitter of 0.4. Test: centre crop.

    Args:
        listing: which files.
        root: folder that has the lists, and that their paths start from.
        image_size: side of the square that the transforms make, in pixels.

    Raises:
        DataError: a list or an image that is not there, a malformed line, a label out of range, a
            class without a sample in either list, or an image size below 1.
    """
    if not is_whole(image_size) or image_size < 1:
        raise DataError(f"image_size={image_size!r}; give a whole number of pixels, at least 1")
    lists = [root / listing.train, root / listing.test]
    for file in lists:
        if not file.is_file():
            raise DataError(f"{listing.name} needs the list {file}, which is not there; put it in")
    size = (3, image_size, image_size)
    train, test = (
        ImageList(root, *read_list(file, root, listing.classes), _transform(size, file == lists[0]))
        for file in lists
    )
    return LongTailed(
        listing.name,
        train,
        test,
        classes=tuple(str(c) for c in range(listing.classes)),
        counts=class_counts(train.labels, listing.classes),
        input_size=size,
        labels=train.labels,
    )


def read_list(file: Path, root: Path, classes: int) -> tuple[tuple[str, ...], Tensor]:
    """Paths and labels of a list file, with every image checked to be there.

    Args:
        file: the list, UTF-8; blank lines are passed over.
        root: folder that paths start from.
        classes: labels go from 0 to ``classes - 1``, and each occurs.

    Returns:
        The paths as they are in the list, and their labels, int64 ``[N]``.

    Raises:
        DataError: as for `load_listed`; the message names the list and the line.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not UTF-8 text ({error}); fetch the list again") from error
    numbered = [(f"{file}, line {n}", line) for n, line in enumerate(lines, 1) if line.strip()]
    samples = [_sample(place, line, classes) for place, line in numbered]
    missing = [
        (place, path)
        for (place, _), (path, _) in zip(numbered, samples, strict=True)
        if not (root / path).is_file()
    ]
    if missing:
        place, path = missing[0]
        raise DataError(
            f"{place}: {root / path} does not exist ({len(missing)} of {len(samples)} listed "
            "images are missing); fetch them, or correct root"
        )
    labels = torch.tensor([label for _, label in samples], dtype=torch.int64)
    counts = class_counts(labels, classes)
    if 0 in counts:
        raise DataError(
            f"{file}: class {counts.index(0)} has no sample ({counts.count(0)} of {classes} have "
            "none); fetch the whole list"
        )
    return tuple(path for path, _ in samples), labels


def _sample(place: str, line: str, classes: int) -> tuple[str, int]:
    """Path and label of one line."""
    path, word = (*line.strip().rsplit(maxsplit=1), "")[:2]
    if not word.isascii() or not word.removeprefix("-").isdecimal():
        raise DataError(f"{place}: {line!r} is not a path and a label, as in 'folder/image.jpg 7'")
    if Path(path).is_absolute():
        raise DataError(f"{place}: {path} is absolute; give a path relative to root")
    if not 0 <= int(word) < classes:
        raise DataError(f"{place}: the label is {word}; give one from 0 to {classes - 1}")
    return path, int(word)


def _transform(size: tuple[int, int, int], training: bool) -> Callable[[Image.Image], Tensor]:
    transform: Callable[[Image.Image], Tensor] = create_transform(size, is_training=training)
    return transform
