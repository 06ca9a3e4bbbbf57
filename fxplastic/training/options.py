"""What a field of a configuration may hold, and the checks and texts that follow from it.

A field of a dataclass carries an `Option` in its metadata; its type hint says the rest. Files,
flags and help texts are all made from these two, so that no list of names is kept twice.
"""

from __future__ import annotations

import difflib
import math
import tomllib
import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Union, get_args, get_origin

from fxplastic.errors import TrainingError

_WORDS = {str: "a text", int: "a whole number", float: "a number", bool: "true or false"}


@dataclass(frozen=True)
class Option:
    """Help text and bounds of a value.

    Attributes:
        help: a line for ``--help``.
        low: the least value allowed.
        above: a bound that the value must exceed.
        high: the largest value allowed.
        below: a bound that the value must not reach.
    """

    help: str
    low: float | None = None
    above: float | None = None
    high: float | None = None
    below: float | None = None

    def holds(self, value: float) -> bool:
        """Whether `value` is finite and within the bounds."""
        return (
            math.isfinite(value)
            and (self.low is None or value >= self.low)
            and (self.above is None or value > self.above)
            and (self.high is None or value <= self.high)
            and (self.below is None or value < self.below)
        )

    def bounds(self) -> str:
        """The bounds in words; empty where there are none."""
        words = {"at least": self.low, "above": self.above}
        words |= {"at most": self.high, "below": self.below}
        return " and ".join(
            f"{word} {bound:g}" for word, bound in words.items() if bound is not None
        )


@dataclass(frozen=True)
class Kind:
    """A type hint, taken apart: what a value is, from which choices, and whether it may be none."""

    base: type
    choices: tuple[str, ...]
    optional: bool

    @classmethod
    def of(cls, hint: Any) -> Kind:
        """The kind of a field's resolved type hint."""
        optional = get_origin(hint) in (Union, types.UnionType)
        if optional:
            (hint,) = (part for part in get_args(hint) if part is not type(None))
        if get_origin(hint) is Literal:
            return cls(str, get_args(hint), optional)
        return cls(get_origin(hint) or hint, (), optional)


def allowed(kind: Kind, option: Option) -> str:
    """What a value may be, in words.

    >>> allowed(Kind.of(float | None), Option("", above=0, high=0.5))
    'a number above 0 and at most 0.5, or none'
    """
    if kind.choices:
        words = f"one of {', '.join(kind.choices)}"
    elif kind.base is tuple:
        words = "a list of texts"
    elif kind.base not in _WORDS:
        words = "a table, as in {depth = 2}"
    else:
        words = " ".join(filter(None, [_WORDS[kind.base], option.bounds()]))
    return words + (", or none" if kind.optional else "")


def checked(key: str, value: Any, kind: Kind, option: Option, where: str = "") -> Any:
    """`value` as the field's type, or a TrainingError that names key, value, place and remedy.

    Args:
        key: name of the field.
        value: as it came from Python, TOML or JSON.
        kind: from the field's type hint.
        option: from its metadata.
        where: such as a file's name, for the message.
    """
    result = _converted(value, kind)
    number = isinstance(result, int | float) and not isinstance(result, bool)
    if (result is None and not (kind.optional and value is None)) or (
        number and not option.holds(result)
    ):
        place = f"{where}: " if where else ""
        hint = suggestion(value, kind.choices)
        raise TrainingError(f"{place}{key} is {value!r}; give {allowed(kind, option)}{hint}")
    return result


def _converted(value: Any, kind: Kind) -> Any:
    """`value` in the form that the field holds, or None where it is of another type."""
    base = kind.base
    if base is bool or isinstance(value, bool):
        return value if base is bool and isinstance(value, bool) else None
    if base is float:
        return float(value) if isinstance(value, int | float) else None
    if base is tuple:
        texts = isinstance(value, list | tuple) and all(isinstance(v, str) for v in value)
        return tuple(value) if texts else None
    if base in (str, int):
        fits = isinstance(value, base) and (not kind.choices or value in kind.choices)
        return value if fits else None
    named = isinstance(value, Mapping) and all(isinstance(key, str) for key in value)
    return dict(value) if named else None


def parsed(key: str, text: str, kind: Kind, option: Option) -> Any:
    """The value of a flag's text, of the field's type but not yet checked.

    Lists are separated by commas, tables are TOML's inline tables, and ``none`` is no value.
    """
    if kind.optional and text.lower() == "none":
        return None
    if kind.base is str:
        return text
    if kind.base is tuple:
        return [part.strip() for part in text.split(",") if part.strip()]
    try:
        if kind.base in (int, float):
            return kind.base(text)
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, OverflowError):
        raise TrainingError(f"--{flag(key)} is {text!r}; give {allowed(kind, option)}") from None


def flag(key: str) -> str:
    """A field's name as it stands on the command line, without the dashes in front."""
    return key.replace("_", "-")


def suggestion(value: object, known: Iterable[str]) -> str:
    """A closing part of a message that names the closest of `known`, if any is close."""
    close = difflib.get_close_matches(str(value), list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""
