"""Proof of exactness on the user's own model: a turnover against masking, in float64.

A group is exact when two things agree: the model after a turnover (pruned slots overwritten by
copies whose shares of the outgoing weight sum to one) and the model as it was with the outgoing
weights of the pruned neurons set to zero. Masking alone cannot see a share that is applied twice,
and even shares hide a copy that reads the wrong slot: so shares are uneven, then signed.

Nothing here touches the model that it is given: every run is on a float64 copy, with random
inputs, and with parameters that stand at a constant (a zero-initialised layer scale, fresh norm
statistics) moved away from it, as exactness belongs to the structure and not to the weights.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from fxplastic.draw import Shares
from fxplastic.groups import ChannelGroup, Site
from fxplastic.module import PlasticModule
from fxplastic.plan import Plan
from fxplastic.rewrite import rewrite_
from fxplastic.trial import Trial, distance

TOLERANCE = 1e-9
"""Largest difference allowed, relative to the largest output, in float64."""

_SHARES: tuple[Shares, ...] = ("uneven", "signed")


@dataclass(frozen=True)
class Comparison:
    """What one turnover did, relative to the largest absolute value of the output.

    Attributes:
        error: largest difference between the turned and the masked model.
        effect: largest difference between the masked model and the model as it was. Without an
            effect the error proves nothing.
    """

    error: float
    effect: float

    def agrees(self, tolerance: float) -> bool:
        """True where the error is a number and at most `tolerance`."""
        return self.error <= tolerance


@dataclass(frozen=True)
class Disagreement:
    """A group whose claim to be exact was refuted, or could not be tested.

    Attributes:
        group: name of the group.
        error: relative error of the turnover against masking (see `Comparison`).
        effect: what masking changed, relative to the largest output.
        shares: the shares under which it was seen: ``"uneven"``, ``"signed"``, or ``"no"`` where
            no output moved at all, so that nothing was tested.
        training: whether it was seen in train mode.
    """

    group: str
    error: float
    effect: float
    shares: str
    training: bool

    @property
    def reason(self) -> str:
        """One sentence for the record of the frozen axes."""
        if self.error == 0.0:
            return (
                "verification could not test this group: masking every group at once changes no "
                "output; give example inputs that are real tensors"
            )
        mode = "train" if self.training else "eval"
        return (
            f"verification refuted it: a turnover with {self.shares} shares differs from masking "
            f"by {self.error:.1e} of the largest output in {mode} mode"
        )


def masked(model: nn.Module, groups: Mapping[str, ChannelGroup], plan: Plan) -> nn.Module:
    """A copy of `model` in which the consumers of the neurons that `plan` prunes are zero.

    A neuron is pruned when no new neuron copies it. Only the positions (and rows) that a consumer
    site names are set to zero; tensors that were tied stay tied.

    Args:
        model: the module that the groups were found on, or its plastic form.
        groups: channel groups by name.
        plan: a plan for these groups.

    Returns:
        A copy of `model`, on the same device and with the same dtypes; it shares the parameters
        that masking leaves alone.
    """
    touched = {site.parameter for name in plan.edits for site in groups[name].consumers}
    named = model.named_parameters(remove_duplicate=False)
    written = {id(p) for n, p in named if n in touched}
    shared: dict[int, Any] = {id(p): p for p in model.parameters() if id(p) not in written}
    result = copy.deepcopy(model, shared)
    tensors = {
        **dict(result.named_parameters(remove_duplicate=False)),
        **dict(result.named_buffers(remove_duplicate=False)),
    }
    with torch.no_grad():
        for name, edit in plan.edits.items():
            pruned = torch.tensor(edit.pruned, dtype=torch.int64)
            for site in groups[name].consumers:
                _zero(tensors[site.parameter], site, pruned)
    return result


def _zero(tensor: Tensor, site: Site, neurons: Tensor) -> None:
    """Sets the slices of `neurons` in one consumer to zero, in place."""
    positions = site.positions[neurons].to(tensor.device)
    if site.rows is None:
        tensor.index_fill_(site.axis, positions.flatten(), 0)
        return
    rows = site.rows[neurons].to(tensor.device)
    # Two index tensors that broadcast to [neurons, rows, positions]: only these rows of axis 0.
    tensor.movedim(site.axis, 1)[rows[:, :, None], positions[:, None, :]] = 0


def verify(
    plastic: PlasticModule,
    args: tuple[Any, ...] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    ratio: float = 0.5,
    seed: int = 0,
    tolerance: float = TOLERANCE,
) -> tuple[Disagreement, ...]:
    """Compares a turnover with masking on a float64 copy and names the groups that disagree.

    All exact groups are turned over at once, with uneven and with signed shares, in eval mode and
    (dropout switched off, as copies draw their own masks) in train mode. Where the whole
    disagrees, halves are tried until single groups are left; groups that disagree only together
    are all named. The model should be verified again after the named groups are frozen.

    Args:
        plastic: the module to check; it is not changed.
        args: positional example inputs. Floating tensors give their shape and are replaced by
            random values; integer and boolean tensors are used as they are, or as zeros (ones for
            booleans) where they are on the meta device.
        kwargs: keyword example inputs, treated alike.
        ratio: share of each block to turn over.
        seed: seed of the plan, the inputs and the randomised parameters.
        tolerance: largest relative difference that counts as agreement.

    Returns:
        One record per group that disagrees, in the order of the groups; empty if all are exact.

    Raises:
        FxPlasticError: the model cannot run in float64 with such inputs, or its outputs are not
            finite.
    """
    names = [name for name, group in plastic.groups.items() if group.exact]
    if not names:
        return ()
    trial = Trial.of(plastic, args, kwargs or {}, seed)
    found: dict[str, Disagreement] = {}
    effect = 0.0
    for training, shares in product(trial.modes(), _SHARES):

        def compare(
            chosen: Sequence[str], shares: Shares = shares, training: bool = training
        ) -> Comparison:
            plan = Plan.random(
                trial.module, turnover=ratio, seed=seed, shares=shares, groups=chosen
            )
            return compared(trial, plan, training)

        whole = compare(names)
        effect = max(effect, whole.effect)
        for name, seen in _search(compare, names, whole, tolerance).items():
            record = Disagreement(name, seen.error, seen.effect, shares, training)
            found.setdefault(name, record)
    if effect <= tolerance:
        return tuple(Disagreement(name, 0.0, effect, "no", False) for name in names)
    return tuple(found[name] for name in names if name in found)


def compared(trial: Trial, plan: Plan, training: bool) -> Comparison:
    """Turns one copy over by `plan`, masks another, and compares their outputs."""
    turned = copy.deepcopy(trial.module)
    rewrite_(turned, plan)
    original = trial.outputs(trial.module, training)
    reference = trial.outputs(masked(trial.module, trial.module.groups, plan), training)
    result = trial.outputs(turned, training)
    return Comparison(distance(result, reference), distance(reference, original))


def _search(
    compare: Callable[[Sequence[str]], Comparison],
    names: Sequence[str],
    seen: Comparison,
    tolerance: float,
) -> dict[str, Comparison]:
    """Bisects to the groups that disagree; all of `names` where no half of them does alone."""
    if seen.agrees(tolerance):
        return {}
    if len(names) == 1:
        return {names[0]: seen}
    found: dict[str, Comparison] = {}
    for half in (names[: len(names) // 2], names[len(names) // 2 :]):
        found |= _search(compare, half, compare(half), tolerance)
    return found or dict.fromkeys(names, seen)
