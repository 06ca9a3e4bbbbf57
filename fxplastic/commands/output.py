"""What commands print: tables for people, JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text


def print_json(value: Any) -> None:
    """One JSON object on standard output."""
    sys.stdout.write(json.dumps(value, indent=2, allow_nan=False) + "\n")


def console() -> Console:
    """Standard output; as wide as a long line needs where it goes to a file or a pipe."""
    found = Console(highlight=False, soft_wrap=False)
    return found if found.is_terminal else Console(highlight=False, width=160)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    """A table; columns whose name starts with ``#`` hold numbers."""
    result = Table(title=Text(title), title_justify="left", header_style="bold")
    for column in columns:
        number = column.startswith("#")
        result.add_column(column.removeprefix("#"), justify="right" if number else "left",
                          overflow="fold", no_wrap=number)  # fmt: skip
    for row in rows:
        result.add_row(*(Text(f"{cell:,}" if isinstance(cell, int) else str(cell)) for cell in row))
    return result


def change(before: int, after: int) -> str:
    """``"1,000 -> 500 (50.0 %)"``."""
    part = f" ({100 * after / before:.1f} %)" if before else ""
    return f"{before:,} -> {after:,}{part}"
