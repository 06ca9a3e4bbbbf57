"""Plans as text: a versioned JSON object, checked key by key when it is read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fxplastic.edits import Edit, as_floats, as_ints, check_edit
from fxplastic.errors import PlanError

FORMAT = "fxplastic.plan"
VERSION = 1

_TOP = ("format", "version", "source", "target", "notes", "groups")
_GROUP = ("size", "blocks", "take", "share")


@dataclass(frozen=True)
class PlanData:
    """What a plan file holds."""

    source: str
    target: str
    edits: tuple[tuple[str, Edit], ...]
    notes: tuple[str, ...]


def encode(data: PlanData) -> str:
    """JSON text, one line per group; floats are written so that they read back bit for bit."""
    head = {
        "format": FORMAT,
        "version": VERSION,
        "source": data.source,
        "target": data.target,
        "notes": list(data.notes),
    }
    lines = [f"  {json.dumps(key)}: {json.dumps(value)}," for key, value in head.items()]
    groups = [
        f"    {json.dumps(name)}: "
        + json.dumps({key: _plain(getattr(edit, key)) for key in _GROUP}, allow_nan=False)
        for name, edit in data.edits
    ]
    body = "{\n" + ",\n".join(groups) + "\n  }" if groups else "{}"
    return "\n".join(["{", *lines, f'  "groups": {body}', "}"]) + "\n"


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def decode(text: object) -> PlanData:
    """The contents of a plan file.

    Raises:
        PlanError: not JSON, another format, a newer version, or a key that is missing, unknown,
            of the wrong type or out of range; the message names the key and the fix.
    """
    top = _parse(text)
    if top.get("format") != FORMAT:
        raise PlanError(
            f"plan JSON: key 'format' is {top.get('format')!r}, not {FORMAT!r}; "
            "give text that Plan.to_json wrote"
        )
    version = top.get("version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise PlanError(f"plan JSON: key 'version' is {version!r}; it must be a whole number")
    if version > VERSION:
        raise PlanError(
            f"plan JSON: key 'version' is {version}, newer than {VERSION}, which this fxplastic "
            "reads; upgrade fxplastic"
        )
    _check_keys(top, _TOP, "the plan")
    notes = _typed(top, "notes", list, "the plan")
    if not all(isinstance(note, str) for note in notes):
        raise PlanError(f"plan JSON: key 'notes' is {notes!r}; it must be a list of strings")
    groups = _typed(top, "groups", dict, "the plan")
    edits = tuple((name, _edit(name, groups[name])) for name in sorted(groups))
    source, target = (_typed(top, key, str, "the plan") for key in ("source", "target"))
    return PlanData(source, target, edits, tuple(notes))


def _parse(text: object) -> dict[str, Any]:
    if not isinstance(text, str):
        raise PlanError(f"plan JSON must be a str, not {type(text).__name__}; decode it first")
    try:
        top = json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise PlanError(
            f"plan JSON cannot be read: {error}; give the whole text that Plan.to_json wrote"
        ) from None
    if not isinstance(top, dict):
        raise PlanError(f"plan JSON holds a {type(top).__name__}; it must be an object")
    return top


def _refuse_constant(name: str) -> object:
    raise PlanError(f"plan JSON: {name} is not a number; every share must be finite")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise PlanError(f"plan JSON: key {key!r} is given twice; keep one")
        result[key] = value
    return result


def _check_keys(found: Mapping[str, Any], wanted: tuple[str, ...], where: str) -> None:
    for key in wanted:
        if key not in found:
            raise PlanError(f"plan JSON: key {key!r} of {where} is missing; add it")
    for key in found:
        if key not in wanted:
            raise PlanError(
                f"plan JSON: key {key!r} of {where} is unknown; remove it (known: "
                f"{', '.join(wanted)})"
            )


def _typed(found: Mapping[str, Any], key: str, kind: type, where: str) -> Any:
    value = found[key]
    if not isinstance(value, kind) or isinstance(value, bool):
        raise PlanError(
            f"plan JSON: key {key!r} of {where} is {value!r:.80}; it must be a {kind.__name__}"
        )
    return value


def _edit(name: str, found: object) -> Edit:
    where = f"group {name!r}"
    if not isinstance(found, dict):
        raise PlanError(f"plan JSON: {where} is {found!r:.80}; it must be an object")
    _check_keys(found, _GROUP, where)
    edit = Edit(
        take=as_ints(name, _typed(found, "take", list, where)),
        share=as_floats(name, _typed(found, "share", list, where)),
        size=_typed(found, "size", int, where),
        blocks=_typed(found, "blocks", int, where),
    )
    check_edit(name, edit)
    return edit
