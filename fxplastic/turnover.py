"""`Turnover`: a record of one turnover, enough to see it and to do it again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fxplastic.errors import PlanError
from fxplastic.plan import Plan
from fxplastic.policy import Policy


@dataclass(frozen=True)
class Turnover:
    """A turnover that was made.

    Attributes:
        epoch: at whose end; counted from 1.
        plan: which neuron was copied over which; its notes name the groups left alone.
        policy: what became of the weights.
        seed: of what the policy drew. ``rewrite_(plastic, plan, optimizer, policy=policy,
            seed=seed)`` does the same again.
        seconds: how long it took, planning included.
    """

    epoch: int
    plan: Plan
    policy: Policy
    seed: int
    seconds: float

    @property
    def neurons(self) -> int:
        """Number of slots that were filled anew."""
        return sum(len(edit.pruned) for edit in self.plan.edits.values())

    def as_dict(self) -> dict[str, Any]:
        """Numbers and text, for a file; `from_dict` reads them."""
        return {
            "epoch": self.epoch,
            "plan": self.plan.to_json(),
            "policy": self.policy.as_dict(),
            "seed": self.seed,
            "seconds": self.seconds,
        }

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Turnover:
        """The turnover that `as_dict` wrote.

        Raises:
            PlanError: its plan or its policy is malformed.
        """
        try:
            policy = Policy(**values["policy"])
            plan, epoch, seed, seconds = (values[k] for k in ("plan", "epoch", "seed", "seconds"))
        except (KeyError, TypeError) as error:
            raise PlanError(
                f"a stored turnover cannot be read ({error}); give what Turnover.as_dict wrote"
            ) from error
        return Turnover(epoch, Plan.from_json(plan), policy, seed, seconds)

    def __str__(self) -> str:
        groups = len(self.plan.edits)
        return f"epoch {self.epoch}: {self.neurons} neurons of {groups} groups turned over"
