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
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from fxplastic.axis_maps import AxisMap
from fxplastic.diversity import Touch, touch_of
from fxplastic.errors import RewriteError
from fxplastic.gather import Recipe, recipes
from fxplastic.memory import check_memory, laid_like
from fxplastic.module import PlasticModule, history, set_history
from fxplastic.optim import carried_state, check_optimizer, twin_optimizer
from fxplastic.plan import Plan, check_plan
from fxplastic.plastic import Plastic, require_plastic
from fxplastic.policy import Policy
from fxplastic.rewritten import PlasticT, Rewritten
from fxplastic.slices import pieces
from fxplastic.widths import lay_out, resized_module


@dataclass(frozen=True, eq=False)
class _Change:
    """A tensor and what it is to hold."""

    label: str
    old: Tensor
    new: Tensor
    key: str = ""

    def put(self, parameter: Any, optimizer: Optimizer | None) -> None:
        """Give it to a new parameter: as its gradient, or as optimizer state under `key`."""
        if not self.key:
            parameter.grad = self.new
        elif optimizer is not None:
            optimizer.state[parameter][self.key] = self.new


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
    changes: list[_Change] = []
    for plastic, optimizer in models:
        _check(plastic, plan, optimizer)
        _check_widths(plan)
        touch = None if policy is None else touch_of(plastic, plan, policy, seed)
        changes += _changes(plastic, plan, optimizer, touch)
    _commit(changes)
    for plastic, _ in models:
        _remember(plastic, plan)


def _remember(plastic: Plastic, plan: Plan) -> None:
    if isinstance(plastic, PlasticModule):
        set_history(plastic, (*history(plastic), plan))


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
        RewriteError: as for `rewrite_`.
        OptimizerError: as for `rewrite_`.

    >>> from fxplastic import Plan, plasticize
    >>> mlp = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.ReLU(), torch.nn.Linear(2, 2))
    >>> plastic = plasticize(mlp, torch.zeros(2, 3))
    >>> wider = rewrite(plastic, Plan.from_takes(plastic, {"0.weight:0": [0, 1, 1]})).module
    >>> wider.get_submodule("0")
    Linear(in_features=3, out_features=3, bias=True)
    """
    _check(plastic, plan, optimizer)
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
        _dress(twins[id(parameter)], parameter)
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
    _step("lay out")
    found, made = lay_out(plastic, plan)
    check_memory(plastic, {id(recipe.tensor) for recipe in made})
    with torch.no_grad():
        changes = {r.name: list(_changes_of(r, optimizer)) for r in made}
    _step("build")
    values = {name: laid_like(own[0].new, own[0].old) for name, own in changes.items()}
    module: Any = resized_module(plastic, found, values)
    _remember(module, plan)
    twins = _twins(plastic, module)
    twin = None if optimizer is None else twin_optimizer(optimizer, twins)
    for recipe in made:
        parameter = twins.get(id(recipe.tensor))
        for change in changes[recipe.name][1:]:
            change.put(parameter, twin)
    _step("finish")
    return Rewritten(module, twin, _maps(made), _id(optimizer))


def _maps(made: Iterable[Recipe]) -> dict[str, tuple[tuple[int, ...], tuple[AxisMap, ...]]]:
    """The recipes without the tensors, which are not to be kept alive."""
    return {recipe.name: (tuple(recipe.tensor.shape), recipe.maps) for recipe in made}


def _id(optimizer: Optimizer | None) -> int | None:
    return None if optimizer is None else id(optimizer)


def _step(name: str) -> None:
    """Called before every step of a rewrite; tests let it fail."""


def _check(plastic: Plastic, plan: Plan, optimizer: Optimizer | None) -> None:
    """Refuse whatever can be refused without looking at a tensor."""
    _step("check")
    require_plastic(plastic, RewriteError)
    check_plan(plastic, plan)
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
) -> list[_Change]:
    """Every new tensor, made before the first old one is overwritten."""
    _step("lay out")
    found = recipes(plastic, plan)
    check_memory(plastic, {id(recipe.tensor) for recipe in found})
    with torch.no_grad():
        return [change for recipe in found for change in _changes_of(recipe, optimizer, touch)]


def _changes_of(
    recipe: Recipe, optimizer: Optimizer | None, touch: Touch | None = None
) -> Iterator[_Change]:
    """A tensor's own change, its gradient's and its optimizer state's."""
    name, tensor = recipe.name, recipe.tensor
    states = [] if optimizer is None else carried_state(optimizer, recipe, touch)
    _step(f"make {name}")
    value = recipe.value()
    yield _Change(name, tensor.detach(), value if touch is None else touch.value(recipe, value))
    if tensor.is_leaf and tensor.grad is not None:
        if tensor.grad.layout != torch.strided:
            raise RewriteError(
                f"the gradient of {name!r} is sparse; set it to None before the rewrite"
            )
        _step(f"make gradient of {name}")
        grad = tensor.grad.detach()
        yield _Change(f"gradient of {name}", grad, recipe.derivative(grad, 1))
    for key, value, make in states:
        _step(f"make {key} of {name}")
        new = make()
        yield _Change(f"{key} of {name}", value.detach(), new, key)


def _commit(changes: Iterable[_Change]) -> None:
    """Write every change, or put back what was written."""
    done: list[_Change] = []
    with torch.no_grad():
        try:
            for change in changes:
                _step(f"write {change.label}")
                _swap(change)
                done.append(change)
            _step("finish")
        except BaseException:
            for change in reversed(done):
                _swap(change)
            raise


def _swap(change: _Change) -> None:
    """Exchange the contents of old and new: doing it again undoes it."""
    whole = (change.old, change.new)
    parts = pieces(change.old) if change.old.ndim else [...]  # a few rows stay in the cache
    done = 0
    try:
        for part in parts:
            _exchange(*(tensor[part] for tensor in whole))
            done += 1
    except BaseException:
        for part in parts[:done]:
            _exchange(*(tensor[part] for tensor in whole))
        raise


def _exchange(a: Tensor, b: Tensor) -> None:
    kept = a.clone()
    try:
        a.copy_(b)
        b.copy_(kept)
    except BaseException:
        a.copy_(kept)
        raise


def _dress(new: Any, old: Any) -> None:
    """Give a copied parameter what copying leaves behind: gradient, attributes, hooks.

    The gradient of a tensor that changes its shape is a change of its own.
    """
    if old.grad is not None and old.shape == new.shape:
        new.grad = old.grad.detach().clone()
    for key, value in vars(old).items():
        vars(new).setdefault(key, value)
    # PyTorch lists a tensor's hooks under private names only.
    for hooks, register in (
        ("_backward_hooks", "register_hook"),
        ("_post_accumulate_grad_hooks", "register_post_accumulate_grad_hook"),
    ):
        if not getattr(new, hooks, None):
            for hook in (getattr(old, hooks, None) or {}).values():
                getattr(new, register)(hook)
