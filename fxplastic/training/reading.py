"""Configurations from TOML or JSON files and from flags, and back to JSON."""

from __future__ import annotations

import argparse
import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fxplastic.errors import TrainingError
from fxplastic.training.config import Config, as_values, options
from fxplastic.training.options import allowed, checked, flag, parsed, suggestion


def read_values(path: Path) -> dict[str, Any]:
    """Keys and checked values of a configuration file.

    Args:
        path: TOML, or JSON where the name ends in ``.json`` (a run's own ``config.json``).

    Raises:
        TrainingError: no such file, not TOML (JSON), an unknown key, or a bad value; the message
            names the file, the key, the value and what is allowed.
    """
    try:
        text = path.read_text(encoding="utf-8")
        values = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except (OSError, ValueError) as error:
        raise TrainingError(f"configuration {path} cannot be read: {error}") from None
    if not isinstance(values, dict):
        raise TrainingError(f"configuration {path} holds a {type(values).__name__}, not keys")
    return {key: _checked(key, value, str(path)) for key, value in values.items()}


def _checked(key: str, value: Any, where: str) -> Any:
    known = options()
    if key not in known:
        raise TrainingError(
            f"{where}: there is no key {key!r}{suggestion(key, known)}; known are "
            f"{', '.join(known)}"
        )
    return checked(key, value, *known[key], where)


def add_flags(parser: argparse._ActionsContainer) -> None:
    """One flag per field of `Config`; those that are not given leave no trace."""
    defaults = as_values(Config())
    for key, (kind, option) in options().items():
        text = f"{option.help} ({allowed(kind, option)}; default: {_shown(defaults[key])})"
        parser.add_argument(
            f"--{flag(key)}",
            dest=key,
            metavar="VALUE",
            default=argparse.SUPPRESS,
            nargs="?" if kind.base is bool else None,
            const="true" if kind.base is bool else None,
            help=text.replace("%", "%%"),  # argparse fills in %-signs of its own
        )


def _shown(value: object) -> str:
    """A default as it would be typed."""
    return str(value).lower() if value is None or isinstance(value, bool) else str(value) or "none"


def from_flags(given: Mapping[str, str], base: Mapping[str, Any]) -> Config:
    """The configuration of `base`, with the values of flags put over it.

    Args:
        given: texts of flags, by field.
        base: checked values, such as a file's.

    Raises:
        TrainingError: a value of the wrong type or out of range.

    >>> from_flags({"lr": "1e-2", "every": "5"}, {"epochs": 12}).lr
    0.01
    """
    known = options()
    values = {
        key: checked(f"--{flag(key)}", parsed(key, text, *known[key]), *known[key])
        for key, text in given.items()
    }
    return Config(**(dict(base) | values))


def as_json(config: Config) -> str:
    """The configuration as JSON text, as it is stored in the run's folder."""
    return json.dumps(as_values(config), indent=2) + "\n"
