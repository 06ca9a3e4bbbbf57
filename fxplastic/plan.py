"""`Plan`: which neuron each new neuron copies, as an immutable value.

Pruning, duplication (Chen et al., Net2Net, 2016), permutation and widening are one thing, a
gather with shares, so plans compose, print, hash, and go to JSON and back.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import get_args

from torch import Tensor

from fxplastic import plan_json
from fxplastic.draw import Shares, draw_shares, draw_take
from fxplastic.edits import Edit, as_floats, as_ints, check_edit, check_sums, describe, even_shares
from fxplastic.errors import PlanError
from fxplastic.groups import ChannelGroup, resized_fingerprint
from fxplastic.html_tables import html_table
from fxplastic.plastic import Plastic, check_name, require_plastic


@dataclass(frozen=True, eq=False, repr=False)
class Plan:
    """A turnover, pruning, growth or permutation of channel groups, as a value.

    Two plans are equal when they do the same to the same groups: a group that is named and left
    as it is counts like one that is not named, and notes do not count.

    Attributes:
        source: fingerprint of the groups that the plan was made for.
        target: fingerprint of the groups afterwards.
        notes: remarks of whoever made the plan, such as groups left alone and why. Kept in JSON
            and shown by `str`, but no part of the plan's identity.
    """

    source: str
    target: str
    _edits: tuple[tuple[str, Edit], ...] = ()
    notes: tuple[str, ...] = field(default=())

    @property
    def edits(self) -> Mapping[str, Edit]:
        """Edit of each group that is named, sorted by name; the others stay as they are."""
        return MappingProxyType(dict(self._edits))

    @property
    def preserving(self) -> bool:
        """Whether the shares of every neuron's copies sum to one, so that nothing is lost.

        In exact groups the function then stays as it was. A pruned neuron has no copies, and its
        sum is 0.
        """
        return all(edit.preserving for _, edit in self._edits)

    @property
    def keeps_widths(self) -> bool:
        """Whether every group has as many neurons after as before."""
        return all(edit.keeps_width for _, edit in self._edits)

    # ------------------------------------------------------------------------------- making
    @staticmethod
    def from_takes(
        plastic: Plastic,
        takes: Mapping[str, Sequence[int] | Tensor],
        shares: Mapping[str, Sequence[float] | Tensor] | None = None,
        *,
        notes: Iterable[str] = (),
        any_sum: bool = False,
    ) -> Plan:
        """A plan from indices.

        Args:
            plastic: the model whose groups are edited.
            takes: per group, the old neuron that each new neuron copies, block by block: with b
                blocks, the first ``len(take) / b`` entries come from the first block.
            shares: per group, each new neuron's share of its source's outgoing weight; by
                default an even split among the copies of a source.
            notes: remarks to keep with the plan.
            any_sum: shares need not sum to one. Such a plan changes the function, as under
                `Policy.paper`.

        Raises:
            PlanError: no such group, an index out of range or of another block, a length that
                does not divide into blocks, or shares that do not sum to one (to 1e-9).
        """
        require_plastic(plastic, PlanError)
        shares = {} if shares is None else shares
        for name in takes:
            check_name(plastic.groups, name)
        for name in shares:
            if name not in takes:
                raise PlanError(f"shares name group {name!r}, which has no take; give it one")
        edits = {
            name: _edit(plastic.groups[name], take, shares.get(name), any_sum=any_sum)
            for name, take in takes.items()
        }
        return _plan(plastic, edits, tuple(notes))

    @staticmethod
    def random(
        plastic: Plastic,
        grow: float = 0.0,
        prune: float = 0.0,
        turnover: float = 0.0,
        seed: int = 0,
        *,
        shares: Shares = "uneven",
        groups: Iterable[str] | None = None,
    ) -> Plan:
        """A random plan, the same for the same seed on every platform.

        In each block of b neurons, ``floor(prune * b)`` are dropped (two are always kept),
        ``floor(turnover * b)`` (at most half) are pruned and their slots filled with copies of
        as many survivors, and ``floor(grow * b)`` copies are appended. A group's draw depends on
        the seed and its name alone.

        Args:
            plastic: the model whose groups are edited.
            grow: copies to append, as a part of the block; at least 0.
            prune: neurons to drop; 0 to 1.
            turnover: neurons to replace by copies of others; 0 to 1.
            seed: of the draw.
            shares: ``"even"``, ``"uneven"`` (1-a, a) or ``"signed"`` (1+b, -b).
            groups: names of the groups to edit; all by default.

        Raises:
            PlanError: no such group or kind of shares, or a ratio out of range.
        """
        require_plastic(plastic, PlanError)
        _check_ratio("grow", grow, math.inf)
        _check_ratio("prune", prune, 1.0)
        _check_ratio("turnover", turnover, 1.0)
        check_shares(shares)
        edits: dict[str, Edit] = {}
        for name in plastic.groups if groups is None else groups:
            group = check_name(plastic.groups, name)
            rng = random.Random(f"{seed}:{name}")
            take = draw_take(group, grow, prune, turnover, rng)
            edits[name] = _edit(group, take, draw_shares(take, shares, rng))
        return _plan(plastic, edits, ())

    def then(self, other: Plan) -> Plan:
        """This plan followed by `other`, as one plan.

        Raises:
            PlanError: `other` was not made for what this plan leaves.
        """
        if not isinstance(other, Plan):
            raise PlanError(f"then() takes a Plan, not a {type(other).__name__}")
        if self.target != other.source:
            raise PlanError(
                f"this plan leaves groups {self.target[:12]}, the next one was made for "
                f"{other.source[:12]}; make it from the rewritten model"
            )
        mine, theirs = dict(self._edits), dict(other._edits)
        edits = mine | theirs
        for name in mine.keys() & theirs.keys():
            if len(mine[name].take) != theirs[name].size:
                raise PlanError(
                    f"group {name!r} has {len(mine[name].take)} neurons after this plan, the "
                    f"next one expects {theirs[name].size}; make it from the rewritten model"
                )
            edits[name] = mine[name].then(theirs[name])
        return Plan(self.source, other.target, _sorted(edits), self.notes + other.notes)

    def inverse(self) -> Plan:
        """The plan that undoes a permutation.

        Raises:
            PlanError: the plan prunes, copies or scales, which nothing undoes.
        """
        edits = {}
        for name, edit in self._edits:
            if sorted(edit.take) != list(range(edit.size)) or set(edit.share) != {1.0}:
                raise PlanError(
                    f"group {name!r} is not only permuted: {describe(name, edit)}; only a plan "
                    "that permutes has an inverse"
                )
            back = sorted(range(edit.size), key=edit.take.__getitem__)
            edits[name] = Edit(tuple(back), edit.share, edit.size, edit.blocks)
        return Plan(self.target, self.source, _sorted(edits), self.notes)

    # ----------------------------------------------------------------------------- as text
    def to_json(self) -> str:
        """JSON text that `from_json` reads back as an equal plan, shares bit for bit."""
        return plan_json.encode(
            plan_json.PlanData(self.source, self.target, self._edits, self.notes)
        )

    @staticmethod
    def from_json(text: str) -> Plan:
        """The plan that `to_json` wrote.

        Raises:
            PlanError: the text is malformed or from a newer version; the message names the key.
        """
        data = plan_json.decode(text)
        plan = Plan(data.source, data.target, data.edits, data.notes)
        if plan.keeps_widths and plan.target != plan.source:
            raise PlanError(
                f"plan JSON: key 'target' is {plan.target!r}; it must be the same as 'source', as "
                "every width stays"
            )
        return plan

    def __str__(self) -> str:
        edits = [edit for _, edit in self._edits]
        copied, pruned = (sum(edit.counts[i] for edit in edits) for i in (2, 3))
        effect = "function-preserving" if self.preserving else "not function-preserving"
        head = (
            f"Plan for groups {self.source[:12]}: {len(edits)} named, {copied} neurons copied, "
            f"{pruned} pruned, {effect}"
        )
        lines = [f"  {describe(name, edit)}" for name, edit in self._edits]
        return "\n".join([head, *lines, *(f"  note: {note}" for note in self.notes)])

    def __repr__(self) -> str:
        return f"<Plan for {self.source[:12]}: {len(self._edits)} groups>"

    def _repr_html_(self) -> str:
        """A table of the edits, for notebooks."""
        caption = "; ".join([str(self).partition("\n")[0], *self.notes])
        head = ("group", "before", "after", "copied", "pruned")
        return html_table(caption, head, [(name, *edit.counts) for name, edit in self._edits])

    # ----------------------------------------------------------------------------- equality
    def _key(self) -> tuple[object, ...]:
        return self.source, tuple(item for item in self._edits if not item[1].identity)

    def __eq__(self, other: object) -> bool:
        return self._key() == other._key() if isinstance(other, Plan) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._key())


def check_plan(plastic: Plastic, plan: Plan) -> None:
    """Raise PlanError unless `plan` was made for the groups of `plastic`."""
    if not isinstance(plan, Plan):
        raise PlanError(f"expected a Plan, got a {type(plan).__name__}")
    found = plastic.fingerprint
    if plan.source != found:
        raise PlanError(
            f"the plan was made for groups {plan.source[:12]}, this model's are {found[:12]}; "
            "make the plan from this model, or load the model that it was made from"
        )
    for name, edit in plan.edits.items():  # a file may carry a fingerprint that it has no right to
        group = check_name(plastic.groups, name)
        if (edit.size, edit.blocks) != (group.size, group.block_count):
            raise PlanError(
                f"the plan's group {name!r} has {edit.size} neurons in {edit.blocks} blocks, the "
                f"model's {group.size} in {group.block_count}; make the plan from this model"
            )
        check_edit(name, edit)
    sizes = {name: len(edit.take) for name, edit in plan.edits.items()}
    target = resized_fingerprint(plastic.groups, sizes)
    if plan.target != target:
        raise PlanError(
            f"the plan says that it leaves groups {plan.target[:12]}, and it leaves {target[:12]}; "
            "its text was changed: make the plan anew"
        )


def check_shares(kind: object) -> None:
    """Raise PlanError unless `kind` names a way to split shares."""
    if kind not in get_args(Shares):
        raise PlanError(f"shares={kind!r}; give one of {', '.join(map(repr, get_args(Shares)))}")


def _check_ratio(name: str, value: float, highest: float) -> None:
    if not isinstance(value, int | float) or not 0.0 <= value <= highest or math.isinf(value):
        raise PlanError(f"{name}={value!r}; give a number from 0 to {highest}")


def _edit(group: ChannelGroup, take: object, share: object, *, any_sum: bool = False) -> Edit:
    entries = as_ints(group.name, take)
    shares = even_shares(entries) if share is None else as_floats(group.name, share)
    edit = Edit(entries, shares, group.size, group.block_count)
    check_edit(group.name, edit)
    if not any_sum:
        check_sums(group.name, edit)
    return edit


def _plan(plastic: Plastic, edits: Mapping[str, Edit], notes: tuple[str, ...]) -> Plan:
    sizes = {name: len(edit.take) for name, edit in edits.items()}
    target = resized_fingerprint(plastic.groups, sizes)
    return Plan(plastic.fingerprint, target, _sorted(edits), notes)


def _sorted(edits: Mapping[str, Edit]) -> tuple[tuple[str, Edit], ...]:
    return tuple(sorted(edits.items()))
