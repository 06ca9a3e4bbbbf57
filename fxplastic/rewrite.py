"""Carry a plan out: in place and atomically (`rewrite_`), or on a copy (`rewrite`).

First everything is checked, then every new tensor is made, and only then the first old one is
overwritten; should anything fail in between, what was written is put back.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import Parameter
from torch.optim import Optimizer

from fxplastic import changes
from fxplastic.axis_maps import AxisMap
from fxplastic.changes import Change
from fxplastic.diversity import Touch, touch_of
from fxplastic.errors import RewriteError
from fxplastic.gather import Recipe, recipes
from fxplastic.layouts import history, set_history
from fxplastic.left_out import warn_of_silent_hooks
from fxplastic.memory import check_memory
from fxplastic.module import PlasticModule
from fxplastic.optim import carried_state, check_optimizer, twin_optimizer
from fxplastic.plan import Plan, check_plan
from fxplastic.plastic import Plastic, require_plastic
from fxplastic.policy import Policy
from fxplastic.rewritten import PlasticT, Rewritten, dress
from fxplastic.sharded import mesh_of, require_whole, reshard
from fxplastic.widths import lay_out, resized_module


def rewrite_(
    plastic: Plastic,
    plan: Plan,
    optimizer: Optimizer | None = None,
    *,
    policy: Policy | None = None,
    seed: int = 0,
) -> None:
    """Turn neurons over in place, at constant width; all of it happens, or none.

    Parameters, buffers, gradients and optimizer state stay the same objects in the same memory,
    so that compiled code, CUDA graphs, hooks, schedulers and data-parallel wrappers around the
    model stay valid, and the model that was made plastic is turned over with it. Only tensors
    that the plan touches are copied.

    Producer axes are gathered and consumer axes gathered and scaled by the share; gradients and
    optimizer state follow the law in `fxplastic.optim`.

    Args:
        plastic: the plastic module itself, not a compiled or data-parallel wrapper.
        plan: made for this model; every width stays.
        optimizer: of the model's parameters, of a class in `fxplastic.state_laws.STATE_LAWS` (all
            of `torch.optim` and timm's but a few). Without it, state that exists goes stale.
        policy: how weights are scaled and copies parted beyond what the plan's shares do; by
            default nothing is.
        seed: of what the policy draws; the same for the same seed on every device.

    Raises:
        PlanError: the plan was made for another model, or its shares are not the policy's.
        RewriteError: the plan changes a width, or cannot be laid out on a tensor.
        OptimizerError: the optimizer's state cannot be carried over. In all these cases model
            and optimizer are bit for bit as they were.
    """
    rewrite_together_([(plastic, optimizer)], plan, policy=policy, seed=seed)


def rewrite_together_(
    models: Sequence[tuple[Plastic, Optimizer | None]],
    plan: Plan,
    *,
    policy: Policy | None = None,
    seed: int = 0,
) -> None:
    """`rewrite_` of several models with the same groups (a model and its averages), or of none.

    Args:
        models: each with the optimizer that trains it, if any.
        plan: as for `rewrite_`.
        policy: as for `rewrite_`.
        seed: as for `rewrite_`.

    Raises:
        RewriteError: as for `rewrite_`; none of the models was changed.
    """
    made_together(models, plan, policy=policy, seed=seed).carry_out()


@dataclass(frozen=True, eq=False)
class Made:
    """A rewrite in place that is ready: every new tensor exists, no old one was overwritten."""

    plastics: tuple[Plastic, ...]
    plan: Plan
    changes: tuple[Change, ...]

    def carry_out(self) -> None:
        """Write all of it, or put back what was written."""
        changes.commit(self.changes)
        for plastic in self.plastics:
            _remember(plastic, self.plan)

    def undo(self) -> None:
        """Put back what `carry_out` wrote: the old values are kept where the new ones were."""
        changes.commit(self.changes)
        for plastic in self.plastics:
            _forget(plastic)


def made_together(
    models: Sequence[tuple[Plastic, Optimizer | None]],
    plan: Plan,
    *,
    policy: Policy | None = None,
    seed: int = 0,
) -> Made:
    """All that `rewrite_together_` writes, not written yet; arguments and errors as there."""
    made: list[Change] = []
    for plastic, optimizer in models:
        reshard(plastic)
        _check(plastic, plan, optimizer)
        _check_widths(plan)
        touch = None if policy is None else touch_of(plastic, plan, policy, seed)
        made += _changes(plastic, plan, optimizer, touch)
    return Made(tuple(plastic for plastic, _ in models), plan, tuple(made))


def _remember(plastic: Plastic, plan: Plan) -> None:
    if isinstance(plastic, PlasticModule):
        set_history(plastic, (*history(plastic), plan))


def _forget(plastic: Plastic) -> None:
    if isinstance(plastic, PlasticModule):
        set_history(plastic, history(plastic)[:-1])


def rewrite(
    plastic: PlasticT, plan: Plan, optimizer: Optimizer | None = None
) -> Rewritten[PlasticT]:
    """Carry a plan out on a copy of model and optimizer; the input is left alone.

    Where every width stays, this is `rewrite_` on a deep copy. Where one changes, the copy has
    tensors of other shapes, its layers' sizes and the sizes in its graphs follow, and it is run on
    names again: every neuron of it must be what the plan makes of a neuron of the old model.
    Gradients, parameter hooks and optimizer step hooks are copied along.

    Args:
        plastic: the plastic module.
        plan: made for this model.
        optimizer: of the model's parameters; parameters in it that are not the model's stay the
            same objects in the new one.

    Raises:
        PlanError: as for `rewrite_`.
        WidthError: the new widths cannot be laid out, or not exactly.
        RewriteError: as for `rewrite_`; or the model's parameters are sharded.
        OptimizerError: as for `rewrite_`.

    Warns:
        UserWarning: modules have hooks that the traced forward does not fire.

    >>> from fxplastic import Plan, plasticize
    >>> mlp = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.ReLU(), torch.nn.Linear(2, 2))
    >>> plastic = plasticize(mlp, torch.zeros(2, 3))
    >>> wider = rewrite(plastic, Plan.from_takes(plastic, {"0.weight:0": [0, 1, 1]})).module
    >>> wider.get_submodule("0")
    Linear(in_features=3, out_features=3, bias=True)
    """
    _check(plastic, plan, optimizer)
    require_whole(plastic.named_parameters(), RewriteError)
    warn_of_silent_hooks(plastic)
    if not plan.keeps_widths:
        return _rewrite_widths(plastic, plan, optimizer)
    module = copy.deepcopy(plastic)
    twins = _twins(plastic, module)
    twin = None if optimizer is None else twin_optimizer(optimizer, twins)
    rewrite_(module, plan, twin)
    return Rewritten(module, twin, _maps(recipes(plastic, plan)), _id(optimizer))


def _twins(plastic: Plastic, module: Plastic) -> dict[int, Parameter]:
    """The new parameter of each old one, by `id`, dressed like it."""
    old = dict(plastic.named_parameters(remove_duplicate=False))
    new = dict(module.named_parameters(remove_duplicate=False))
    twins = {id(old[name]): new[name] for name in old}
    for _, parameter in plastic.named_parameters():
        dress(twins[id(parameter)], parameter)
    return twins


def _rewrite_widths(
    plastic: PlasticT, plan: Plan, optimizer: Optimizer | None
) -> Rewritten[PlasticT]:
    """`rewrite` where a width changes."""
    if not isinstance(plastic, PlasticModule):
        raise RewriteError(
            f"{type(plastic).__name__} has no graph to change widths in; pass what "
            "fxplastic.plasticize returns"
        )
    changes.step("lay out")
    found, made = lay_out(plastic, plan)
    check_memory(plastic, {id(recipe.tensor) for recipe in made})
    with torch.no_grad():
        new = {r.name: list(_changes_of(r, optimizer)) for r in made}
    changes.step("build")
    values = {name: own[0].laid() for name, own in new.items()}
    module: Any = resized_module(plastic, found, values)
    _remember(module, plan)
    twins = _twins(plastic, module)
    twin = None if optimizer is None else twin_optimizer(optimizer, twins)
    for recipe in made:
        parameter = twins.get(id(recipe.tensor))
        for change in new[recipe.name][1:]:
            change.put(parameter, twin)
    changes.step("finish")
    return Rewritten(module, twin, _maps(made), _id(optimizer))


def _maps(made: Iterable[Recipe]) -> dict[str, tuple[tuple[int, ...], tuple[AxisMap, ...]]]:
    """The recipes without the tensors, which are not to be kept alive."""
    return {recipe.name: (tuple(recipe.tensor.shape), recipe.maps) for recipe in made}


def _id(optimizer: Optimizer | None) -> int | None:
    return None if optimizer is None else id(optimizer)


def _check(plastic: Plastic, plan: Plan, optimizer: Optimizer | None) -> None:
    """Refuse whatever can be refused without looking at a tensor."""
    changes.step("check")
    require_plastic(plastic, RewriteError)
    check_plan(plastic, plan)
    mesh_of([parameter for _, parameter in plastic.named_parameters()], RewriteError)
    if optimizer is not None:
        check_optimizer(optimizer, plastic)


def _check_widths(plan: Plan) -> None:
    for name, edit in plan.edits.items():
        if not edit.keeps_width:
            raise RewriteError(
                f"the plan changes group {name!r} from {edit.size} to {len(edit.take)} neurons, "
                "and in place no tensor can change its shape; use rewrite, which returns a new "
                f"module, or give a take of {edit.size} entries"
            )


def _changes(
    plastic: Plastic, plan: Plan, optimizer: Optimizer | None, touch: Touch | None
) -> list[Change]:
    """Every new tensor, made before the first old one is overwritten."""
    changes.step("lay out")
    found = recipes(plastic, plan)
    check_memory(plastic, {id(recipe.tensor) for recipe in found})
    with torch.no_grad():
        return [change for recipe in found for change in _changes_of(recipe, optimizer, touch)]


def _changes_of(
    recipe: Recipe, optimizer: Optimizer | None, touch: Touch | None = None
) -> Iterator[Change]:
    """A tensor's own change, its gradient's and its optimizer state's."""
    name, tensor = recipe.name, recipe.tensor
    states = [] if optimizer is None else carried_state(optimizer, recipe, touch)
    changes.step(f"make {name}")
    value = recipe.value()
    yield Change.of(name, tensor.detach(), value if touch is None else touch.value(recipe, value))
    if tensor.is_leaf and tensor.grad is not None:
        if tensor.grad.layout != torch.strided:
            raise RewriteError(
                f"the gradient of {name!r} is sparse; set it to None before the rewrite"
            )
        changes.step(f"make gradient of {name}")
        grad = tensor.grad.detach()
        yield Change.of(f"gradient of {name}", grad, recipe.derivative(grad, 1))
    for key, value, make in states:
        changes.step(f"make {key} of {name}")
        new = make()
        yield Change.of(f"{key} of {name}", value.detach(), new, key)
