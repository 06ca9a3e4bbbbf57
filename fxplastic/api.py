"""`plasticize`: a model in, a plastic module out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fxplastic.discover import Discovery, discover
from fxplastic.errors import DiscoverError, TraceError
from fxplastic.groups import ChannelGroup, FrozenAxis, Options
from fxplastic.layouts import traced_for, with_layout
from fxplastic.module import PlasticModule
from fxplastic.sharded import is_sharded
from fxplastic.trace import as_it_is, trace
from fxplastic.verify import Disagreement
from fxplastic.verify import verify as check_groups

ExampleInputs = Tensor | tuple[Any, ...] | list[Any] | Mapping[str, Any] | None


def plasticize(
    model: nn.Module,
    example_inputs: ExampleInputs = None,
    *,
    verify: bool = False,
    attention: Literal["value"] | None = None,
    approximate: bool = False,
    freeze: Sequence[str] = (),
) -> PlasticModule:
    """Trace `model` in both modes and find its channel dependency groups.

    Args:
        model: any traceable module; it is left as it was, and the result shares its tensors. A
            `PlasticModule` is not traced again: its own graphs are searched.
        example_inputs: a tensor, a tuple of positional inputs or a dict of keyword inputs. Only
            shapes and dtypes are used (values too, for integer inputs under `verify`). Default:
            the input size in the model's own `pretrained_cfg` or `default_cfg`, batch 2.
        verify: turn every group over on a float64 copy and compare with masking; what disagrees
            is frozen, with the error as the reason.
        attention: ``"value"`` opens value channels inside their attention head.
        approximate: also list groups that a norm averages over, with ``exact=False``.
        freeze: parameter names (``*`` matches anything) whose axes are left alone.

    Returns:
        A `PlasticModule` in the model's training mode.

    Raises:
        TraceError: the model cannot be traced, or no example inputs can be inferred.
        DiscoverError: a node cannot run on meta tensors, or `freeze` matches nothing.

    >>> mlp = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> plastic = plasticize(mlp, torch.zeros(2, 3))
    >>> [(g.name, g.size, g.exact) for g in plastic.groups.values()]
    [('0.weight:0', 8, True)]
    """
    _check(model, attention)
    if isinstance(model, PlasticModule) and example_inputs is None:
        now = as_it_is(model.traced, model)
        args, kwargs = now.args, now.kwargs
    else:
        args, kwargs = _inputs(model, example_inputs)
    if isinstance(model, PlasticModule):
        traced = traced_for(model, args, kwargs)
    else:
        traced = trace(model, args, kwargs)
    options = Options(attention, approximate, tuple(freeze))
    found = discover(model, traced, options)
    plastic = PlasticModule(model, traced, found.groups, found.frozen, options)
    if not verify:
        return plastic
    for _ in range(len(found.groups)):
        refuted = check_groups(plastic, args, kwargs)
        if not refuted:
            break
        found = _without(found, refuted)
        plastic = PlasticModule(model, traced, found.groups, found.frozen, options)
    return plastic


def _check(model: nn.Module, attention: str | None) -> None:
    if attention not in (None, "value"):
        raise DiscoverError(f"attention={attention!r} is not known: give None or 'value'")
    kind = type(model).__name__
    if hasattr(model, "_orig_mod"):
        raise TraceError(
            f"{kind} is compiled: pass model._orig_mod, which shares its tensors; the compiled "
            "model trains on as it is"
        )
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        raise TraceError(f"the model is wrapped in {kind}: pass model.module, which it shares")
    for name, parameter in model.named_parameters():
        if is_sharded(parameter):
            raise TraceError(
                f"parameter {name!r} of {kind} is sharded over processes, and has no whole values "
                "to trace with; call plasticize first, and fully_shard then, on the same model"
            )


def _inputs(
    model: nn.Module, example_inputs: ExampleInputs
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(example_inputs, Mapping):
        return (), dict(example_inputs)
    if isinstance(example_inputs, tuple | list):
        return tuple(example_inputs), {}
    if example_inputs is not None:
        return (example_inputs,), {}
    return (_inferred(model),), {}


def _inferred(model: nn.Module) -> Tensor:
    """A batch of two of the input size that the model's own configuration names."""
    for name in ("pretrained_cfg", "default_cfg"):
        config = getattr(model, name, None)
        size = config.get("input_size") if isinstance(config, Mapping) else None
        if size:
            dtype = next((p.dtype for p in model.parameters()), torch.float32)
            return torch.empty(2, *size, device="meta", dtype=dtype)
    raise TraceError(
        f"no input size can be inferred for {type(model).__name__}: it has no pretrained_cfg or "
        "default_cfg with an input_size; pass example_inputs, such as torch.zeros(2, 3, 224, 224)"
    )


def without_groups(plastic: PlasticModule, reasons: Mapping[str, str]) -> PlasticModule:
    """The same module with some of its groups frozen, each for a reason.

    Args:
        plastic: left as it is; tensors are shared.
        reasons: by name of a group.
    """
    groups = {n: g for n, g in plastic.groups.items() if n not in reasons}
    lost = [r for n, text in reasons.items() for r in _records(plastic.groups[n], text)]
    return with_layout(plastic, plastic.traced, groups, (*plastic.frozen, *lost))


def _without(found: Discovery, refuted: Sequence[Disagreement]) -> Discovery:
    """`found` with the refuted groups frozen."""
    reasons = {d.group: d.reason for d in refuted}
    kept = {n: g for n, g in found.groups.items() if n not in reasons}
    lost = [r for n, text in reasons.items() for r in _records(found.groups[n], text)]
    return replace(found, groups=kept, frozen=(*found.frozen, *lost))


def _records(group: ChannelGroup, reason: str) -> list[FrozenAxis]:
    return [
        FrozenAxis(s.parameter, s.axis, reason, "", "", int(s.positions.numel()))
        for s in group.sites
    ]
