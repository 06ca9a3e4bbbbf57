"""``fxplastic rewrite``: carry a plan out and keep the result."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from fxplastic.commands import options as o
from fxplastic.commands.output import change, console, print_json
from fxplastic.commands.plan import read_plan
from fxplastic.errors import RewriteError
from fxplastic.forecast import count_parameters
from fxplastic.models import find_model
from fxplastic.module import PlasticModule
from fxplastic.plan import Plan
from fxplastic.rewrite import rewrite as rewritten
from fxplastic.trial import Trial, distance

TOLERANCE = 1e-9


def rewrite(
    model: o.Model,
    plan: Annotated[Path, typer.Argument(metavar="PLAN", help="A file of fxplastic plan.")],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where to save the result.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the folder.")] = False,
    check: Annotated[
        bool,
        typer.Option("--check", help="Compare outputs before and after in float64; exit 1, and "
                     "save nothing, if a plan changes what it should leave as it was."),
    ] = False,
    weights: o.Weights = None,
    arg: o.Arguments = None,
    shapes: o.Inputs = None,
    attention: o.Attention = None,
    approximate: o.Approximate = False,
    freeze: o.Freeze = None,
    seed: o.Seed = 0,
    json: o.Json = False,
) -> None:  # fmt: skip
    """Carry a plan out on a model and save the result (see fxplastic.save)."""
    from fxplastic.saving import save

    subject = o.Subject.of(model, weights, arg, shapes, attention=attention,
                           approximate=approximate, freeze=freeze, seed=seed)  # fmt: skip
    wanted = read_plan(plan)
    if out.exists() and not overwrite:
        raise RewriteError(f"--out {out} exists; give another folder, or --overwrite")
    plastic = subject.plastic(real=True)
    result = rewritten(plastic, wanted).module
    error = compared(plastic, wanted, seed) if check else None
    expected = wanted.preserving and all(plastic.groups[n].exact for n in wanted.edits)
    wrong = expected and error is not None and not error <= TOLERANCE
    if not wrong:
        save(out, result, overwrite=overwrite, **_identity(subject))
    found = o.mapping(
        {
            "model": model,
            "folder": None if wrong else str(out),
            "parameters": [count_parameters(plastic), count_parameters(result)],
            "preserving": expected,
            "error": error,
            "weights": None if weights is None else str(weights),
        },
        "rewrite",
    )
    if json:
        print_json(found)
    else:
        _show(found)
    raise typer.Exit(int(wrong))


def _identity(subject: o.Subject) -> dict[str, Any]:
    """How the model is built again when the folder is loaded."""
    if find_model(subject.model).kind == "saved":
        from fxplastic.saving import load

        kept = load(subject.model, optimizer=False)
        return {"model": kept.model, "arguments": kept.arguments}
    return {"model": subject.model, "arguments": subject.builder_arguments()}


def compared(plastic: PlasticModule, plan: Plan, seed: int) -> float:
    """Largest difference of eval outputs that a plan makes, relative to the largest output.

    In float64, on drawn inputs, on a copy whose constant parameters were spread (see
    `fxplastic.trial`), as exactness belongs to the structure and not to the weights.
    """
    trial = Trial.of(plastic, plastic.traced.args, plastic.traced.kwargs, seed)
    after = rewritten(trial.module, plan).module
    return distance(*(trial.outputs(m, training=False) for m in (after, trial.module)))


def _show(found: dict[str, Any]) -> None:
    out = console()
    kept = f"saved in {found['folder']}" if found["folder"] else "not saved: it is wrong"
    out.print(f"parameters {change(*found['parameters'])}; {kept}", markup=False)
    if found["weights"] is None:
        out.print("no --weights were given: these are the model's own, drawn from --seed or saved")
    if found["error"] is not None:
        out.print(f"largest difference of outputs, float64, relative: {found['error']:.1e}")
