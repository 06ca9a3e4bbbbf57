"""An optimizer's state as tensors by parameter name and JSON, and back, bit for bit."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from fxplastic.errors import OptimizerError, SaveError
from fxplastic.optim import check_optimizer
from fxplastic.plastic import Plastic
from fxplastic.saving.values import decode, encode
from fxplastic.state_laws import STATE_LAWS, name_of

Factory = Callable[[Any], Optimizer]


def optimizer_to_data(
    optimizer: Optimizer, plastic: Plastic
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What an optimizer holds: plain data, and tensors by the key that the data refers to.

    Raises:
        SaveError: its class is not in `STATE_LAWS`, it has parameters that are not the model's, or
            a value that no file holds.
    """
    try:
        check_optimizer(optimizer, plastic)
    except OptimizerError as error:
        raise SaveError(str(error)) from error
    names = {id(p): name for name, p in plastic.named_parameters()}
    tensors: dict[str, Tensor] = {}

    def plain(value: Any, key: str) -> Any:
        if isinstance(value, Tensor):
            tensors[key] = value
            return {"stored": key, "device": "cpu" if value.device.type == "cpu" else "own"}
        return {"value": encode(value, key)}

    groups = []
    for number, group in enumerate(optimizer.param_groups):
        strange = [p for p in group["params"] if id(p) not in names]
        if strange:
            raise SaveError(
                f"param group {number} of the optimizer has {len(strange)} parameters that are not "
                f"the model's (the first of shape {tuple(strange[0].shape)}); save an optimizer of "
                "the model's parameters alone, and keep the others yourself"
            )
        options = {k: plain(v, f"group {number}|{k}") for k, v in group.items() if k != "params"}
        groups.append({"params": [names[id(p)] for p in group["params"]], "options": options})
    state = {
        names[id(parameter)]: {k: plain(v, f"{names[id(parameter)]}|{k}") for k, v in own.items()}
        for parameter, own in optimizer.state.items()
        if id(parameter) in names
    }
    defaults = {k: plain(v, f"default|{k}") for k, v in optimizer.defaults.items()}
    kind = name_of(type(optimizer))
    return {"class": kind, "groups": groups, "state": state, "defaults": defaults}, tensors


def optimizer_from_data(
    data: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    plastic: nn.Module,
    factory: Factory | None,
) -> Optimizer:
    """The optimizer that `optimizer_to_data` wrote out, for the parameters of `plastic`.

    Args:
        data: plain data.
        tensors: on the CPU.
        plastic: the loaded module.
        factory: makes the optimizer from its param groups; by default the class that is named,
            which has to be one of `STATE_LAWS`.

    Raises:
        SaveError: no such class, or the factory makes another one.
    """
    parameters = dict(plastic.named_parameters())

    def value(item: Mapping[str, Any], device: torch.device | None) -> Any:
        if "stored" not in item:
            return decode(item["value"])
        here = torch.device("cpu") if item["device"] == "cpu" or device is None else device
        return tensors[item["stored"]].to(here, copy=True)

    devices = {parameter.device for parameter in parameters.values()}
    device = next(iter(devices)) if len(devices) == 1 else None
    groups = [
        {k: value(v, device) for k, v in group["options"].items()}
        | {"params": [parameters[name] for name in group["params"]]}
        for group in data["groups"]
    ]
    defaults = {k: value(v, device) for k, v in data["defaults"].items()}
    optimizer = _made(data["class"], groups, defaults, factory)
    for own, group in zip(optimizer.param_groups, groups, strict=True):
        own.update({k: v for k, v in group.items() if k != "params"})
    optimizer.defaults.update(defaults)
    for name, state in data["state"].items():
        parameter = parameters[name]
        optimizer.state[parameter] = {k: value(v, parameter.device) for k, v in state.items()}
    return optimizer


def _made(
    kind: str, groups: list[dict[str, Any]], defaults: dict[str, Any], factory: Factory | None
) -> Optimizer:
    if factory is not None:
        made = factory(groups)
        if not isinstance(made, Optimizer) or name_of(type(made)) != kind:
            raise SaveError(
                f"the factory made a {type(made).__name__}, and the saved state is that of "
                f"{kind}; give a factory that makes one of these"
            )
        return made
    make = _class_of(kind)
    accepted = inspect.signature(make).parameters
    options = {k: v for k, v in defaults.items() if k in accepted}
    return cast("Optimizer", make([dict(group) for group in groups], **options))


def _class_of(kind: str) -> Any:
    """The class of a name in the table; nothing else that a file may name."""
    package, _, name = kind.partition(".")
    if kind in STATE_LAWS and package == "torch":
        return getattr(torch.optim, name)
    if kind in STATE_LAWS and package == "timm":
        import timm.optim

        found = getattr(timm.optim, name, None)
        if found is not None:
            return found
    raise SaveError(
        f"the saved optimizer is a {kind}, which is not built from a name in a file; pass "
        "optimizer=lambda groups: ... that makes one, or optimizer=False to leave it out"
    )
