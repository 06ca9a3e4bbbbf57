"""Plots: on axes that are given or made, with what they mark, or an error that says what to do."""

import sys

import pytest
import torch
from matplotlib.figure import Figure
from torch import nn

from fxplastic import Plan, Policy, Turnover, plan_turnover, plasticize
from fxplastic.errors import PlanError, ReportError
from fxplastic.reporting.plots import plot_accuracy, plot_life, plot_scores, plot_widths
from fxplastic.reporting.run_files import Run

NAME = "0.weight:0"


@pytest.fixture(scope="module")
def mlp():
    return plasticize(
        nn.Sequential(nn.Linear(3, 20), nn.ReLU(), nn.Linear(20, 2)), torch.ones(1, 3)
    )


def test_axes_that_are_given_are_drawn_on_and_returned(mlp):
    ax = Figure().add_subplot()
    assert plot_widths(mlp, Plan.random(mlp, grow=0.5), ax) is ax
    assert [bar.get_width() for bar in ax.patches] == [20, 30]


def test_scores_are_marked_where_pruning_ends_and_copying_begins(mlp, tmp_path):
    scores = {NAME: torch.arange(20.0)}
    plan = plan_turnover(mlp, scores, ratio=0.2)
    ax = plot_scores(mlp, scores, NAME, plan)
    edit = plan.edits[NAME]
    copied = [i for i, new in edit.copies.items() if len(new) > 1]
    assert [line.get_xdata()[0] for line in ax.lines] == [max(edit.pruned), min(copied)]
    assert sum(bar.get_height() for bar in ax.patches) == 20
    ax.figure.savefig(tmp_path / "scores.pdf")
    assert (tmp_path / "scores.pdf").stat().st_size > 1000


def test_scores_that_are_missing_or_not_finite_are_refused(mlp):
    with pytest.raises(ReportError, match="there are no scores of group"):
        plot_scores(mlp, {}, NAME)
    with pytest.raises(ReportError, match="is finite"):
        plot_scores(mlp, {NAME: torch.full((20,), torch.nan)}, NAME)


def test_life_shows_founders_and_first_neurons(mlp):
    turnovers = [
        Turnover(e, Plan.random(mlp, turnover=0.25, seed=e), Policy.exact(), 0, 0.0) for e in (3, 6)
    ]
    founders, first = plot_life(mlp, turnovers, NAME).lines
    assert list(founders.get_xdata()) == [0, 3, 6]
    assert founders.get_ydata()[:2].tolist() == [20, 15]
    assert first.get_ydata()[0] == 20
    with pytest.raises(PlanError, match="no turnover changed"):
        plot_life(mlp, [], NAME)


def test_accuracy_has_a_line_per_split_and_turnover(mlp):
    turnover = Turnover(2, Plan.random(mlp, turnover=0.25), Policy.exact(), 0, 0.0)
    splits = {"top1": (1.0, 2.0, 3.0), "few": (None, None, None)}
    run = Run((1, 2, 3), splits, {"0": (1.0, None, 2.0)}, (turnover,))
    ax = plot_accuracy(run, classes=["0"])
    assert [line.get_label() for line in ax.lines[:2]] == ["top1", "class 0"]
    assert list(ax.lines[2].get_xdata()) == [2, 2]
    with pytest.raises(ReportError, match="no class '7' in the run"):
        plot_accuracy(run, classes=["7"])


def test_without_matplotlib_the_error_says_what_to_install(mlp, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ReportError, match=r"pip install \"fxplastic\[train\]\""):
        plot_widths(mlp, Plan.random(mlp))
