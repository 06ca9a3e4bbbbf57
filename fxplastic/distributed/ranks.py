"""The same turnover on every process that trains a model, or an error on every one.

Messages go through a group of their own on the CPU, with a time limit, so that a process that is
gone ends in an error on the others and not in a wait.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch import distributed as dist
from torch.optim import Optimizer

from fxplastic.distributed.facts import Facts, differences, digest
from fxplastic.distributed.together import Alone, Rows, Together
from fxplastic.errors import FxPlasticError, RankError
from fxplastic.plan import Plan
from fxplastic.plastic import Plastic
from fxplastic.policy import Policy
from fxplastic.rewrite import Made, made_together, rewrite
from fxplastic.rewritten import PlasticT, Rewritten

T = TypeVar("T")


@dataclass(frozen=True)
class _Outcome:
    """How a step went on one rank: what it came to, and its error, if any."""

    facts: Facts
    error: str = ""


class Ranks:
    """The processes that train one model, so that they turn over the same neurons.

    `fxplastic.Plasticity` makes one by itself where several processes run. By hand::

        ranks = Ranks()
        scores = ranks.mean(gradient_scores.values())
        plan = ranks.decide(lambda: fxplastic.plan_turnover(plastic, scores, 0.3))
        ranks.rewrite_(plastic, plan, optimizer)

    Every method has to be called by all processes, in the same order; each raises `RankError` on
    all of them where one failed, differs, or is gone.

    Args:
        group: the processes; all by default. For a mesh, ``mesh.get_group(...)``.
        limit: seconds after which a process that does not come is taken for gone. Longer than any
            one of them may be busy alone, for instance with an evaluation.

    Raises:
        RankError: no process group has been made, or this process is not in `group`.
    """

    def __init__(self, group: Any = None, *, limit: float = 600.0) -> None:
        if not _several(1):
            raise RankError(
                "no process group has been made; call torch.distributed.init_process_group first, "
                "or leave ranks out in a single process"
            )
        if not isinstance(limit, int | float) or isinstance(limit, bool) or not limit > 0:
            raise RankError(f"limit={limit!r}; give a number of seconds above 0")
        self._limit = float(limit)
        if dist.get_rank(group) < 0:
            raise RankError("this process is not in the group; give one that it belongs to")
        members = dist.get_process_group_ranks(group)
        self._first = members[0]
        self._group = self._talk("begin", lambda: self._own_group(members))
        self._rank, self._size = dist.get_rank(self._group), len(members)

    def _own_group(self, members: Sequence[int]) -> Any:
        return dist.new_group(
            list(members),
            timeout=timedelta(seconds=self._limit),
            backend="gloo",
            use_local_synchronization=True,
        )

    @property
    def rank(self) -> int:
        """Which of the processes this is, from 0."""
        return self._rank

    @property
    def size(self) -> int:
        """Number of processes."""
        return self._size

    # ------------------------------------------------------------------ what they know
    def meet(self, facts: Callable[[], Facts], mine: Callable[[], T]) -> T:
        """This process's own result, once every process has one, and all agree.

        Args:
            facts: what has to be the same on all ranks, by name; floats nearly.
            mine: makes the result; it may raise.

        Raises:
            RankError: another rank raised, or the facts differ.
        """
        result, error = _attempt(mine)
        own: Facts | None = None
        if error is None:
            own, error = _attempt(facts)
        self._settle("meet", _Outcome(own or {}, _said(error)), error)
        return result  # type: ignore[return-value]  # without an error there is a result

    def mean(self, rows: Rows) -> dict[str, Tensor]:
        """The mean over ranks of rows of numbers, in one message; the same tensors on every rank.

        Args:
            rows: by name, of the same lengths on all ranks; any float type and device.

        Returns:
            In float64, on the CPU.
        """
        if not rows:
            return {}
        flat = torch.cat([row.detach().double().cpu().flatten() for row in rows.values()])
        self._talk("add the scores up", lambda: dist.all_reduce(flat, group=self._group))
        parts = torch.split(flat / self._size, [row.numel() for row in rows.values()])
        return dict(zip(rows, parts, strict=True))

    def decide(self, make: Callable[[], T]) -> T:
        """What the first rank makes, sent to the others; its error is raised on all.

        Args:
            make: called on the first rank only; what it returns can be pickled.
        """
        result, error = _attempt(make) if self._rank == 0 else (None, None)
        known = isinstance(error, FxPlasticError)
        box = [(result, error if known else None, _said(error))]
        self._talk(
            "take over what the first decided",
            lambda: dist.broadcast_object_list(box, src=self._first, group=self._group),
        )
        sent, same, said = box[0]
        if error is not None:
            raise error
        if same is not None:
            raise same
        if said:
            raise RankError(f"rank 0 stopped: {said}; nothing was changed on any rank")
        return sent  # type: ignore[return-value]

    # ------------------------------------------------------------------ what they do
    def rewrite_(
        self,
        plastic: Plastic,
        plan: Plan,
        optimizer: Optimizer | None = None,
        *,
        policy: Policy | None = None,
        seed: int = 0,
    ) -> None:
        """`fxplastic.rewrite_` on every rank, or on none.

        Raises:
            RankError: the plans differ, or it failed elsewhere; model and optimizer are as before.
        """
        self.carry_out(
            lambda: made_together([(plastic, optimizer)], plan, policy=policy, seed=seed),
            {"policy": digest(policy), "seed": seed},
        )

    def rewrite(
        self, plastic: PlasticT, plan: Plan, optimizer: Optimizer | None = None
    ) -> Rewritten[PlasticT]:
        """`fxplastic.rewrite` on every rank, or an error on all; then `rewrap` the new module.

        Raises:
            RankError: the plans differ, or it failed on another rank.
        """
        return self.meet(lambda: _plan_fact(plan), lambda: rewrite(plastic, plan, optimizer))

    def carry_out(self, make: Callable[[], Made], facts: Facts) -> None:
        """Write what `make` has made ready, once it is ready and the same on every rank.

        Where one fails to write, or is gone, all put back what they wrote.
        """
        made, error = _attempt(make)
        own = {} if made is None else {**_plan_fact(made.plan), **facts}
        self._settle("make a turnover ready", _Outcome(own, _said(error)), error)
        assert made is not None
        _, error = _attempt(made.carry_out)
        try:
            self._settle("finish a turnover", _Outcome({}, _said(error)), error)
        except BaseException:
            if error is None:
                made.undo()
            raise

    # ------------------------------------------------------------------ messages
    def _settle(self, what: str, own: _Outcome, error: BaseException | None) -> None:
        """Hear how it went on every rank, and go on only where it went the same on all."""
        all_of_them: list[Any] = [None] * self._size
        try:
            self._talk(what, lambda: dist.all_gather_object(all_of_them, own, group=self._group))
        except RankError:
            if error is not None:
                raise error  # noqa: B904  # its own error says more than that others are gone
            raise
        if error is not None:
            raise error
        failed = [f"rank {i}: {each.error}" for i, each in enumerate(all_of_them) if each.error]
        if failed:
            raise RankError(
                f"{'; '.join(failed)}. Nothing was changed here; mend it there, and go on from "
                "the last checkpoint"
            )
        found = differences([each.facts for each in all_of_them])
        if found:
            raise RankError(
                f"the ranks differ: {'; '.join(found)}. Nothing was changed on any rank; train "
                "the same model with the same settings on all of them (or give "
                "Plasticity(ranks='alone') where each trains a model of its own)"
            )

    def _talk(self, what: str, send: Callable[[], T]) -> T:
        """Exchange a message; what goes wrong with that is another process's end."""
        try:
            return send()
        except RuntimeError as error:
            raise RankError(
                f"another process did not {what} within {self._limit:g} s, or is gone "
                f"({str(error).splitlines()[0][:200]}). Nothing was changed here; start all of "
                "them again from the last checkpoint"
            ) from error


def together(ranks: object) -> Together:
    """Who is meant by `Plasticity(ranks=...)`.

    Raises:
        RankError: it is none of ``"auto"``, ``"alone"`` and a `Ranks`.
    """
    if isinstance(ranks, Ranks | Alone):
        return ranks
    if ranks == "auto":
        return Ranks() if _several(2) else Alone()
    if ranks == "alone":
        return Alone()
    raise RankError(f"ranks={ranks!r}; give 'auto', 'alone' or a fxplastic.distributed.Ranks")


def _several(least: int) -> bool:
    """Whether at least so many processes run together."""
    there = dist.is_available() and dist.is_initialized()
    return there and dist.get_world_size() >= least


def _plan_fact(plan: Plan) -> Facts:
    return {"plan": digest(plan.to_json())}


def _attempt(make: Callable[[], T]) -> tuple[T | None, BaseException | None]:
    """A result or an error: the other ranks are waiting to hear which."""
    try:
        return make(), None
    except Exception as error:  # raised again once the others know
        return None, error


def _said(error: BaseException | None) -> str:
    return "" if error is None else f"{type(error).__name__}: {error}"[:2000]
