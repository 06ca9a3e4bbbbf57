"""What an optimizer remembers of a parameter, and how that follows the parameter.

Every state tensor has a law (see `fxplastic.state_laws`), of most a degree d in the gradient: under
a function-preserving plan it is gathered like the parameter and scaled by share^d on producer axes.
The law is exact for no weight decay or a decoupled one; after pruning the function changes, and
survivors keep the same formula.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from fxplastic.diversity import Touch
from fxplastic.errors import OptimizerError
from fxplastic.follow import Kept
from fxplastic.gather import Recipe
from fxplastic.plastic import Plastic
from fxplastic.policy import Policy
from fxplastic.state_laws import REFUSED, STATE_LAWS, laws_of, name_of

OptimizerT = TypeVar("OptimizerT", bound=Optimizer)


def check_optimizer(optimizer: object, plastic: Plastic) -> None:
    """Raise OptimizerError unless `optimizer` is of a known class and trains some of the model."""
    if not isinstance(optimizer, Optimizer):
        kind: type = type(optimizer)
        raise OptimizerError(
            f"optimizer is a {kind.__name__}, not a torch.optim.Optimizer; pass the optimizer "
            "itself (of a wrapper, the one inside), or None"
        )
    kind, inner = type(optimizer), getattr(optimizer, "optimizer", None)
    if laws_of(kind) is None and isinstance(inner, Optimizer):
        raise OptimizerError(
            f"{kind.__name__} wraps the {type(inner).__name__} optimizer, which shares its state "
            "with it; pass what it wraps (optimizer.optimizer)"
        )
    if laws_of(kind) is None:
        raise OptimizerError(_unknown(kind))
    own = {id(parameter) for _, parameter in plastic.named_parameters()}
    if not any(id(p) in own for group in optimizer.param_groups for p in group["params"]):
        raise OptimizerError(
            f"the {kind.__name__} optimizer shares no parameter with the model; pass the one that "
            "was built from model.parameters() or plastic.parameters() of this very model"
        )


def _unknown(kind: type) -> str:
    name = name_of(kind)
    if name in REFUSED:
        return f"the state of {name} cannot follow a turnover: {REFUSED[name]}"
    known = ", ".join(sorted(k if isinstance(k, str) else name_of(k) for k in STATE_LAWS))
    return (
        f"how the state of {kind.__module__}.{kind.__qualname__} follows a turnover is not known "
        f"(known: {known}); add a row to fxplastic.state_laws.STATE_LAWS with the degree in the "
        "gradient of each state key, or use a known class"
    )


def check_carry(optimizer: Optimizer, policy: Policy) -> None:
    """Raise OptimizerError where a policy forgets what cannot be forgotten in part."""
    laws = laws_of(type(optimizer)) or {}
    factored = [key for key, law in laws.items() if law is not None and law.kind == "factored"]
    if factored and (policy.carry == "zero" or policy.fill == "fresh"):
        raise OptimizerError(
            f"{name_of(type(optimizer))} keeps means over axes ({', '.join(factored)}), in which "
            "no neuron's part can be set to zero; use carry='law' and fill='copy', or an optimizer "
            "without factors"
        )


def carried_state(
    optimizer: Optimizer, recipe: Recipe, touch: Touch | None = None
) -> list[tuple[str, Tensor, Callable[[], Tensor]]]:
    """All that `optimizer` keeps per weight of one parameter: key, tensor, and how to make the new.

    Args:
        optimizer: left as it is.
        recipe: how the parameter is edited.
        touch: a policy that has a say in what is remembered.

    Raises:
        OptimizerError: a key without a law, or a tensor that has not the parameter's shape.
    """
    laws = laws_of(type(optimizer)) or {}
    found = []
    # `.get`, as the state is a defaultdict: looking must not add an entry.
    state = optimizer.state.get(recipe.tensor, {})
    for key, value in state.items():
        where = f"{type(optimizer).__name__} state {key!r} of {recipe.name!r}"
        if key not in laws:
            raise OptimizerError(
                f"{where} is not known (known: {', '.join(laws)}); add its degree in the gradient "
                f"to fxplastic.state_laws.STATE_LAWS[{name_of(type(optimizer))!r}]"
            )
        law = laws[key]
        if law is None or value is None:
            continue
        options = _options(optimizer, recipe.tensor)
        if touch is not None and touch.policy.carry == "copy" and law.kind != "weight":
            law = replace(law, kind="factored" if law.kind == "factored" else "power", power=0)
        kept = Kept(where, law, value, recipe, options, state, touch)
        found.append((key, value, kept.follower()))
    return found


def _options(optimizer: Optimizer, parameter: Tensor) -> Mapping[str, Any]:
    groups = optimizer.param_groups
    return next((g for g in groups if any(p is parameter for p in g["params"])), {})


def twin_optimizer(optimizer: OptimizerT, twins: Mapping[int, nn.Parameter]) -> OptimizerT:
    """A new optimizer of the same class with the same options, state and step hooks.

    It is built from the param groups, so that nothing in it leads back to the old one.

    Args:
        optimizer: left as it is.
        twins: the new parameter for the `id` of each old one; a parameter that is not in it
            (of a loss, say) stays the same object in both optimizers.
    """
    groups: list[dict[str, Any]] = []
    for group in optimizer.param_groups:
        options = {key: _copied(value) for key, value in group.items() if key != "params"}
        groups.append(options | {"params": [twins.get(id(p), p) for p in group["params"]]})
    accepted = inspect.signature(type(optimizer)).parameters
    defaults = {k: _copied(v) for k, v in optimizer.defaults.items() if k in accepted}
    # Each class names its own options, which the type of the base class cannot say.
    make: Any = type(optimizer)
    twin: OptimizerT = make(groups, **defaults)
    for parameter, state in optimizer.state.items():
        twin.state[twins.get(id(parameter), parameter)] = {
            key: _copied(value) for key, value in state.items()
        }
    for before in optimizer._optimizer_step_pre_hooks.values():
        twin.register_step_pre_hook(before)
    for after in optimizer._optimizer_step_post_hooks.values():
        twin.register_step_post_hook(after)
    return twin


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        with torch.no_grad():
            return value.detach().clone()
    return copy.deepcopy(value)
