"""`load`: a saved folder back into a plastic module, its history and its optimizer."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from fxplastic.api import plasticize, without_groups
from fxplastic.errors import FxPlasticError, SaveError
from fxplastic.layouts import set_history
from fxplastic.meta import plain_attributes
from fxplastic.models import ModelSource, build_library_model, find_library_model
from fxplastic.module import PlasticModule
from fxplastic.plan import Plan
from fxplastic.resize import with_tensors
from fxplastic.rewrite import rewrite
from fxplastic.saving.files import BUFFERS, MODEL, OPTIMIZER, PLANS, read_manifest, read_tensors
from fxplastic.saving.optimizers import Factory, optimizer_from_data
from fxplastic.saving.values import decode

Fresh = nn.Module | Callable[[], nn.Module] | None


@dataclass(frozen=True, eq=False)
class Loaded:
    """What `load` returns.

    Attributes:
        plastic: the module, as it was when it was saved.
        optimizer: with its state, for the parameters of `plastic`; ``None`` where none was saved.
        history: the plans that were carried out, oldest first.
        extra: what the caller of `save` added.
        model: the name that the model was saved under, ``None`` without one.
        arguments: of the model's builder.
    """

    plastic: PlasticModule
    optimizer: Optimizer | None
    history: tuple[Plan, ...]
    extra: Mapping[str, Any]
    model: str | None
    arguments: Mapping[str, Any]


def load(
    folder: str | Path,
    model: Fresh = None,
    optimizer: Factory | bool | None = None,
    *,
    device: torch.device | str = "cpu",
) -> Loaded:
    """Load what `fxplastic.save` wrote; nothing in the folder is executed.

    The model is built anew (on the meta device, where its library allows that), traced and
    searched, brought to its widths by the stored plans, and given the stored weights.

    Args:
        folder: that `save` made.
        model: a fresh model (it is left as it was) or a function that makes one; needed where the
            folder names none of timm or torchvision.
        optimizer: a function from param groups to the optimizer, by default the class that the
            folder names, if it is one of `fxplastic.state_laws.STATE_LAWS`; False leaves it out.
        device: where the tensors are to be.

    Raises:
        SaveError: a file is missing, damaged, of a newer version or of another model; nothing
            was changed. Of another model are other names, shapes or groups: models that differ in
            an activation alone look alike.
        FxPlasticError: the model that was given cannot be made plastic.
    """
    place = Path(folder)
    manifest = read_manifest(place)
    plans = _plans(place / PLANS)
    stored = read_tensors(place / MODEL)
    if BUFFERS in manifest["files"]:
        stored |= read_tensors(place / BUFFERS)
    named = manifest["model"] or {}
    arguments = decode(named["arguments"]) if named else {}
    plastic = _rebuilt(place, manifest, model, arguments, plans, stored)
    result = _filled(plastic, manifest, stored, torch.device(device))
    set_history(result, plans)
    return Loaded(
        plastic=result,
        optimizer=_optimizer(place, manifest, result, optimizer),
        history=plans,
        extra=decode(manifest["extra"]),
        model=named.get("name"),
        arguments=arguments,
    )


def _plans(path: Path) -> tuple[Plan, ...]:
    try:
        return tuple(Plan.from_json(text) for text in path.read_text(encoding="utf-8").splitlines())
    except FxPlasticError as error:
        raise SaveError(f"{path}: {error}") from error


def _optimizer(
    place: Path, manifest: Mapping[str, Any], plastic: PlasticModule, wanted: Factory | bool | None
) -> Optimizer | None:
    data = manifest["optimizer"]
    if data is None or wanted is False:
        return None
    factory = None if wanted is None or wanted is True else wanted
    return optimizer_from_data(data, read_tensors(place / OPTIMIZER), plastic, factory)


# ---------------------------------------------------------------- the model without its weights
def _rebuilt(
    place: Path,
    manifest: Mapping[str, Any],
    model: Fresh,
    arguments: Mapping[str, Any],
    plans: tuple[Plan, ...],
    stored: Mapping[str, Tensor],
) -> PlasticModule:
    """The model in its present widths, on meta as far as it can be."""
    if model is not None:
        made = copy.deepcopy(model) if isinstance(model, nn.Module) else model()
        if not isinstance(made, nn.Module):
            raise SaveError(f"the model that was given made a {type(made).__name__}, no module")
        return _at_widths(place, made, manifest, plans, stored)
    source = _source(place, manifest)
    try:
        made = build_library_model(source, arguments, device="meta")
        plastic = _at_widths(place, made, manifest, plans, stored)
        if not _values_missing(plastic):
            return plastic
    except FxPlasticError:  # it computes with values, or has other groups where they are not known
        pass
    made = build_library_model(source, arguments)
    return _at_widths(place, made, manifest, plans, stored)


def _source(place: Path, manifest: Mapping[str, Any]) -> ModelSource:
    named = manifest["model"]
    source = None if named is None else find_library_model(named["name"])
    if source is None:
        what = "without a model's name" if named is None else f"under the name {named['name']!r}"
        raise SaveError(
            f"{place} was saved {what}, and nothing but a model of timm or torchvision is built by "
            "its name; pass the fresh model: load(folder, model)"
        )
    return source


def _values_missing(plastic: PlasticModule) -> bool:
    """Whether tensors that no file has (constants, plain attributes) are left on meta."""
    loose = list(plastic.traced.constants.values())
    for module in plastic.modules():
        for _, value in plain_attributes(module):
            loose += [t for t in torch.utils._pytree.tree_leaves(value) if isinstance(t, Tensor)]
    return any(tensor.is_meta for tensor in loose)


def _at_widths(
    place: Path,
    model: nn.Module,
    manifest: Mapping[str, Any],
    plans: tuple[Plan, ...],
    stored: Mapping[str, Tensor],
) -> PlasticModule:
    _take_dtypes(model, stored)
    options, inputs = manifest["options"], decode(manifest["inputs"])
    example = inputs["kwargs"] if inputs["kwargs"] and not inputs["args"] else inputs["args"]
    plastic = plasticize(
        model,
        example,
        attention=options["attention"],
        approximate=options["approximate"],
        freeze=options["freeze"],
    )
    kept = set(manifest["groups"])
    refuted = dict.fromkeys(plastic.groups.keys() - kept, "it was frozen when the model was saved")
    if refuted:
        plastic = without_groups(plastic, refuted)
    first, last = manifest["fingerprints"]
    if plastic.fingerprint != first:
        raise SaveError(
            f"{place} is of another model: the groups of this one are {plastic.fingerprint[:12]}, "
            f"those that were saved {first[:12]} (with {manifest['made_with']}); give the model "
            "that was saved, built with the same arguments"
        )
    if not all(plan.keeps_widths for plan in plans):
        plastic = rewrite(plastic, _together(place, plans)).module
    if plastic.fingerprint != last:
        raise SaveError(f"{place}: its plans do not lead to the groups that were saved")
    return plastic


def _take_dtypes(model: nn.Module, stored: Mapping[str, Tensor]) -> None:
    """Give a fresh model the dtypes of the stored tensors."""
    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            for tensor in tensors.values():
                if tensor is not None:
                    tensor.grad = None
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if name in stored and stored[name].dtype != tensor.dtype:
            tensor.data = tensor.data.to(stored[name].dtype)


def _together(place: Path, plans: tuple[Plan, ...]) -> Plan:
    try:
        return reduce(Plan.then, plans)
    except FxPlasticError as error:
        raise SaveError(f"{place}: its plans do not follow one another: {error}") from error


# ---------------------------------------------------------------- its weights
def _filled(
    plastic: PlasticModule,
    manifest: Mapping[str, Any],
    stored: Mapping[str, Tensor],
    device: torch.device,
) -> PlasticModule:
    """`plastic` with the stored tensors, flags and layouts."""
    _check_names(plastic, stored)
    rows = set(manifest["channels_last"])
    new = {}
    for name, _ in (*plastic.named_parameters(), *plastic.named_buffers()):
        value = stored[name]
        layout = torch.channels_last if name in rows else torch.contiguous_format
        new[name] = value.to(device).contiguous(memory_format=layout)
    result = with_tensors(plastic, new).to(device)
    fixed, training = set(manifest["fixed"]), set(manifest["training"])
    for name, parameter in result.named_parameters():
        parameter.requires_grad_(name not in fixed)
    for path, module in result.named_modules():
        module.training = path in training
    return result


def _check_names(plastic: PlasticModule, stored: Mapping[str, Tensor]) -> None:
    own: dict[str, Tensor] = dict(plastic.named_parameters(remove_duplicate=False))
    own |= dict(plastic.named_buffers(remove_duplicate=False))
    first = {n for n, _ in (*plastic.named_parameters(), *plastic.named_buffers())}
    missing, unknown = sorted(first - stored.keys()), sorted(stored.keys() - own.keys())
    if missing or unknown:
        raise SaveError(
            f"the stored weights are of another model: {len(missing)} missing "
            f"{missing[:3]}, {len(unknown)} unknown {unknown[:3]}"
        )
    for name in first:
        if stored[name].shape != own[name].shape:
            raise SaveError(
                f"the stored weights are of another model: {name!r} has shape "
                f"{tuple(stored[name].shape)} in the file, {tuple(own[name].shape)} in the model"
            )
