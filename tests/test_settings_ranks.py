"""Processes that differ, fail or are gone end in an error on all of them, and nothing changes.

Gloo on the CPU, float64; weights after going on from a checkpoint are compared to 1e-10, as sums in
another order are carried on from step to step.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import fxplastic
from fxplastic import Plan, Plasticity, Schedule, changes
from fxplastic.distributed import Ranks
from fxplastic.errors import PlanError
from tests import ranks as world
from tests.ranks import (
    batch,
    controller,
    error_of,
    furthest,
    optimizer_of,
    plastic_model,
    train_epoch,
    weights,
)

AREA = "Several processes"
TOLERANCE = 1e-10
shows = pytest.mark.setting


# ------------------------------------------------------------------ ranks that differ
Told = dict[str, str]


def differ(rank: int, size: int, folder: Path) -> Told:
    """What a rank is told, case by case, where rank 1 does something else; nothing changes."""
    plastic = plastic_model()
    optimizer = optimizer_of(plastic)
    plasticity = controller(plastic, optimizer)
    model = DistributedDataParallel(plastic)
    train_epoch(model, optimizer, plasticity, rank, size)
    odd = rank == 1
    told = {}
    for name, case in CASES.items():
        before = weights(plastic), len(fxplastic.history(plastic))
        told[name] = error_of(lambda case=case: case(plastic, optimizer, odd))
        assert (furthest(weights(plastic), before[0]), len(fxplastic.history(plastic))) == (
            0.0,
            before[1],
        ), name
    turnover = train_epoch(model, optimizer, plasticity, rank, size)  # they can still go on
    told["afterwards"] = "" if turnover else "no turnover"
    return told


def other_model(plastic: Any, optimizer: Any, odd: bool) -> None:
    found = plastic_model("test_vit" if odd else "test_convnext")
    controller(found, optimizer_of(found))


def other_weights(plastic: Any, optimizer: Any, odd: bool) -> None:
    found = plastic_model(seed=int(odd))
    controller(found, optimizer_of(found))


def other_settings(plastic: Any, optimizer: Any, odd: bool) -> None:
    controller(plastic, optimizer, ratio=0.2 if odd else 0.3)


def other_schedule(plastic: Any, optimizer: Any, odd: bool) -> None:
    controller(plastic, optimizer, schedule=Schedule(every=2 if odd else 1))


def refused_settings(plastic: Any, optimizer: Any, odd: bool) -> None:
    controller(plastic, optimizer, protect=("*",) if odd else ())


def other_step(plastic: Any, optimizer: Any, odd: bool) -> None:
    plasticity = controller(plastic, optimizer)
    for _ in range(2 if odd else 1):
        plasticity.after_backward()
    plasticity.end_epoch()


def no_scores(plastic: Any, optimizer: Any, odd: bool) -> None:
    plasticity = controller(plastic, optimizer)
    if not odd:
        plasticity.after_backward()
    plasticity.end_epoch()


def tampered_plan(plastic: Any, optimizer: Any, odd: bool) -> None:
    plasticity = controller(plastic, optimizer)
    plasticity.after_backward()
    decide = plasticity._together.decide

    def tampered(make: Any) -> Any:
        plan, memory = decide(make)
        return (Plan.random(plastic, turnover=0.3, seed=8) if odd else plan), memory

    object.__setattr__(plasticity._together, "decide", tampered)
    plasticity.end_epoch()


def plan_by_hand(plastic: Any, optimizer: Any, odd: bool) -> None:
    Ranks().rewrite_(plastic, Plan.random(plastic, turnover=0.3, seed=int(odd)), optimizer)


def width_plan_by_hand(plastic: Any, optimizer: Any, odd: bool) -> None:
    Ranks().rewrite(plastic, fxplastic.plan_widths(plastic, 1.5 if odd else 1.25), optimizer)


def first_cannot_plan(plastic: Any, optimizer: Any, odd: bool) -> None:
    def fail() -> None:
        raise PlanError("no plan today")

    Ranks().decide(fail)


def first_has_a_bug(plastic: Any, optimizer: Any, odd: bool) -> None:
    Ranks().decide(lambda: 1 // 0)


def failing_at(where: str) -> Callable[[Any, Any, bool], None]:
    def case(plastic: Any, optimizer: Any, odd: bool) -> None:
        def fail(name: str) -> None:
            if odd and name.startswith(where):
                raise RuntimeError("no memory left")

        kept, changes.step = changes.step, fail
        try:
            Ranks().rewrite_(plastic, Plan.random(plastic, turnover=0.3, seed=1), optimizer)
        finally:
            changes.step = kept

    return case


CASES: dict[str, Callable[[Any, Any, bool], None]] = {
    "other model": other_model,
    "other weights": other_weights,
    "other settings": other_settings,
    "other schedule": other_schedule,
    "refused settings": refused_settings,
    "other step": other_step,
    "no scores": no_scores,
    "tampered plan": tampered_plan,
    "plan by hand": plan_by_hand,
    "width plan by hand": width_plan_by_hand,
    "first cannot plan": first_cannot_plan,
    "first has a bug": first_has_a_bug,
    "fails before writing": failing_at("make "),
    "fails while writing": failing_at("write "),
    "fails at the end": failing_at("finish"),
}
# What rank 0 and rank 1 are told.
TOLD = {
    "other model": ("RankError: the ranks differ: channel groups is", None),
    "other weights": ("RankError: the ranks differ: mean magnitude of the weights is", None),
    "other settings": ("RankError: the ranks differ: settings is", None),
    "other schedule": ("RankError: the ranks differ: schedule is Schedule(every=1", None),
    "refused settings": ("RankError: rank 1: PlanError: no group would ever", "PlanError: no g"),
    "other step": (
        "RankError: the ranks differ: number of scored batches is 1 on rank 0, 2 on rank 1",
        None,
    ),
    "no scores": ("RankError: rank 1: ScoreError: no gradient has been scored", "ScoreError: no"),
    "tampered plan": ("RankError: the ranks differ: plan is", None),
    "plan by hand": ("RankError: the ranks differ: plan is", None),
    "width plan by hand": ("RankError: the ranks differ: plan is", None),
    "first cannot plan": ("PlanError: no plan today", None),
    "first has a bug": ("ZeroDivisionError: ", "RankError: rank 0 stopped: ZeroDivisionError: "),
    "fails before writing": ("RankError: rank 1: RuntimeError: no memory left", "RuntimeError: no"),
    "fails while writing": ("RankError: rank 1: RuntimeError: no memory left", "RuntimeError: no"),
    "fails at the end": ("RankError: rank 1: RuntimeError: no memory left", "RuntimeError: no"),
    "afterwards": ("", None),
}


@shows(AREA, "ranks that differ in model, weights, settings, step or plan", "refused")
@shows(AREA, "a rank that fails before, in or after writing", "refused")
def test_ranks_that_differ_stop_with_an_error_on_every_rank_and_nothing_changes(tmp_path: Path):
    first, odd = world.together(differ, 2, tmp_path)
    assert first.keys() == TOLD.keys()
    for name, (of_first, of_odd) in TOLD.items():
        assert first[name].startswith(of_first), (name, first[name])
        assert odd[name].startswith(of_first if of_odd is None else of_odd), (name, odd[name])
        assert bool(first[name]) == bool(of_first)


# ------------------------------------------------------------------ ranks that are gone
def checkpointed(plastic: Any, optimizer: Any, plasticity: Plasticity) -> dict[str, Any]:
    return {
        "model": weights(plastic),
        "optimizer": optimizer.state_dict(),
        "plasticity": plasticity.state_dict(),
    }


def killed(where: str, rank: int, size: int, folder: Path) -> dict[str, Any]:
    """Rank 1 is killed in its second turnover."""
    plastic = plastic_model()
    optimizer = optimizer_of(plastic)
    plasticity = controller(plastic, optimizer, ranks=Ranks(limit=20.0))
    model = DistributedDataParallel(plastic)
    train_epoch(model, optimizer, plasticity, rank, size)
    if rank == 0:
        torch.save(checkpointed(plastic, optimizer, plasticity), folder / "checkpoint.pt")

    def die(name: str) -> None:
        if rank == 1 and name.startswith(where):
            os._exit(9)

    changes.step = die
    for step in range(2):
        x, y = batch(2, step, rank, size)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        plasticity.after_backward()
        optimizer.step()
    before, began = weights(plastic), time.monotonic()
    told = error_of(plasticity.end_epoch)
    seconds = time.monotonic() - began
    history = len(fxplastic.history(plastic)), len(plasticity.history)
    return {
        "told": told,
        "seconds": seconds,
        "moved": furthest(before, weights(plastic)),
        "history": history,
    }


def killed_while_making(rank: int, size: int, folder: Path) -> dict[str, Any]:
    return killed("make ", rank, size, folder)


def killed_while_writing(rank: int, size: int, folder: Path) -> dict[str, Any]:
    return killed("write ", rank, size, folder)


@shows(AREA, "a rank that is killed in a turnover; the last checkpoint goes on", "refused")
@pytest.mark.parametrize("worker", [killed_while_making, killed_while_writing])
def test_a_rank_killed_in_a_turnover_ends_in_an_error_on_the_others(
    worker: world.Worker, tmp_path: Path
):
    first, gone, third = world.together(worker, 3, tmp_path)
    assert gone is None
    for each in (first, third):
        assert each["told"].startswith("RankError: another process did not")
        assert "last checkpoint" in each["told"]
        assert each["seconds"] < 25.0
        assert each["moved"] == 0.0
        assert each["history"] == (1, 1)
    went_on = resumed(tmp_path / "checkpoint.pt")
    straight = plastic_model()
    optimizer = optimizer_of(straight)
    plasticity = controller(straight, optimizer)
    for _ in range(2):
        train_epoch(straight, optimizer, plasticity)
    assert [t.plan for t in went_on[1].history] == [t.plan for t in plasticity.history]
    assert furthest(weights(went_on[0]), weights(straight)) < TOLERANCE


def resumed(path: Path) -> tuple[fxplastic.PlasticModule, Plasticity]:
    """The next epoch, in one process, from what rank 0 of several had stored."""
    kept = torch.load(path, weights_only=True)
    plastic = plastic_model(seed=1)
    plastic.load_state_dict(kept["model"])
    optimizer = optimizer_of(plastic)
    optimizer.load_state_dict(kept["optimizer"])
    plasticity = controller(plastic, optimizer)
    plasticity.load_state_dict(kept["plasticity"])
    train_epoch(plastic, optimizer, plasticity)
    return plastic, plasticity


def stays_away(rank: int, size: int, folder: Path) -> tuple[str, float]:
    plastic = plastic_model()
    plasticity = controller(plastic, optimizer_of(plastic), ranks=Ranks(limit=2.0))
    if rank == 1:
        time.sleep(6.0)  # busy with something else, for longer than the limit
        return "", 0.0
    plasticity.after_backward()
    began = time.monotonic()
    return error_of(plasticity.end_epoch), time.monotonic() - began


@shows(AREA, "a rank that does not come within the limit", "refused")
def test_a_rank_that_does_not_come_ends_in_an_error_within_the_limit(tmp_path: Path):
    (told, seconds), _ = world.together(stays_away, 2, tmp_path)
    assert told.startswith("RankError: another process did not meet within 2 s")
    assert seconds < 5.0
