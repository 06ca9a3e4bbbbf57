"""``fxplastic report``: one HTML file to look at."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fxplastic.commands import options as o
from fxplastic.commands.output import console, print_json
from fxplastic.commands.plan import read_plan, read_scores


def report(
    model: o.Model,
    out: Annotated[Path, typer.Option(metavar="FILE", help="The HTML file to write.")],
    plan: Annotated[
        Path | None, typer.Option(metavar="PLAN", help="A file of fxplastic plan, to be shown.")
    ] = None,
    run: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="A run of fxplastic train, to be shown.")
    ] = None,
    scores: Annotated[
        str | None, typer.Option(help="l1, random, or a safetensors file with scores by group.")
    ] = None,
    title: Annotated[str | None, typer.Option(help="By default the model's name.")] = None,
    weights: o.Weights = None,
    arg: o.Arguments = None,
    shapes: o.Inputs = None,
    attention: o.Attention = None,
    approximate: o.Approximate = False,
    freeze: o.Freeze = None,
    seed: o.Seed = 0,
    json: o.Json = False,
) -> None:
    """Write a report of a model, a plan or a run: one HTML file that needs no network."""
    from fxplastic.reporting import report as make

    subject = o.Subject.of(model, weights, arg, shapes, attention=attention,
                           approximate=approximate, freeze=freeze, seed=seed)  # fmt: skip
    plastic = subject.plastic(real=scores in ("l1", "random"))
    made = make(
        plastic,
        plan=None if plan is None else read_plan(plan),
        scores=None if scores is None else read_scores(plastic, scores, seed),
        run=run,
        title=title or model,
    )
    made.save(out)
    found = o.mapping({"model": model, "file": str(out), "bytes": out.stat().st_size}, "report")
    if json:
        print_json(found)
    else:
        console().print(f"{out}: {found['bytes']:,} bytes", markup=False)
