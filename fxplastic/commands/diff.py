"""``fxplastic diff``: how two plans differ."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from fxplastic.commands import options as o
from fxplastic.commands.output import console, print_json, table
from fxplastic.commands.plan import read_plan
from fxplastic.edits import Edit
from fxplastic.plan import Plan

File = Annotated[Path, typer.Argument(metavar="PLAN", help="A file that fxplastic plan wrote.")]


def diff(first: File, second: File, json: o.Json = False) -> None:
    """Compare two plans group by group; the exit status is 0 if they do the same, else 1."""
    found = described(read_plan(first), read_plan(second), (str(first), str(second)))
    if json:
        print_json(found)
    else:
        show(found)
    raise typer.Exit(0 if found["same"] else 1)


def described(first: Plan, second: Plan, names: tuple[str, str]) -> dict[str, Any]:
    """The differences as plain data."""
    left, right = dict(first.edits), dict(second.edits)
    rows = [_row(n, left.get(n), right.get(n)) for n in sorted(left.keys() | right.keys())]
    return o.mapping(
        {
            "plans": list(names),
            "same": first == second,
            "same_model": first.source == second.source,
            "groups": [row for row in rows if row is not None],
        },
        "diff",
    )


def _row(name: str, left: Edit | None, right: Edit | None) -> dict[str, Any] | None:
    """How two edits of a group differ; a group that is not named stays as it is."""
    one, other = left, right
    if one is None and other is not None:
        one = Edit(tuple(range(other.size)), (1.0,) * other.size, other.size, other.blocks)
    if other is None and one is not None:
        other = Edit(tuple(range(one.size)), (1.0,) * one.size, one.size, one.blocks)
    if one is None or other is None or one == other:
        return None
    both = list(zip(one.take, other.take, strict=False))
    shares = list(zip(one.share, other.share, strict=False))
    return {
        "name": name,
        "neurons": [one.size, other.size],
        "after": [len(one.take), len(other.take)],
        "takes": [j for j, (a, b) in enumerate(both) if a != b],
        "shares": [j for j, (a, b) in enumerate(shares) if a != b],
        "pruned": [list(one.pruned), list(other.pruned)],
    }


def show(found: dict[str, Any]) -> None:
    """A table of the groups that differ."""
    out = console()
    if found["same"]:
        out.print("the plans do the same")
        return
    if not found["same_model"]:
        out.print("the plans were made for different models, or for different widths of one")
    rows = [
        (
            group["name"],
            *(f"{n} -> {after}" for n, after in zip(group["neurons"], group["after"], strict=True)),
            _indices(group["takes"]),
            _indices(group["shares"]),
        )
        for group in found["groups"]
    ]
    columns = ("group", "first", "second", "slots with another source", "with another share")
    out.print(table(f"{len(rows)} groups differ", columns, rows))


def _indices(values: list[int]) -> str:
    shown = ", ".join(map(str, values[:8])) + (", ..." if len(values) > 8 else "")
    return f"{len(values)}: {shown}" if values else "none"
