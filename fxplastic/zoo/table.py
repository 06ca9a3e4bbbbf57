"""docs/zoo.md, from the rows."""

from __future__ import annotations

from collections.abc import Mapping

from fxplastic.zoo.check import Row


def render(rows: Mapping[str, Row]) -> str:
    """The document."""
    return "\n".join(rows) + "\n"
