"""``fxplastic explain``: why an axis of a parameter is plastic or frozen."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from fxplastic.commands import options as o
from fxplastic.commands.output import console, print_json
from fxplastic.explain import Explanation, Part
from fxplastic.explain import explain as explain_axes


def explain(
    model: o.Model,
    parameter: Annotated[
        str, typer.Argument(metavar="PARAMETER", help="Its name, as in layer1.0.conv1.weight.")
    ],
    axis: Annotated[int | None, typer.Option(help="One axis; all of them by default.")] = None,
    weights: o.Weights = None,
    arg: o.Arguments = None,
    shapes: o.Inputs = None,
    attention: o.Attention = None,
    approximate: o.Approximate = False,
    freeze: o.Freeze = None,
    json: o.Json = False,
) -> None:
    """Say why the axes of a parameter are plastic or frozen, op by op, with source lines."""
    subject = o.Subject.of(
        model, weights, arg, shapes, attention=attention, approximate=approximate, freeze=freeze
    )
    found = explain_axes(subject.plastic(), parameter, axis)
    if json:
        print_json(described(found, model))
        return
    out = console()
    for one in found:
        show(one, out)


def described(found: tuple[Explanation, ...], model: str) -> dict[str, Any]:
    """Explanations as plain data."""
    return o.mapping({"model": model, "axes": [_plain(asdict(one)) for one in found]}, "explain")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(v) for key, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, (list, tuple)) else value


def show(found: Explanation, out: Console) -> None:
    """One axis: each fate of its neurons, and the ops on their way."""
    out.print(f"{found.parameter}, axis {found.axis} ({found.size} positions)", style="bold")
    for part in found.parts:
        out.print(_fate(part), markup=False, soft_wrap=True)
        for link in part.way:
            shape = "x".join(map(str, link.shape)) if link.shape else ""
            reads = f" [{', '.join(link.axes)}]" if link.axes else ""
            out.print(f"  {link.does:>9}  {link.op} {shape}{reads}", markup=False, soft_wrap=True)
            place = ", ".join(text for text in (link.module, _short(link.source)) if text)
            if place:
                out.print(f"             {place}", style="dim", markup=False, soft_wrap=True)
    out.print()


def _short(source: str) -> str:
    """A source line's place without the folders that every file of an installation shares."""
    here = f"{Path.cwd()}/"
    return source.rpartition("site-packages/")[2].removeprefix(here)


def _fate(part: Part) -> str:
    many = f"{part.neurons} neurons"
    if part.group is not None:
        return f"  {many}: plastic, in group {part.group}"
    where = f"; decided at {part.node}" if part.node else ""
    source = f", {_short(part.source)}" if part.source else ""
    mode = " (in training mode)" if part.training else ""
    return f"  {many if part.neurons else 'no neurons'}: frozen: {part.reason}{where}{source}{mode}"
