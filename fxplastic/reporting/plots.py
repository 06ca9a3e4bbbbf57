"""Plots for papers, by matplotlib: widths, scores, the life of neurons, accuracy over a run.

Every function draws on `ax`, or on a new figure of its own (``ax.figure``), and returns the axes.
Lines and bars differ in dashes and hatching, not in colour alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fxplastic.errors import PlanError, ReportError
from fxplastic.forecast import forecast
from fxplastic.module import PlasticModule
from fxplastic.plan import Plan, check_plan
from fxplastic.plastic import Plastic, check_name
from fxplastic.reporting.group_view import Scores, read_scores
from fxplastic.reporting.life import changes_of, life_of
from fxplastic.reporting.run_files import Run, read_run
from fxplastic.reporting.wording import short_name
from fxplastic.turnover import Turnover

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STYLES = ("-", "--", ":", "-.")


def _axes(ax: Axes | None, size: tuple[float, float]) -> Axes:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ReportError(
            'plots need matplotlib, which cannot be imported; pip install "fxplastic[train]"'
        ) from error
    return Figure(figsize=size, layout="constrained").add_subplot() if ax is None else ax


def plot_widths(plastic: PlasticModule, plan: Plan, ax: Axes | None = None) -> Axes:
    """Bars of every group's width before and after a plan.

    Args:
        plastic: the module.
        plan: made for it.
        ax: where to draw.

    Raises:
        PlanError: the plan was made for another model.
        WidthError: its widths cannot be laid out.
        ReportError: matplotlib is missing.

    >>> import torch
    >>> from torch import nn
    >>> from fxplastic import plan_widths, plasticize
    >>> mlp = nn.Sequential(nn.Linear(3, 20), nn.ReLU(), nn.Linear(20, 2))
    >>> plastic = plasticize(mlp, torch.zeros(1, 3))
    >>> ax = plot_widths(plastic, plan_widths(plastic, 1.5))
    >>> [int(bar.get_width()) for bar in ax.patches]
    [20, 30]
    """
    changed = forecast(plastic, plan).widths
    before = {name: group.size for name, group in plastic.groups.items()}
    after = {name: changed.get(name, (size, size))[1] for name, size in before.items()}
    ax = _axes(ax, (6, 1 + 0.3 * len(before)))
    places = range(len(before))
    bottom, top = [p - 0.2 for p in places], [p + 0.2 for p in places]
    ax.barh(bottom, [float(n) for n in before.values()], 0.38, label="before", color="0.75")
    ax.barh(top, [float(n) for n in after.values()], 0.38, label="after", color="C0", hatch="//")
    ax.set_yticks(list(places), [short_name(name, 32) for name in before])
    ax.invert_yaxis()
    ax.set_xlabel("neurons")
    ax.legend()
    return ax


def plot_scores(
    plastic: Plastic, scores: Scores, group: str, plan: Plan | None = None, ax: Axes | None = None
) -> Axes:
    """The histogram of one group's scores, with lines where pruning ends and copying begins.

    Args:
        plastic: the module.
        scores: as for `fxplastic.report`.
        group: name of the group.
        plan: whose choices are marked: the greatest score pruned, and the least duplicated.
        ax: where to draw.

    Raises:
        PlanError: there is no such group, or the plan was made for another model.
        ScoreError: scores have the wrong shape, or there are none for the group.
        ReportError: no score is finite, or matplotlib is missing.
    """
    check_name(plastic.groups, group)
    rows = read_scores(plastic, scores)
    if group not in rows:
        raise ReportError(f"there are no scores of group {group!r}; score it, or name another one")
    row = rows[group]
    finite = [score for score in row if math.isfinite(score)]
    if not finite:
        raise ReportError(f"no score of group {group!r} is finite; score more batches")
    ax = _axes(ax, (5, 3))
    ax.hist(finite, bins=min(40, max(10, len(finite) // 8)), color="0.75", edgecolor="0.4")
    if plan is not None:
        check_plan(plastic, plan)
        if group in plan.edits:
            changes = changes_of(plan.edits[group])
            pruned, copied = ([row[i] for i in c] for c in (changes.pruned, changes.duplicated))
            for chosen, pick, what, style in (
                (pruned, max, "pruned up to here", "--"),
                (copied, min, "duplicated from here", "-"),
            ):
                known = [score for score in chosen if math.isfinite(score)]
                if known:
                    ax.axvline(pick(known), color="k", linestyle=style, label=what)
            if ax.get_legend_handles_labels()[0]:
                ax.legend()
    ax.set(xlabel="score", ylabel="neurons", title=short_name(group))
    return ax


def plot_life(
    plastic: Plastic, turnovers: Sequence[Turnover], group: str, ax: Axes | None = None
) -> Axes:
    """How many neurons of a group are old, and how many founders have descendants, over turnovers.

    Args:
        plastic: the module.
        turnovers: in the order in which they were made.
        group: name of the group.
        ax: where to draw.

    Raises:
        PlanError: there is no such group, or no turnover changed it.
        ReportError: matplotlib is missing.
    """
    size = check_name(plastic.groups, group).size
    for turnover in turnovers:
        check_plan(plastic, turnover.plan)
    life = life_of(group, size, turnovers)
    if len(life) == 1:
        raise PlanError(f"no turnover changed group {group!r}; name one that was turned over")
    ax = _axes(ax, (5, 3))
    epochs = [generation.epoch for generation in life]
    for style, (what, values) in zip(
        STYLES,
        (
            ("founders with descendants", [g.alive for g in life]),
            ("neurons from the beginning", [g.originals for g in life]),
        ),
        strict=False,
    ):
        ax.step(epochs, values, where="post", linestyle=style, marker="o", label=what)
    ax.set(xlabel="epoch", ylabel="neurons", ylim=(0, size * 1.05), title=short_name(group))
    ax.legend()
    return ax


def plot_accuracy(
    run: Run | str | Path, ax: Axes | None = None, *, classes: Sequence[str] = ()
) -> Axes:
    """Accuracy over the epochs of a run, with an upright line at every turnover.

    Args:
        run: its folder, or what `read_run` made of it.
        ax: where to draw.
        classes: classes to draw beside the splits, by number as text.

    Raises:
        ReportError: the folder has no metrics, there is no such class, or matplotlib is missing.
    """
    run = run if isinstance(run, Run) else read_run(run)
    unknown = [name for name in classes if name not in run.classes]
    if unknown:
        raise ReportError(
            f"there is no class {unknown[0]!r} in the run, which has {len(run.classes)}; give "
            'numbers as text, such as "0"'
        )
    ax = _axes(ax, (6, 3.5))
    series = {**run.splits, **{f"class {name}": run.classes[name] for name in classes}}
    for i, (name, row) in enumerate(series.items()):
        values = [math.nan if value is None else value for value in row]
        if any(map(math.isfinite, values)):
            ax.plot(run.epochs, values, STYLES[i % len(STYLES)], label=name)
    for turnover in run.turnovers:
        ax.axvline(turnover.epoch, color="0.6", linewidth=0.8)
    ax.set(xlabel="epoch", ylabel="accuracy in percent")
    ax.legend()
    return ax
