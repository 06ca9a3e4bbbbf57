"""One way to every data set, by name."""

from __future__ import annotations

import difflib
import os
from pathlib import Path

from fxplastic.data.characters import load_characters
from fxplastic.data.cifar import CifarClasses, load_cifar
from fxplastic.data.digits import load_digits
from fxplastic.data.image_list import LISTINGS, load_listed
from fxplastic.data.long_tailed import LongTailed
from fxplastic.data.profiles import check_imbalance, check_seed
from fxplastic.errors import DataError

IN_MEMORY = ("cifar10-lt", "cifar100-lt", "digits-lt", "characters-lt")
NAMES = (*IN_MEMORY, *LISTINGS)


def load(
    name: str,
    *,
    root: str | os.PathLike[str] | None = None,
    imbalance: float = 100.0,
    seed: int = 0,
    image_size: int | None = None,
    download: bool = False,
) -> LongTailed:
    """A long-tailed data set; everything that can be wrong with it is found here, not in training.

    * ``"cifar10-lt"``, ``"cifar100-lt"``: torchvision's files under `root`, exponential profile;
    * ``"imagenet-lt"``: images of ImageNet under `root`, and beside them the lists
      ``ImageNet_LT_train.txt`` and ``ImageNet_LT_test.txt``;
    * ``"inaturalist2018"``: the same with ``iNaturalist18_train.txt``, ``iNaturalist18_val.txt``;
    * ``"digits-lt"``: scikit-learn's handwritten digits, no files needed;
    * ``"characters-lt"``: 100 rendered characters, kept in a file under `root`, by default in the
      user's cache folder.

    Args:
        name: one of the above.
        root: folder of the files.
        imbalance: samples of the most frequent class over samples of the rarest; at least 1. The
            published lists have their own, and take no other.
        seed: of which samples are kept, or drawn; 0 or more. The published lists have no use for
            it.
        image_size: side of the images from published lists, in pixels, by default 224; the others
            are 32 x 32.
        download: whether torchvision may fetch CIFAR.

    Raises:
        DataError: no such data set, a missing folder, file or library, a malformed line, a label
            out of range, a class without a sample, a setting out of range or of no effect.

    >>> load("digits-lt", imbalance=10).counts
    (134, 103, 80, 62, 48, 37, 28, 22, 17, 13)
    """
    _check(name, imbalance, seed, image_size, download)
    folder = None if root is None else Path(root)
    if name == "digits-lt":
        return load_digits(imbalance=imbalance, seed=seed)
    if name == "characters-lt":
        return load_characters(root=folder, imbalance=imbalance, seed=seed)
    folder = _existing(name, folder, download)
    if name in LISTINGS:
        return load_listed(LISTINGS[name], folder, 224 if image_size is None else image_size)
    classes: CifarClasses = 10 if name == "cifar10-lt" else 100
    return load_cifar(classes, folder, imbalance=imbalance, seed=seed, download=download)


def _check(name: str, imbalance: float, seed: int, image_size: int | None, download: bool) -> None:
    """What can be said about the settings without a file."""
    if name not in NAMES:
        close = difflib.get_close_matches(str(name), NAMES, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        raise DataError(f"there is no data set {name!r}, only {', '.join(NAMES)}{hint}")
    check_imbalance(imbalance)
    check_seed(seed)
    if name in LISTINGS and imbalance != 100.0:
        raise DataError(
            f"imbalance={imbalance!r} with {name!r}, whose lists have their own; leave it out"
        )
    if name in IN_MEMORY and image_size not in (None, 32):
        raise DataError(
            f"image_size={image_size!r} with {name!r}, whose images are 32 x 32; leave it out, or "
            "resize batches where you train"
        )
    if download and not name.startswith("cifar"):
        raise DataError(f"download=True with {name!r}, which cannot be downloaded; leave it out")


def _existing(name: str, root: Path | None, download: bool) -> Path:
    """The folder of a data set's files, which is there, or may be made by a download."""
    if root is None:
        raise DataError(f"{name!r} is read from files; give their folder as root")
    if not root.is_dir() and not download:
        raise DataError(f"root={str(root)!r} is not a folder; {name!r} is read from files in it")
    return root
