"""What an optimizer remembers of a parameter, and how that follows the parameter.

Every state tensor has a degree d in the gradient: under a function-preserving plan it is gathered
like the parameter and scaled by share^d on producer axes. The law is exact for no weight decay or
a decoupled one; after pruning the function changes, and survivors keep the same formula.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from fxplastic.errors import OptimizerError
from fxplastic.gather import Recipe
from fxplastic.plastic import Plastic

OptimizerT = TypeVar("OptimizerT", bound=Optimizer)

# Degree in the gradient of each state key; None for what belongs to no single weight (a step
# count). To teach fxplastic another optimizer, add a row: the class itself, not a parent.
STATE_DEGREES: dict[type[Optimizer], dict[str, int | None]] = {
    SGD: {"momentum_buffer": 1},
    Adam: {"step": None, "exp_avg": 1, "exp_avg_sq": 2, "max_exp_avg_sq": 2},
    AdamW: {"step": None, "exp_avg": 1, "exp_avg_sq": 2, "max_exp_avg_sq": 2},
}


def check_optimizer(optimizer: object, plastic: Plastic) -> None:
    """Raise OptimizerError unless `optimizer` is of a known class and trains some of the model."""
    kind = type(optimizer)
    if not isinstance(optimizer, Optimizer):
        raise OptimizerError(
            f"optimizer is a {kind.__name__}, not a torch.optim.Optimizer; pass the optimizer "
            "itself (of a wrapper, the one inside), or None"
        )
    if kind not in STATE_DEGREES:
        known = ", ".join(sorted(row.__name__ for row in STATE_DEGREES))
        raise OptimizerError(
            f"how the state of {kind.__module__}.{kind.__qualname__} follows a turnover is not "
            f"known (known: {known}); add a row to fxplastic.optim.STATE_DEGREES with the degree "
            "in the gradient of each state key, or use a known class"
        )
    own = {id(parameter) for _, parameter in plastic.named_parameters()}
    if not any(id(p) in own for group in optimizer.param_groups for p in group["params"]):
        raise OptimizerError(
            f"the {kind.__name__} optimizer shares no parameter with the model; pass the one that "
            "was built from model.parameters() or plastic.parameters() of this very model"
        )


def state_tensors(optimizer: Optimizer, recipe: Recipe) -> list[tuple[str, Tensor, int]]:
    """Key, tensor and degree of all that `optimizer` keeps per weight of one parameter.

    Raises:
        OptimizerError: a key without a degree, or a tensor that has not the parameter's shape.
    """
    degrees = STATE_DEGREES[type(optimizer)]
    found = []
    # `.get`, as the state is a defaultdict: looking must not add an entry.
    for key, value in optimizer.state.get(recipe.tensor, {}).items():
        where = f"{type(optimizer).__name__} state {key!r} of {recipe.name!r}"
        if key not in degrees:
            raise OptimizerError(
                f"{where} is not known (known: {', '.join(degrees)}); add its degree in the "
                f"gradient to fxplastic.optim.STATE_DEGREES[{type(optimizer).__name__}]"
            )
        degree = degrees[key]
        if degree is None or value is None:
            continue
        if not isinstance(value, Tensor) or value.shape != recipe.tensor.shape:
            shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise OptimizerError(
                f"{where} is {shape}, not a tensor of the parameter's shape "
                f"{tuple(recipe.tensor.shape)}; the optimizer belongs to another state of the "
                "model: build it anew, or load the state that goes with these weights"
            )
        found.append((key, value, degree))
    return found


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
