"""``fxplastic schema``: the JSON schema of a command's ``--json`` output."""

from __future__ import annotations

import json
from importlib import resources
from typing import Annotated, Any

import typer

from fxplastic.commands.output import print_json
from fxplastic.errors import FxPlasticError

NAMES = ("groups", "plan", "explain", "rewrite", "diff", "report", "zoo", "train")


def schema(
    command: Annotated[str, typer.Argument(metavar="COMMAND", help=f"One of {', '.join(NAMES)}.")],
) -> None:
    """Print the JSON schema of what a command prints with --json."""
    print_json(schema_of(command))


def schema_of(command: str) -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of a command's output.

    Raises:
        FxPlasticError: there is no such command.

    >>> schema_of("diff")["properties"]["format"]
    {'const': 'fxplastic.diff'}
    """
    if command not in NAMES:
        raise FxPlasticError(f"no command {command!r} prints JSON; these do: {', '.join(NAMES)}")
    file = resources.files("fxplastic.commands").joinpath("schemas", f"{command}.json")
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found
