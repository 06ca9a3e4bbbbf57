"""Rows on disk: one line of JSON per model and run, the last one counts."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from fxplastic.zoo.float64 import Row

PACKAGES = ("torch", "torchvision", "timm", "transformers")


def load(folder: Path) -> dict[str, Row]:
    """The rows of every library, by ``library/name``; later lines replace earlier ones."""
    rows: dict[str, Row] = {}
    for path in sorted(folder.glob("*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            rows[row["model"]] = row
    return rows


def append(folder: Path, row: Row) -> None:
    """Add one row; several processes may do so at once."""
    folder.mkdir(parents=True, exist_ok=True)
    line = json.dumps(row) + "\n"
    file = os.open(_path(folder, row), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(file, line.encode())  # one call: appends of one line do not mix
    finally:
        os.close(file)


def tidy(folder: Path, rows: Iterable[Row]) -> None:
    """Write one line per model, in the order of the names."""
    by_path: dict[Path, list[Row]] = {}
    for row in sorted(rows, key=lambda row: str(row["model"])):
        by_path.setdefault(_path(folder, row), []).append(row)
    for path, some in by_path.items():
        text = "".join(json.dumps(row) + "\n" for row in some)
        partial = path.with_suffix(".partial")
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)


def _path(folder: Path, row: Row) -> Path:
    return folder / f"{row['model'].split('/', 1)[0]}.jsonl"


def origin() -> Row:
    """Commit, versions and machine that a row is made with."""
    versions = {"Python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {"commit": _commit(), "versions": versions, "machine": machine()}


def _commit() -> str:
    """Of the checkout that this package lies in, with ``+`` where something in it was changed."""
    here = Path(__file__).resolve().parent

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(here), *words], capture_output=True, text=True, check=False
        )
        return done.stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "--", "..")
    return git("rev-parse", "--short=10", "HEAD") + ("+" if changed else "") or "unknown"


def machine() -> str:
    """Processor and cores."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{name}, {os.cpu_count()} cores"
