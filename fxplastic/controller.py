"""`Plasticity`: neuron turnover in any training loop, by two calls.

It scores while the loop trains, and turns neurons over in place when its schedule says so: same
parameters, same optimizer, same graph, same widths (Sakai and Hotta, arXiv 2507.09940, 2025).
Nothing else of the loop has to know: learning-rate schedulers, hooks and compiled code stay valid.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer

from fxplastic.averages import averaged
from fxplastic.counts import Scope
from fxplastic.distributed.facts import Facts, weight_fact
from fxplastic.distributed.ranks import Ranks, together
from fxplastic.errors import PlanError
from fxplastic.optim import check_optimizer
from fxplastic.plan import Plan
from fxplastic.planner import on_host
from fxplastic.plastic import Plastic, require_plastic
from fxplastic.policy import Policy
from fxplastic.schedule import Memory, Schedule, When
from fxplastic.scores import Criterion, GradientScores
from fxplastic.sharded import reshard
from fxplastic.turning import Turning, check_schedule, check_whole
from fxplastic.turnover import Turnover

_KEYS = ("fingerprint", "epoch", "calls", "memory", "scores", "history")
Listener = Callable[[Turnover], None]
Adjust = Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]


class Plasticity:
    """Scores neurons while a loop trains, and turns them over at the end of some epochs.

    Args:
        plastic: what `plasticize` returned for the model that trains; on its device.
        optimizer: of the model's parameters, of a class in `fxplastic.state_laws.STATE_LAWS`.
        ratio: part of each group's blocks to turn over; above 0, at most 0.5.
        schedule: when: `Schedule` (every so many epochs) or `Adaptive`.
        epochs: of the whole run, if known; a schedule without a turnover in it is refused.
        criterion: what the score of a neuron is, see `GradientScores`.
        policy: ``"exact"``, ``"paper"`` or a `Policy`: what becomes of the weights.
        scope: ``"group"`` or ``"network"``, see `plan_turnover`.
        overrides: ratio of single groups by name (``*`` matches anything); 0 leaves one alone.
        protect: names (``*`` matches anything) of groups to leave alone.
        min_width: groups with narrower blocks are left alone.
        ema: averages of the model's weights that follow the turnovers: a
            `timm.utils.ModelEmaV3`, a `torch.optim.swa_utils.AveragedModel`, a module with the
            model's parameter names, or several of them.
        adjust: what is made of the scores (float64, on the CPU) before they are ranked, such as
            ``lambda scores: {name: -row for name, row in scores.items()}``.
        score_every: every how many calls of `before_backward` score.
        seed: of what is drawn; turnovers of one run draw differently.
        ranks: which processes train this model: ``"auto"`` (all of the default process group),
            ``"alone"`` (each trains a model of its own) or a `fxplastic.distributed.Ranks`.

    Raises:
        PlanError: a value out of range, a model without channel groups, or a schedule past the
            last epoch.
        RankError: the processes differ in model, settings or epoch, or one is gone.
        OptimizerError: the optimizer's state cannot be carried over.
        ScoreError: no such criterion.

    Warns:
        UserWarning: nothing would ever part a copy from its original.

    >>> import fxplastic
    >>> from torch import nn, zeros
    >>> model = nn.Sequential(nn.Linear(3, 10), nn.ReLU(), nn.Linear(10, 2))
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> plasticity = Plasticity(
    ...     fxplastic.plasticize(model, zeros(2, 3)), optimizer, schedule=Schedule(every=2)
    ... )
    >>> for epoch in range(2):
    ...     model(torch.ones(4, 3)).sum().backward()
    ...     plasticity.after_backward()
    ...     optimizer.step()
    ...     turnover = plasticity.end_epoch()
    >>> turnover.neurons
    3
    """

    def __init__(
        self,
        plastic: Plastic,
        optimizer: Optimizer,
        *,
        ratio: float = 0.3,
        schedule: When | None = None,
        epochs: int | None = None,
        criterion: Criterion = "magnitude",
        policy: Policy | str = "exact",
        scope: Scope = "group",
        overrides: Mapping[str, float] | None = None,
        protect: Iterable[str] = (),
        min_width: int = 1,
        ema: nn.Module | Sequence[nn.Module] | None = None,
        adjust: Adjust | None = None,
        score_every: int = 1,
        seed: int = 0,
        ranks: Ranks | Literal["auto", "alone"] = "auto",
    ) -> None:
        self._together = together(ranks)
        require_plastic(plastic, PlanError)
        reshard(plastic)
        check_optimizer(optimizer, plastic)
        self._schedule: When = Schedule() if schedule is None else schedule
        check_schedule(self._schedule, epochs)
        check_whole(score_every=score_every)
        if adjust is not None and not callable(adjust):
            raise PlanError(f"adjust={adjust!r}; give a function of the scores, or None")
        self._turning = Turning(
            plastic,
            optimizer,
            Policy.of(policy),
            seed,
            ratio,
            scope,
            copy.copy({} if overrides is None else overrides),
            tuple(protect),
            min_width,
            averaged(plastic, ema),
        )
        self._adjust, self._every = adjust, score_every
        several = self._together.size > 1
        self._scores = GradientScores(plastic, criterion, seed=seed, averaged=several)
        self._listeners: list[Listener] = []
        self._history: list[Turnover] = []
        self._memory: Memory = {}
        self._epoch, self._calls = 1, 0
        self._watching = self._schedule.watches(1)
        self._together.meet(self._facts, self._turning.rehearse)

    # ------------------------------------------------------------------ in the loop
    def after_backward(self, scaler: GradScaler | None = None) -> None:
        """Score the gradients that are there; once per optimizer step, before `step`.

        It does nothing in epochs that no turnover looks at, and never waits for the device.

        Args:
            scaler: a loss scaler whose `unscale_` was not called in this step.
        """
        if self._watching:
            self._scores.update(scaler)

    def before_backward(self, loss: Tensor) -> None:
        """Score by a loss of its own, in place of `after_backward`: every `score_every`-th call.

        For scores with class weights of a network that trains without them; see
        `GradientScores.update_from`.

        Args:
            loss: a scalar, computed from this step's forward; its graph is kept.
        """
        if self._watching:
            if self._calls % self._every == 0:
                self._scores.update_from(loss)
            self._calls += 1

    def end_epoch(self) -> Turnover | None:
        """Count an epoch, and turn neurons over if the schedule says so.

        Returns:
            What was done, or `None`. Listeners have been called with it.

        Raises:
            ScoreError: a turnover is due, and no batch of the epoch had finite gradients, or none
                was scored. Model, optimizer and averages are as they were, and the epoch counts.
        """
        epoch, self._epoch, self._calls = self._epoch, self._epoch + 1, 0
        watched, self._watching = self._watching, self._schedule.watches(self._epoch)
        over = True  # scores of an epoch that ends in an error are not added to the next
        try:
            turnover, memory = self._decide(epoch, watched)
            over = turnover is not None or not (self._watching and self._schedule.adds_up)
        finally:
            if over:
                self._scores.reset()
        self._memory = memory
        if turnover is not None:
            self._history.append(turnover)
            for listener in self._listeners:
                listener(turnover)
        return turnover

    def on(self, listener: Listener) -> Listener:
        """Call `listener` with each `Turnover`, after it was made. Usable as a decorator."""
        self._listeners.append(listener)
        return listener

    # ------------------------------------------------------------------ what is known
    @property
    def history(self) -> tuple[Turnover, ...]:
        """Every turnover so far."""
        return tuple(self._history)

    @property
    def epoch(self) -> int:
        """The epoch that is running, counted from 1."""
        return self._epoch

    @property
    def scores(self) -> GradientScores:
        """Scores of the epoch that is running."""
        return self._scores

    # ------------------------------------------------------------------ across a stop
    def state_dict(self) -> dict[str, Any]:
        """All that a run needs to go on: tensors, numbers and text.

        Weights are the model's, and moments the optimizer's: store their `state_dict` with it.
        """
        return {
            "version": 1,
            "fingerprint": self._turning.plastic.fingerprint,
            "epoch": self._epoch,
            "calls": self._calls,
            "memory": dict(self._memory),
            "scores": self._scores.state_dict(),
            "history": [turnover.as_dict() for turnover in self._history],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from where `state_dict` was taken; listeners stay.

        Raises:
            PlanError: it is of another model's groups, or of a newer version; nothing was changed.
            ScoreError: it has scores by another criterion.
        """
        if state.get("version") != 1:
            raise PlanError(
                f"the state of a Plasticity has version {state.get('version')!r}, this program "
                "reads version 1; load it with the fxplastic that wrote it"
            )
        missing = [key for key in _KEYS if key not in state]
        if missing:
            raise PlanError(
                f"the state of a Plasticity lacks {missing[0]!r}; give what state_dict() returned"
            )
        if state["fingerprint"] != self._turning.plastic.fingerprint:
            raise PlanError(
                f"the state is of groups {str(state['fingerprint'])[:12]}, this model has "
                f"{self._turning.plastic.fingerprint[:12]}; load it for the model that it was "
                "taken from"
            )
        history = [Turnover.from_dict(entry) for entry in state["history"]]
        self._scores.load_state_dict(state["scores"])
        self._history = history
        self._memory, self._epoch = dict(state["memory"]), state["epoch"]
        self._calls = state["calls"]
        self._watching = self._schedule.watches(self._epoch)

    # ------------------------------------------------------------------ one turnover
    def _decide(self, epoch: int, watched: bool) -> tuple[Turnover | None, Memory]:
        began = time.perf_counter()
        own = self._together.meet(self._facts, lambda: self._read() if watched else None)
        rows = None if own is None else self._together.mean(own)
        plan, memory = self._together.decide(lambda: self._planned(epoch, rows))
        if plan is None:
            return None, memory
        return self._turning.turn_over(epoch, plan, began, self._together), memory

    def _planned(self, epoch: int, rows: Mapping[str, Tensor] | None) -> tuple[Plan | None, Memory]:
        """The plan, if one is due, and what the schedule remembers."""
        scores = None if rows is None else {name: row.abs() for name, row in rows.items()}
        if scores is not None and self._adjust is not None:
            scores = dict(self._adjust(scores))
        ranked = None if scores is None else {n: row.tolist() for n, row in scores.items()}
        due, memory = self._schedule.due(epoch, ranked, self._memory)
        return self._turning.plan_of(epoch, scores or {}) if due else None, memory

    def _read(self) -> dict[str, Tensor]:
        """This process's scores on the host, by one transfer, before their magnitude is taken."""
        groups = self._turning.plastic.groups
        rows = on_host(groups, list(groups.values()), self._scores.signed_values())
        return {
            name: torch.tensor(row, dtype=torch.float64)
            for name, row in zip(groups, rows, strict=True)
        }

    def _facts(self) -> Facts:
        """What has to be the same on every process."""
        return {
            **self._turning.facts(),
            **weight_fact(self._turning.plastic),
            "schedule": repr(self._schedule),
            "criterion": f"{self._scores.criterion}, every {self._every}",
            "number of epochs": self._epoch - 1,
            "number of scored batches": self._scores.updates,
        }
