"""The report: one HTML file about a model, a plan and a run, which loads nothing."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from fxplastic.coverage import coverage
from fxplastic.errors import PlanError
from fxplastic.flow import flow
from fxplastic.forecast import Forecast, count_macs, count_parameters, forecast
from fxplastic.module import PlasticModule
from fxplastic.plan import Plan, check_plan
from fxplastic.plastic import require_plastic
from fxplastic.reporting import charts, histogram, lanes
from fxplastic.reporting.frozen_view import frozen_view
from fxplastic.reporting.graph_view import graph_view, reasons_of
from fxplastic.reporting.group_view import Scores, group_rows, panels, read_scores
from fxplastic.reporting.run_files import read_run
from fxplastic.reporting.run_view import RunView, run_view
from fxplastic.reporting.wording import large, number, short_name
from fxplastic.turnover import Turnover


@dataclass(frozen=True)
class Report:
    """A finished report.

    Attributes:
        html: the whole page.
    """

    html: str

    def save(self, path: str | Path) -> Path:
        """Write the page to a file, and return its path.

        Raises:
            OSError: the file cannot be written.
        """
        path = Path(path)
        path.write_text(self.html, encoding="utf-8")
        return path


@dataclass(frozen=True)
class Figure:
    """A figure of the page's head: what it is, its value, and its value after the plan if any."""

    name: str
    value: str
    after: str = ""


def report(
    plastic: PlasticModule,
    *,
    plan: Plan | None = None,
    scores: Scores | None = None,
    turnovers: Sequence[Turnover] | None = None,
    run: str | Path | None = None,
    title: str | None = None,
) -> Report:
    """One HTML page: the network as a graph, its groups, what is frozen and why, and a run.

    Nothing is carried out, and the page loads nothing: it can be mailed and archived. The graph is
    drawn in lanes, as ``git log --graph`` does.

    Args:
        plastic: the module.
        plan: made for it: what it duplicates and prunes is shown, and widths, parameters and
            multiply-accumulates before and after.
        scores: `GradientScores`, or for some groups a tensor ``[size]`` of any dtype, drawn as
            histograms with the plan's choices marked.
        turnovers: `Plasticity.history` or the like; made for this module.
        run: the folder of a run of ``fxplastic train``: its accuracy, and its turnovers unless
            `turnovers` are given.
        title: name of the model, by default that it is plastic.

    Raises:
        PlanError: the plan or a turnover was made for another model, or scores name no group.
        ScoreError: scores have the wrong shape, or there are none yet.
        ReportError: the run's folder has no metrics, or they cannot be read.
        WidthError: the plan's widths cannot be laid out.
        DiscoverError: a node cannot run on meta tensors.

    >>> from torch import nn
    >>> from fxplastic import plasticize
    >>> mlp = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> page = report(plasticize(mlp, torch.zeros(2, 3)), title="An <MLP>").html
    >>> "An &lt;MLP&gt;" in page, "0.weight:0" in page, "http" in page
    (True, True, False)
    """
    require_plastic(plastic, PlanError)
    if plan is not None:
        check_plan(plastic, plan)
    found = read_scores(plastic, scores)
    record = None if run is None else read_run(run)
    made = turnovers if turnovers is not None else () if record is None else record.turnovers
    for turnover in made:
        check_plan(plastic, turnover.plan)
    title = title or "Plastic module"
    return Report(
        _render(
            title=title,
            view=run_view(plastic.groups, tuple(made), record),
            **_model(plastic, plan, found),
        )
    )


def _model(
    plastic: PlasticModule, plan: Plan | None, scores: dict[str, list[float]]
) -> dict[str, Any]:
    """What the page shows of a module and a plan."""
    groups, steps = plastic.groups, flow(plastic)
    reasons = reasons_of(steps, (axis.reason for axis in plastic.frozen))
    wider = forecast(plastic, plan) if plan is not None and not plan.keeps_widths else None
    return {
        "versions": _versions(),
        "figures": _figures(plastic, wider),
        "widths": () if wider is None else tuple(wider.widths.items()),
        "plan": plan,
        "scored": bool(scores),
        "graph": graph_view(steps, tuple(groups), reasons),
        "rows": group_rows(groups, plan, scores),
        "reasons": frozen_view(plastic.frozen, reasons),
        "panels": panels(groups, steps),
    }


def _versions() -> str:
    own = metadata.version("fxplastic")
    return f"fxplastic {own}, torch {torch.__version__}, Python {platform.python_version()}"


def _figures(plastic: PlasticModule, wider: Forecast | None) -> tuple[Figure, ...]:
    reach = coverage(plastic.named_parameters(), plastic.groups)
    neurons = sum(group.size for group in plastic.groups.values())
    counts = (
        ("parameters", (count_parameters(plastic), None) if wider is None else wider.parameters),
        (
            "MACs on example inputs",
            (count_macs(plastic), None) if wider is None else wider.macs,
        ),
    )
    changed = neurons
    if wider is not None:
        changed += sum(new - old for old, new in wider.widths.values())
    return (
        *(Figure(n, large(old), "" if new is None else large(new)) for n, (old, new) in counts),
        Figure("groups", large(len(plastic.groups))),
        Figure("neurons", large(neurons), "" if wider is None else large(changed)),
        Figure("slot coverage", f"{100 * reach.share:.1f} %"),
        Figure("frozen axes", large(len(plastic.frozen))),
    )


def _render(title: str, view: RunView, **model: Any) -> str:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("fxplastic.reporting", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"large": large, "number": number, "short_name": short_name}
    environment.tests["row"] = lambda part: hasattr(part, "node")
    page = environment.get_template("report.html")
    sizes = {"lanes_": lanes, "charts_": charts, "bars_": histogram}
    return page.render(title=title, run=view, **sizes, **model)
