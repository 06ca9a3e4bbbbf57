"""What a policy does to the new tensors of a turnover, after the gather and before the first write.

Everything here is a function from a tensor's recipe and its new value to another new value, so
that a turnover with noise is as atomic as one without. Noise is drawn on the CPU from the seed and
the names alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from fxplastic.axis_maps import applied, gathered
from fxplastic.edits import SUM_TOLERANCE, Edit
from fxplastic.errors import OptimizerError, PlanError
from fxplastic.gather import Recipe
from fxplastic.groups import Site
from fxplastic.leaves import held
from fxplastic.plan import Plan
from fxplastic.plastic import Plastic
from fxplastic.policy import Policy, split_of
from fxplastic.sharded import whole


@dataclass(frozen=True, eq=False)
class _Place:
    """Copies that a group has on one axis of a tensor."""

    group: str
    site: Site
    blocks: int
    slots: tuple[int, ...]
    originals: tuple[int, ...]

    def cells(self, neurons: Sequence[int]) -> tuple[Tensor | slice, ...]:
        """An index of the slices of some neurons."""
        chosen = torch.tensor(neurons, dtype=torch.long)
        positions, axis = self.site.positions[chosen], self.site.axis
        if self.site.rows is None:
            return (*[slice(None)] * axis, positions)
        rows = self.site.rows[chosen]
        return (rows[:, :, None], *[slice(None)] * (axis - 1), positions[:, None, :])


@dataclass(frozen=True, eq=False)
class Touch:
    """A policy for one plan on one model; made by `touch_of`."""

    policy: Policy
    seed: int
    _places: Mapping[str, tuple[_Place, ...]]
    _norms: Mapping[str, str]  # of each norm's parameter and statistic: what it is
    _partner: Mapping[str, Tensor]  # of each norm's bias: the weight
    _kernels: frozenset[str]  # weights whose axes from the third on are taps of one kernel

    def value(self, recipe: Recipe, new: Tensor) -> Tensor:
        """What a tensor is to hold, given what the plan alone would make of it."""
        places = self._places.get(recipe.name, ())
        consumers = [p for p in places if p.site.role == "consumer"]
        if not new.is_floating_point() or not places:
            return new
        if self.policy.fill == "fresh":
            return self._drawn(recipe, new, [p for p in places if p.site.role == "producer"])
        if self.policy.scaling == "norm" and consumers:
            new = self._with_old_norms(recipe, new, consumers)
        if self.policy.zero_sum:
            new = self._parted(recipe, new, consumers)
        if self.policy.noise != "none" and self._norms.get(recipe.name) in ("weight", "bias"):
            new = self._noisy(recipe, new, places)
        return new

    def state(self, recipe: Recipe, new: Tensor, start: float) -> Tensor:
        """What an optimizer is to remember, given what the plan alone would make of it."""
        if self.policy.carry != "zero" and self.policy.fill != "fresh":
            return new
        if new.shape != recipe.tensor.shape:
            raise OptimizerError(
                f"the optimizer keeps means over axes of {recipe.name!r}, in which no neuron's "
                "part can be set to zero; use carry='law', or an optimizer without factors"
            )
        for place in self._places.get(recipe.name, ()):
            new[place.cells(place.slots)] = start
        return new

    # ------------------------------------------------------------------ one step each
    def _noisy(self, recipe: Recipe, new: Tensor, places: Sequence[_Place]) -> Tensor:
        """Drawn BatchNorm parameters of the copies (GDA in the paper)."""
        gamma = self._norms[recipe.name] == "weight"
        for place, draw in self._draws(recipe, places):
            cells = place.cells(place.slots)
            noise = self.policy.sigma * draw(new[cells].shape).to(new)
            if self.policy.noise == "absolute":
                new[cells] = noise + 1.0 if gamma else noise
            elif gamma:
                new[cells] *= 1.0 + noise
            else:
                weight = self._partner.get(recipe.name)
                size = 1.0 if weight is None else gathered(weight, recipe.maps)[cells].abs()
                new[cells] += noise * size
        return new

    def _parted(self, recipe: Recipe, new: Tensor, consumers: Sequence[_Place]) -> Tensor:
        """Noise from each original's outgoing weights into its copy's."""
        unshared = applied(recipe.tensor, recipe.maps, lambda _: None)
        for place, draw in self._draws(recipe, consumers):
            weights = unshared[place.cells(place.originals)]
            noise = draw(weights.shape).to(new)
            each = [d for d in range(noise.ndim) if d != _neuron_dim(place)]
            norm = _norm(noise, each).clamp_min(torch.finfo(noise.dtype).tiny)
            noise = noise * (self.policy.zero_sum * _norm(weights, each) / norm)
            new[place.cells(place.slots)] += noise
            if len(set(place.originals)) == len(place.originals):
                new[place.cells(place.originals)] -= noise
                continue
            for k, neuron in enumerate(place.originals):  # some have several copies
                new[place.cells([neuron])] -= noise.narrow(_neuron_dim(place), k, 1)
        return new

    def _with_old_norms(self, recipe: Recipe, new: Tensor, consumers: Sequence[_Place]) -> Tensor:
        """`new` with the norm that each consumer's incoming weights had before, block by block.

        The taps of a kernel are one consumer's. Where blocks are the groups of a convolution, each
        has consumers of its own; elsewhere, norms that are right in every block are right in all.
        """
        axes = {place.site.axis for place in consumers}
        taps = range(2, new.ndim) if recipe.name in self._kernels else ()
        dims = sorted(axes.union(taps))
        old = gathered(recipe.tensor, [m for m in recipe.maps if m.axis not in axes])
        if len(axes) > 1 or len(consumers) > 1 or consumers[0].site.rows is not None:
            return _scaled_to(new, old, dims)
        for positions in consumers[0].site.positions.chunk(consumers[0].blocks):
            before: list[Tensor | slice] = [slice(None)] * min(axes)
            where = (*before, positions.flatten())
            new[where] = _scaled_to(new[where], old[where], dims)
        return new

    def _drawn(self, recipe: Recipe, new: Tensor, places: Sequence[_Place]) -> Tensor:
        """Slots as in a new network; matrices and kernels with the spread that they have now."""
        fresh = {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0}
        known = self._norms.get(recipe.name)
        for place, draw in self._draws(recipe, places):
            cells = place.cells(place.slots)
            if known is not None:
                new[cells] = fresh[known]
            elif new.ndim < 2:  # a bias starts at zero, a layer's scale at what the others have
                new[cells] = (
                    0.0 if recipe.name.endswith("bias") else whole(recipe.tensor).detach().mean()
                )
            else:
                spread = whole(recipe.tensor).detach().std(correction=0)
                new[cells] = draw(new[cells].shape).to(new) * spread
        return new

    def _draws(
        self, recipe: Recipe, places: Sequence[_Place]
    ) -> Iterator[tuple[_Place, Callable[[Sequence[int]], Tensor]]]:
        """Every place with a source of standard normal numbers of its own."""
        for place in places:
            if not place.slots:
                continue
            text = f"{self.seed}:{place.group}:{recipe.name}:{place.site.axis}"
            number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")
            generator = torch.Generator().manual_seed(number)
            yield place, partial(_normal, generator)


def _normal(generator: torch.Generator, shape: Sequence[int]) -> Tensor:
    return torch.randn(tuple(shape), generator=generator, dtype=torch.float64)


def parts_copies(plastic: Plastic, policy: Policy) -> bool:
    """Whether something makes a copy differ from its original in a deterministic network."""
    if policy.fill == "fresh" or policy.zero_sum:
        return True
    kept, copied = split_of(policy.split, policy.share)
    if kept != copied:
        return True
    norms = {n for n, kind in _norm_tensors(plastic)[0].items() if kind in ("weight", "bias")}
    made = {site.parameter for group in plastic.groups.values() for site in group.producers}
    return policy.noise != "none" and policy.sigma > 0 and bool(norms & made)


def touch_of(plastic: Plastic, plan: Plan, policy: Policy, seed: int) -> Touch:
    """What `policy` does to each tensor that `plan` copies neurons in.

    Raises:
        PlanError: the plan changes a width, or its shares are not the policy's.
    """
    if not plan.keeps_widths:
        raise PlanError("a policy is for plans that keep every width; use one, or no policy")
    places: dict[str, list[_Place]] = {}
    for name, edit in plan.edits.items():
        slots, originals = copies_of(edit)
        _check_shares(name, edit, slots, policy)
        for site in plastic.groups[name].sites:
            places.setdefault(site.parameter, []).append(
                _Place(name, site, edit.blocks, slots, originals)
            )
    norms, partner = _norm_tensors(plastic)
    laid = {n: tuple(p) for n, p in places.items()}
    return Touch(policy, seed, laid, norms, partner, _kernels(plastic))


def copies_of(edit: Edit) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """New neurons that are copies, and the new neuron that each one's original is.

    The original is the one that kept its index, or else the first.

    >>> copies_of(Edit(take=(0, 3, 2, 3, 0), share=(1.0,) * 5, size=5))
    ((1, 4), (3, 0))
    """
    pairs = []
    for source, news in edit.copies.items():
        first = source if source in news else news[0]
        pairs += [(new, first) for new in news if new != first]
    pairs.sort()
    return tuple(p[0] for p in pairs), tuple(p[1] for p in pairs)


def _check_shares(name: str, edit: Edit, slots: Sequence[int], policy: Policy) -> None:
    """Shares have to be of the policy's kind: norm scaling, for one, needs whole copies."""
    if policy.split == "whole":
        good = all(edit.share[j] == 1.0 for j in range(len(edit.share)))
    elif policy.split == "zero":
        good = all(edit.share[j] == 0.0 for j in slots) and _sums_to_one(edit)
    else:
        good = _sums_to_one(edit)
    if not good:
        raise PlanError(
            f"the shares of group {name!r} are not those of the policy ({policy.split!r}); make "
            f"the plan with plan_turnover(..., shares={policy.split!r})"
        )


