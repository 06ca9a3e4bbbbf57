"""Checkpoints: written atomically, with the one before kept, and read without running code.

A folder holds ``last.pt`` and ``previous.pt``. There is never a moment without a whole
``last.pt`` once the first one is written.
"""

from __future__ import annotations

import os
import pickle
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch

from fxplastic.errors import TrainingError
from fxplastic.training.files import replace_file, writing

LAST = "last.pt"
PREVIOUS = "previous.pt"
FORMAT = "fxplastic.checkpoint"
VERSION = 1


def save(path: Path, state: Mapping[str, Any]) -> None:
    """Write `state`; what was at `path` becomes ``previous.pt`` in the same folder.

    Args:
        path: such as ``runs/a/last.pt``; its folder exists.
        state: tensors, numbers, strings, None, and dicts, lists and tuples of these.

    Raises:
        TrainingError: the file could not be written (a full disk). The checkpoint that was there
            is untouched, and no temporary file is left.
    """
    whole = {"format": FORMAT, "version": VERSION, "state": dict(state)}
    kept = f"the last good checkpoint, {path}, is still there" if path.exists() else ""
    with writing(path, kept or "no checkpoint was written before"):
        replace_file(path, lambda file: _dump(whole, file), before=lambda: _keep(path))


def _dump(whole: Mapping[str, Any], file: BinaryIO) -> None:
    try:
        torch.save(whole, file)
    except RuntimeError as error:  # torch's zip writer reports a failed write so
        cause = error.__context__
        raise cause if isinstance(cause, OSError) else OSError(str(error)) from error


def _keep(path: Path) -> None:
    """Give the checkpoint at `path` a second name, so that it is never without one."""
    if not path.exists():
        return
    link = path.with_name(f".{PREVIOUS}.tmp")
    link.unlink(missing_ok=True)
    try:
        try:
            os.link(path, link)
        except OSError:  # a file system without hard links
            shutil.copy2(path, link)
        link.replace(path.with_name(PREVIOUS))
    finally:  # where both are one file already, replacing does nothing and the link stays
        link.unlink(missing_ok=True)


def load(path: Path) -> dict[str, Any]:
    """What `save` wrote, with every tensor on the CPU.

    Read with ``weights_only=True``: a file from elsewhere cannot run code.

    Raises:
        TrainingError: there is no such file, it is cut off, damaged or not a checkpoint, or it was
            written by another version; the message names the file and the cause.
    """
    try:
        whole = _read(path)
    except FileNotFoundError:
        way = _way_on(path) or "; give the path of one that is there"
        raise TrainingError(f"there is no checkpoint {path}{way}") from None
    except pickle.UnpicklingError as error:  # torch's own text advises to load it unsafely
        raise _unreadable(path, "it holds more than tensors and plain values") from error
    except (OSError, zipfile.BadZipFile, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise _unreadable(path, str(error).split(". ")[0] or type(error).__name__) from error
    if not isinstance(whole, dict) or whole.get("format") != FORMAT:
        raise TrainingError(
            f"{path} is no checkpoint of a training run: it has no format={FORMAT!r}; give a file "
            "that fxplastic train wrote" + _way_on(path)
        )
    version = whole.get("version")
    if version != VERSION:
        raise TrainingError(
            f"checkpoint {path} has format version {version!r}, and this fxplastic reads "
            f"{VERSION}; use the fxplastic that wrote it"
        )
    state: dict[str, Any] = whole["state"]
    return state


def _read(path: Path) -> Any:
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()  # torch.load does not look at the checksums
    if damaged is not None:
        raise zipfile.BadZipFile(f"the checksum of its part {damaged} is wrong")
    return torch.load(path, map_location="cpu", weights_only=True)


def _unreadable(path: Path, cause: str) -> TrainingError:
    return TrainingError(
        f"checkpoint {path} cannot be read ({cause}); it is cut off, damaged, or not a checkpoint"
        + _way_on(path)
    )


def _way_on(path: Path) -> str:
    """How to go on from the checkpoint before, if there is one."""
    previous = path.with_name(PREVIOUS)
    if path.name == PREVIOUS or not previous.exists():
        return ""
    return f"; to go on from the one before, give --resume-from {previous}"
