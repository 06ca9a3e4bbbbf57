"""Long-tailed rendered characters: 100 classes that need no download and are hard to tell apart.

Every image has a random generator of its own, from the seed, the split, the class and the image's
number in its class. So a class with fewer images has the first ones of a class with more, and an
imbalance of 10 shares its images with one of 100. Pixels are the same for the same versions of
Pillow, FreeType, NumPy and matplotlib.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import PIL
import torch
from numpy.typing import NDArray
from PIL import features
from tqdm import tqdm

from fxplastic.data.alphabet import alphabet, text_fonts
from fxplastic.data.cache import Arrays, cache_folder, cached
from fxplastic.data.long_tailed import LongTailed
from fxplastic.data.profiles import check_seed, exponential_counts, is_whole
from fxplastic.data.render import SIDE, Difficulty, draw
from fxplastic.data.tensor_set import Augmentation, TensorSet
from fxplastic.errors import DataError

VERSION = 1  # of the drawing code: to be raised with every change that changes a pixel
MEAN, STD = (0.5,), (0.28,)  # about what training images have at the default difficulty
_SPLITS = {"train": 0, "test": 1}
_ORDER = 2018  # seed of the order of classes, which is the same in every data set


def load_characters(
    *,
    root: str | os.PathLike[str] | None = None,
    imbalance: float = 100.0,
    seed: int = 0,
    most: int = 500,
    test: int = 50,
    difficulty: Difficulty | None = None,
) -> LongTailed:
    """Characters of three scripts in 16 fonts, distorted, cluttered and noisy, ``[1, 32, 32]``.

    Which class is frequent has nothing to do with its script: the order of classes is a fixed
    permutation of `fxplastic.data.alphabet.alphabet`. In training, an image is moved by up to 2
    pixels. Drawing takes about a millisecond an image; the result is kept in a file.

    Args:
        root: folder of that file; by default the user's cache folder (`cache_folder`).
        imbalance: samples of class 0 over samples of the last class; at least 1.
        seed: of every image.
        most: training images of class 0.
        test: test images of each class.
        difficulty: how hard it is; ``Difficulty()`` by default.

    Raises:
        DataError: a setting out of range, a folder that cannot be written to, or no matplotlib.
    """
    check_seed(seed)
    if not is_whole(test) or test < 1:
        raise DataError(f"test={test!r}; give a whole number of at least 1")
    names = classes()
    counts = exponential_counts(most, len(names), imbalance)
    wanted = {"train": counts, "test": (test,) * len(names)}
    difficulty = Difficulty() if difficulty is None else difficulty
    arrays = cached(
        cache_folder() if root is None else Path(root),
        "characters",
        _key(names, wanted, seed, difficulty),
        {split: (sum(row), SIDE, SIDE) for split, row in wanted.items()},
        lambda: _draw_all(names, wanted, seed, difficulty),
    )
    train, held_out = (_tensor_set(arrays[split], wanted[split], split) for split in wanted)
    return LongTailed(
        "characters-lt",
        train,
        held_out,
        classes=names,
        counts=counts,
        input_size=(1, SIDE, SIDE),
        labels=train.labels,
    )


def classes() -> tuple[str, ...]:
    """The character of each class."""
    characters = alphabet()
    keys = np.random.PCG64(_ORDER).random_raw(len(characters))
    return tuple(characters[i] for i in np.argsort(keys, kind="stable"))


def image_of(
    character: str, place: tuple[int, int, int, int], difficulty: Difficulty
) -> NDArray[np.uint8]:
    """The image, uint8 ``[32, 32]``, that belongs to (seed, split, class, number in the class)."""
    return draw(character, difficulty, np.random.Generator(np.random.PCG64(place)))


def _draw_all(
    names: Sequence[str], wanted: dict[str, tuple[int, ...]], seed: int, difficulty: Difficulty
) -> Arrays:
    """All images of both splits, class by class."""
    total = sum(sum(counts) for counts in wanted.values())
    result = {}
    with tqdm(total=total, desc="drawing characters", unit="image", disable=None) as bar:
        for split, counts in wanted.items():
            images = np.empty((sum(counts), SIDE, SIDE), dtype=np.uint8)
            places = ((c, i) for c, count in enumerate(counts) for i in range(count))
            for row, (c, i) in enumerate(places):
                images[row] = image_of(names[c], (seed, _SPLITS[split], c, i), difficulty)
                bar.update()
            result[split] = images
    return result


def _key(
    names: Sequence[str],
    wanted: dict[str, tuple[int, ...]],
    seed: int,
    difficulty: Difficulty,
) -> dict[str, object]:
    """Everything that decides a pixel."""
    import matplotlib

    return {
        "code": VERSION,
        "classes": "".join(names),
        "fonts": [path.name for path in text_fonts()],
        "counts": wanted,
        "seed": seed,
        "difficulty": asdict(difficulty),
        "matplotlib": matplotlib.__version__,
        "pillow": PIL.__version__,
        "freetype": features.version("freetype2"),
        "numpy": np.__version__,
    }


def _tensor_set(images: NDArray[np.uint8], counts: Sequence[int], split: str) -> TensorSet:
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    augmentation = Augmentation(2, border="edge") if split == "train" else None
    return TensorSet(torch.from_numpy(images)[:, None], labels, MEAN, STD, augmentation)
