"""One turnover after another: what to turn over, and how, as a value; its checks beforehand."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim import Optimizer

from fxplastic.averages import Averaged
from fxplastic.counts import Scope, check_ratio, check_scope
from fxplastic.distributed.facts import Facts, digest, shape_facts
from fxplastic.distributed.together import Together
from fxplastic.diversity import parts_copies, touch_of
from fxplastic.errors import PlanError, ScoreError
from fxplastic.optim import check_carry
from fxplastic.plan import Plan
from fxplastic.planner import plan_turnover
from fxplastic.plastic import Plastic
from fxplastic.policy import Policy
from fxplastic.rewrite import made_together
from fxplastic.schedule import When
from fxplastic.turnover import Turnover


@dataclass(frozen=True, eq=False)
class Turning:
    """All that the turnovers of a run have in common; see `fxplastic.Plasticity`."""

    plastic: Plastic
    optimizer: Optimizer
    policy: Policy
    seed: int
    ratio: float
    scope: Scope
    overrides: Mapping[str, float]
    protect: tuple[str, ...]
    min_width: int
    averages: tuple[Averaged, ...]

    def __post_init__(self) -> None:
        check_ratio(self.ratio)
        check_scope(self.scope)
        check_whole(min_width=self.min_width)
        check_carry(self.optimizer, self.policy)
        if not isinstance(self.seed, int) or isinstance(self.seed, bool):
            raise PlanError(f"seed={self.seed!r}; give a whole number")
        if not self.plastic.groups:
            raise PlanError(
                "the model has no channel group, every axis is frozen, and nothing could turn "
                "over; plastic.frozen says where and why (see also plasticize(..., "
                "attention='value') and approximate=True)"
            )

    def plan(self, scores: Mapping[str, Tensor]) -> Plan:
        """What the scores say is to be copied, and over what."""
        return plan_turnover(
            self.plastic,
            scores,
            self.ratio,
            scope=self.scope,
            shares=self.policy.split,
            share=self.policy.share,
            overrides=self.overrides,
            protect=self.protect,
            min_width=self.min_width,
        )

    def plan_of(self, epoch: int, scores: Mapping[str, Tensor]) -> Plan:
        """The plan of an epoch's end.

        Raises:
            ScoreError: nothing is known of any neuron.
        """
        if not any(row.any() for row in scores.values()):
            raise ScoreError(
                f"every score of epoch {epoch} is 0: no gradient was there when it was scored; "
                "call after_backward() after backward() and before zero_grad()"
            )
        return self.plan(scores)

    def turn_over(self, epoch: int, plan: Plan, began: float, together: Together) -> Turnover:
        """Rewrite the model, its optimizer and its averages, on all processes, or none of them.

        Raises:
            RewriteError: it cannot be carried out.
            RankError: another process cannot, or differs.
        """
        seed = self.seed * 1_000_003 + epoch
        models = [(self.plastic, self.optimizer), *((one, None) for one in self.averages)]
        together.carry_out(
            lambda: made_together(models, plan, policy=self.policy, seed=seed), {"seed": seed}
        )
        return Turnover(epoch, plan, self.policy, seed, time.perf_counter() - began)

    def facts(self) -> Facts:
        """What has to be the same on all processes that train this model."""
        options = (self.ratio, self.scope, sorted(self.overrides.items()), self.protect)
        return {
            **shape_facts(self.plastic),
            "optimizer": type(self.optimizer).__name__,
            "settings": digest(*options, self.min_width, self.policy, len(self.averages)),
            "seed": self.seed,
        }

    def rehearse(self) -> None:
        """Refuse what a plan would refuse, before anything is trained.

        Raises:
            PlanError: nothing would ever turn over, or a name that matches no group.

        Warns:
            UserWarning: nothing would ever part a copy from its original.
        """
        plan = self.plan({n: torch.ones(g.size) for n, g in self.plastic.groups.items()})
        if not plan.edits:
            raise PlanError(
                "no group would ever turn over: " + "; ".join(plan.notes[:3]) + "; give another "
                "ratio, or protect fewer groups"
            )
        touch_of(self.plastic, plan, self.policy, self.seed)
        if not parts_copies(self.plastic, self.policy):
            warnings.warn(
                "no copy will ever part from its original: the model has no BatchNorm parameters "
                "that the policy could draw, and both have the same outgoing weight; use "
                "Policy(shares='signed') or Policy(zero_sum=0.1)",
                stacklevel=3,
            )


def check_schedule(schedule: object, epochs: int | None) -> None:
    """Raise PlanError unless it is a schedule, with a turnover within the run."""
    if not isinstance(schedule, When):
        raise PlanError(
            f"schedule={schedule!r}; give a fxplastic.Schedule or a fxplastic.Adaptive, or what "
            "has their methods"
        )
    check_whole(**({} if epochs is None else {"epochs": epochs}))
    if epochs is not None and schedule.first_turnover > epochs:
        raise PlanError(
            f"the first turnover is due after epoch {schedule.first_turnover}, and the run ends "
            f"after epoch {epochs}; begin earlier (first=..., every=...) or train longer"
        )


def check_whole(**values: object) -> None:
    """Raise PlanError unless all of them are whole numbers from 1."""
    for name, value in values.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise PlanError(f"{name}={value!r}; give a whole number, at least 1")
