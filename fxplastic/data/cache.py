"""Arrays that take a while to compute, kept in a file until something about them changes."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fxplastic.errors import DataError

Arrays = Mapping[str, NDArray[np.uint8]]


def cache_folder() -> Path:
    """``fxplastic/data`` in the user's cache folder: ``$XDG_CACHE_HOME``, or else ``~/.cache``."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "fxplastic" / "data"


def cached(
    folder: Path,
    name: str,
    key: Mapping[str, object],
    shapes: Mapping[str, tuple[int, ...]],
    make: Callable[[], Arrays],
) -> Arrays:
    """The arrays that `make` returns, from a file if there is a good one.

    A file that is damaged, or has other shapes than expected, is made anew. A new file is put in
    place in one step, so that no reader ever sees half of one.

    Args:
        folder: where the file is; made if it is not there.
        name: of the file, in front of a hash of the key.
        key: everything that decides what the arrays hold; of JSON's types.
        shapes: of each array; all are uint8.
        make: computes the arrays.

    Raises:
        DataError: the folder cannot be written to, which is tried before anything is computed.
    """
    words = json.dumps(key, sort_keys=True)
    path = folder / f"{name}-{hashlib.sha256(words.encode()).hexdigest()[:20]}.npz"
    found = _read(path, shapes)
    if found is not None:
        return found
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass  # better to learn now than after minutes that nothing can be written here
        made = make()
        _write(path, made)
    except OSError as error:
        raise DataError(
            f"the cache folder {folder} cannot be written to ({error}); give another one as root"
        ) from error
    return made


def _read(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> Arrays | None:
    """What the file holds, or None where that is not what it should."""
    try:
        # Opened here, because NumPy leaves a damaged file open.
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            found = {name: file[name] for name in shapes}
    except Exception:  # each damaged byte has an error of its own, from any of four libraries
        return None
    good = all(a.dtype == np.uint8 and a.shape == shapes[name] for name, a in found.items())
    return found if good else None


def _write(path: Path, arrays: Arrays) -> None:
    part = path.with_name(f"{path.name}.{uuid.uuid4().hex}.part")
    try:
        with part.open("xb") as target:
            np.savez(target, allow_pickle=False, **arrays)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