def _sums_to_one(edit: Edit) -> bool:
    return all(abs(edit.total(source) - 1.0) <= SUM_TOLERANCE for source in edit.copies)


def _norm_tensors(plastic: Plastic) -> tuple[dict[str, str], dict[str, Tensor]]:
    """What each tensor of a norm with statistics per channel is; and the weight beside a bias."""
    if not isinstance(plastic, nn.Module):
        return {}, {}
    known: dict[int, str] = {}
    partner: dict[int, Tensor] = {}
    for module in plastic.modules():
        if not isinstance(module, _NormBase):
            continue
        own = {**module._parameters, **module._buffers}  # what is computed is no norm's parameter
        for key in ("weight", "bias", "running_mean", "running_var"):
            if own.get(key) is not None:
                known[id(own[key])] = key
        bias, weight = own.get("bias"), own.get("weight")
        if bias is not None and weight is not None:
            partner[id(bias)] = weight
    named = [*plastic.named_parameters(), *plastic.named_buffers()]
    kinds = {name: known[id(tensor)] for name, tensor in named if id(tensor) in known}
    weights = {name: partner[id(tensor)] for name, tensor in named if id(tensor) in partner}
    return kinds, weights


def _scaled_to(new: Tensor, old: Tensor, dims: Sequence[int]) -> Tensor:
    before, after = _norm(old, dims), _norm(new, dims)
    return new * torch.where(after > 0, before / after, 1.0).to(new.dtype)


def _kernels(plastic: Plastic) -> frozenset[str]:
    """Names of the weights of convolution layers."""
    if not isinstance(plastic, nn.Module):
        return frozenset()
    weights = {id(held(m, "weight")) for m in plastic.modules() if isinstance(m, _ConvNd)}
    return frozenset(name for name, p in plastic.named_parameters() if id(p) in weights)


def _norm(tensor: Tensor, dims: Sequence[int]) -> Tensor:
    wide = tensor.to(torch.promote_types(tensor.dtype, torch.float32))
    return wide.square().sum(list(dims), keepdim=True).sqrt() if dims else wide.abs()


def _neuron_dim(place: _Place) -> int:
    """Where the neurons are among the dimensions of ``tensor[place.cells(...)]``."""
    return 0 if place.site.rows is not None else place.site.axis
