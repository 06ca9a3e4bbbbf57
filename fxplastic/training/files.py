"""Files that are whole or not there, and disk errors that say what is kept."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from fxplastic.errors import TrainingError


@contextlib.contextmanager
def writing(path: Path, kept: str) -> Iterator[None]:
    """Turn an OSError (a full disk, a missing right) into a TrainingError about `path`.

    Args:
        path: what is being written.
        kept: what is still there, for the message.
    """
    try:
        yield
    except OSError as error:
        raise TrainingError(
            f"{path} could not be written: {error.strerror or error}; {kept}; make room or give "
            "another folder with --out, then go on with --resume"
        ) from error


def replace_file(
    path: Path, write: Callable[[BinaryIO], object], *, before: Callable[[], object] | None = None
) -> None:
    """Write a file beside `path`, bring it to the disk, and put it in the place of `path`.

    Whoever opens `path` finds the old file or the new one, whole, wherever the process is killed
    or the machine loses power.

    Args:
        path: in a folder that exists.
        write: gets the open file.
        before: called when the new file is on the disk, just before it takes its place.

    Raises:
        OSError: the disk's; `path` is as it was, and the temporary file is gone.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        if before is not None:
            before()
        os.replace(temporary, path)  # noqa: PTH105, one name for what may fail
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    _sync_folder(path.parent)


def replace_text(path: Path, text: str) -> None:
    """`replace_file` with UTF-8 text.

    Raises:
        OSError: as for `replace_file`.
    """
    replace_file(path, lambda file: file.write(text.encode("utf-8")))


def _sync_folder(folder: Path) -> None:
    """Bring a folder's entries to the disk, where the system can (Windows cannot)."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
