"""Pictures of the site, drawn from runs of small models."""

from __future__ import annotations

from pathlib import Path

import timm
import torch


def draw_all(folder: Path) -> None:
    """Draw every picture into `folder`."""
    import matplotlib as mpl

    mpl.use("Agg")
    folder.mkdir(parents=True, exist_ok=True)
    _widths(folder / "budget.svg")


def _widths(path: Path) -> None:
    """Widths of a ResNet before and after a plan for half of its MACs."""
    import matplotlib.pyplot as plt

    import fxplastic

    torch.manual_seed(0)
    plastic = fxplastic.plasticize(timm.create_model("test_resnet"))
    scores = fxplastic.GradientScores(plastic, "l1").values()
    plan = fxplastic.plan_budget(plastic, scores, macs=0.5)
    names = list(plastic.groups)
    before = [plastic.groups[name].size for name in names]
    after = [len(plan.edits[n].take) if n in plan.edits else plastic.groups[n].size for n in names]
    figure, axes = plt.subplots(figsize=(7, 0.32 * len(names) + 1), layout="constrained")
    axes.barh(names, before, color="0.85", edgecolor="0.3", label="before")
    axes.barh(names, after, height=0.45, color="tab:blue", hatch="//", label="after")
    axes.invert_yaxis()
    axes.set_xlabel("neurons")
    axes.legend()
    figure.savefig(path)
    plt.close(figure)
