"""``fxplastic plan``: make a plan, look at it, and keep it as a file."""

from __future__ import annotations

import json as text
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from fxplastic.budget import plan_budget
from fxplastic.commands import options as o
from fxplastic.commands.output import change, console, print_json, table
from fxplastic.errors import PlanError, ScoreError
from fxplastic.forecast import Forecast, forecast
from fxplastic.module import PlasticModule
from fxplastic.plan import Plan
from fxplastic.planner import plan_turnover
from fxplastic.scores import Criterion, GradientScores
from fxplastic.width_planner import Width, plan_widths

_WITHOUT_GRADIENT: tuple[Criterion, ...] = ("l1", "random")
_KINDS = "--turnover, --width, --parameters or --macs"


def plan(
    model: o.Model,
    turnover: Annotated[
        float | None, typer.Option(help="Part of each block to turn over, at constant width.")
    ] = None,
    width: Annotated[
        list[str] | None,
        typer.Option(metavar="[GROUP=]WIDTH", help="New widths: neurons, or a fraction as in 1.5."),
    ] = None,
    parameters: Annotated[
        str | None, typer.Option(metavar="BUDGET", help="A number, or a fraction as in 0.5.")
    ] = None,
    macs: Annotated[str | None, typer.Option(metavar="BUDGET", help="Likewise.")] = None,
    scores: Annotated[
        str, typer.Option(help="l1, random, or a safetensors file with scores by group.")
    ] = "l1",
    protect: Annotated[
        list[str] | None, typer.Option(metavar="PATTERN", help="Groups to leave alone; repeat it.")
    ] = None,
    multiple_of: Annotated[int, typer.Option(help="Of which changed widths are multiples.")] = 1,
    weights: o.Weights = None,
    arg: o.Arguments = None,
    shapes: o.Inputs = None,
    attention: o.Attention = None,
    approximate: o.Approximate = False,
    freeze: o.Freeze = None,
    seed: o.Seed = 0,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where to keep it, as JSON.")
    ] = None,
    json: o.Json = False,
) -> None:
    """Plan a turnover, other widths, or a network for a budget; nothing is carried out."""
    subject = o.Subject.of(model, weights, arg, shapes, attention=attention,
                           approximate=approximate, freeze=freeze, seed=seed)  # fmt: skip
    given = [turnover is not None, bool(width), parameters is not None, macs is not None]
    if sum(given) != 1:
        raise PlanError(f"{sum(given)} kinds of plan are asked for; give one of {_KINDS}")
    plastic = subject.plastic(real=scores in _WITHOUT_GRADIENT)
    values = read_scores(plastic, scores, seed)
    guarded = tuple(protect or ())
    if turnover is not None:
        made = plan_turnover(plastic, values, turnover, protect=guarded)
    elif width:
        widths = _unprotected(plastic, _widths(width), guarded)
        made = plan_widths(plastic, widths, multiple_of=multiple_of, scores=values, seed=seed)
    else:
        made = plan_budget(
            plastic, values, parameters=_number("--parameters", parameters),
            macs=_number("--macs", macs), multiple_of=multiple_of, protect=guarded, seed=seed,
        )  # fmt: skip
    expected = forecast(plastic, made)
    if out is not None:
        out.write_text(made.to_json(), encoding="utf-8")
    if json:
        print_json(described(made, expected, model))
    else:
        show(made, expected, model, out)


def _unprotected(
    plastic: PlasticModule, widths: Width | dict[str, Width], protect: Sequence[str]
) -> Width | dict[str, Width]:
    """Widths for all groups but the protected ones."""
    from fxplastic.counts import matching

    guarded = {name for p in protect for name in matching(plastic.groups, p, "protect")}
    if not guarded:
        return widths
    wanted = widths if isinstance(widths, dict) else {"*": widths}
    kept = {
        name: size
        for pattern, size in wanted.items()
        for name in matching(plastic.groups, pattern, "width")
    }
    return {name: size for name, size in kept.items() if name not in guarded}


def _number(name: str, value: str | None) -> Width | None:
    """A whole number as an int, a fraction as a float."""
    if value is None:
        return None
    for kind in (int, float):
        try:
            return kind(value.replace("_", ""))
        except ValueError:
            continue
    raise PlanError(f"{name} {value}: give a whole number, or a fraction as in 0.5")


def _widths(given: Sequence[str]) -> Width | dict[str, Width]:
    """``"1.5"`` for all groups, or ``"GROUP=64"`` for some."""
    pairs = [item.rpartition("=") for item in given]
    widths = {name: _number("--width", value) for name, _, value in pairs}
    found = {name: value for name, value in widths.items() if value is not None}
    if "" in found and len(given) > 1:
        raise PlanError("--width is given once for all groups and again; name groups: GROUP=WIDTH")
    return found.get("", found)


def read_scores(plastic: PlasticModule, scores: str, seed: int = 0) -> dict[str, Tensor]:
    """Scores by group, made or read.

    Raises:
        ScoreError: neither a criterion that needs no gradient nor a file of scores.
    """
    for criterion in _WITHOUT_GRADIENT:
        if scores == criterion:
            return dict(GradientScores(plastic, criterion, seed=seed).values())
    path = Path(scores)
    if not path.is_file():
        raise ScoreError(f"--scores {scores}: give l1, random, or a safetensors file that exists")
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return {name: value.to(torch.float64) for name, value in load_file(path).items()}
    except SafetensorError as error:
        raise ScoreError(f"--scores {scores} is no safetensors file: {error}") from error


def read_plan(path: Path) -> Plan:
    """The plan that a file holds.

    Raises:
        PlanError: there is none, or none that can be read.
    """
    if not path.is_file():
        raise PlanError(f"there is no file {path}; make one with: fxplastic plan MODEL --out FILE")
    try:
        return Plan.from_json(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise PlanError(f"{path} is no text: {error}") from error


def rows_of(made: Plan) -> list[dict[str, Any]]:
    """What the plan does to each group that it changes."""
    return [
        {
            "name": name,
            "before": edit.size,
            "after": len(edit.take),
            "copies": sum(len(slots) - 1 for slots in edit.copies.values()),
            "pruned": len(edit.pruned),
        }
        for name, edit in made.edits.items()
        if not edit.identity
    ]


def described(made: Plan, expected: Forecast, model: str) -> dict[str, Any]:
    """A plan and its forecast as plain data."""
    return o.mapping(
        {
            "model": model,
            "preserving": made.preserving,
            "keeps_widths": made.keeps_widths,
            "groups": rows_of(made),
            "parameters": list(expected.parameters),
            "macs": list(expected.macs),
            "notes": list(made.notes),
            "plan": text.loads(made.to_json()),
        },
        "plan",
    )


def show(made: Plan, expected: Forecast, model: str, out: Path | None) -> None:
    """A table of what the plan does, and what comes of it."""
    to = console()
    rows = [tuple(row.values()) for row in rows_of(made)]
    columns = ("group", "#neurons", "#after", "#copies", "#pruned")
    to.print(table(f"{model}: a plan for {len(rows)} groups", columns, rows))
    to.print(f"parameters {change(*expected.parameters)}, MACs {change(*expected.macs)}")
    same = "leaves the function as it was" if made.preserving else "changes the function"
    to.print(f"In exact groups the plan {same}.")
    for note in made.notes:
        to.print(f"note: {note}", markup=False)
    if out is not None:
        to.print(f"kept in {out}", markup=False)
