"""The files of a saved folder: written whole or not at all, and checked before they are read."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from fxplastic.errors import SaveError
from fxplastic.models import MANIFEST

FORMAT, VERSION = "fxplastic.model", (1, 0)
MODEL, BUFFERS, OPTIMIZER, PLANS = (
    "model.safetensors", "buffers.safetensors", "optimizer.safetensors", "plans.jsonl",
)  # fmt: skip


KEYS = (
    "model options inputs groups fingerprints training fixed channels_last extra optimizer files"
).split()
"""What every manifest has."""


def write_folder(folder: Path, fill: Callable[[Path], Mapping[str, Any]], overwrite: bool) -> None:
    """Fill a temporary folder beside `folder`, then give it its name.

    Args:
        folder: the final name.
        fill: writes the files into the folder that it is given; returns the manifest.
        overwrite: whether an older folder makes way, once the new one is complete.

    Raises:
        SaveError: the folder exists, and is not to be overwritten or is no saved one.
    """
    _check_target(folder, overwrite)
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(
        tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".partial", dir=folder.parent)
    )
    old = partial.with_suffix(".old")
    try:
        manifest = dict(fill(partial))
        names = sorted(path.name for path in partial.iterdir())
        manifest["files"] = {name: _sha256(partial / name) for name in names}
        manifest["digest"] = _digest(manifest)
        text = json.dumps(manifest, indent=2, allow_nan=False)
        (partial / MANIFEST).write_text(text + "\n", encoding="utf-8")
        _open_up(partial, (partial / MANIFEST).stat().st_mode & 0o777)
        for path in (*partial.iterdir(), partial):
            _sync(path)
        if folder.exists():
            folder.rename(old)
        try:
            partial.rename(folder)
        except OSError:
            if old.exists():
                old.rename(folder)
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        if folder.exists():
            shutil.rmtree(old, ignore_errors=True)
    _sync(folder.parent)


def _open_up(folder: Path, mode: int) -> None:
    """Give a folder, and the files in it, the rights that the user's files have.

    Temporary folders, and what safetensors writes, are for their owner alone.
    """
    for path in folder.iterdir():
        path.chmod(mode)
    folder.chmod(mode | (mode & 0o444) >> 2)


def _check_target(folder: Path, overwrite: bool) -> None:
    if not folder.exists():
        return
    if not overwrite:
        raise SaveError(f"{folder} exists; give another name, or overwrite=True")
    if not (folder / MANIFEST).is_file():
        raise SaveError(
            f"{folder} exists and is no folder that fxplastic.save wrote (it has no {MANIFEST}): "
            "it is not overwritten; give another name"
        )


def _sync(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(manifest: Mapping[str, Any]) -> str:
    """SHA-256 over a manifest without its own digest."""
    rest = {key: value for key, value in manifest.items() if key != "digest"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a folder, after every file was checked.

    Raises:
        SaveError: there is none, it is of a newer version, or a file is missing or was changed.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SaveError(
            f"{path} cannot be read ({error.strerror}); give a folder that fxplastic.save wrote"
        ) from error
    except ValueError as error:
        raise SaveError(f"{path} is damaged: {error}; {_AGAIN}") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise SaveError(f"{path} is no manifest of fxplastic.save (its format is not {FORMAT!r})")
    _check_version(path, manifest.get("version"))
    if manifest.get("digest") != _digest(manifest):
        raise SaveError(f"{path} is damaged: its SHA-256 is not the one in it; {_AGAIN}")
    missing = [key for key in KEYS if key not in manifest]
    if missing:
        raise SaveError(f"{path} has no key {missing[0]!r}; {_AGAIN}")
    for name, digest in manifest["files"].items():
        file = folder / name
        if Path(name).name != name or not file.is_file():
            raise SaveError(f"{file} is missing; {_AGAIN}")
        if _sha256(file) != digest:
            raise SaveError(
                f"{file} is damaged (cut off, or a byte is another): its SHA-256 is not the one "
                f"that {MANIFEST} names; {_AGAIN}"
            )
    return manifest


_AGAIN = "copy the folder again from where it was saved"


def _check_version(path: Path, version: object) -> None:
    major, _, minor = version.partition(".") if isinstance(version, str) else ("", "", "")
    if not (major.isdigit() and minor.isdigit()):
        raise SaveError(f"{path}: its version is {version!r}, not as in 1.0; {_AGAIN}")
    if int(major) > VERSION[0]:
        raise SaveError(
            f"{path} is of version {version}, and this fxplastic reads {VERSION[0]}.x; upgrade "
            "fxplastic"
        )


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Tensors as safetensors; those that share memory are written as copies."""
    from safetensors.torch import save_file

    seen: set[int] = set()
    own: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        value = tensor.detach().cpu().contiguous()
        memory = value.untyped_storage()
        own[name] = value.clone() if memory.data_ptr() in seen else value
        seen.add(memory.data_ptr())
    save_file(own, path)


def read_tensors(path: Path, device: str = "cpu") -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        SaveError: it is none, whatever its name.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path, device=device)
    except (SafetensorError, OSError) as error:
        raise SaveError(
            f"{path} is no safetensors file ({error}); nothing else is read in its place, a pickle "
            "least of all, as that would run code"
        ) from error
