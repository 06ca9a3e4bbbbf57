"""The models of the zoo: their names, how each one is built, and inputs that it takes."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn

from fxplastic.errors import FxPlasticError
from fxplastic.zoo import transformers
from fxplastic.zoo.inputs import Inputs

LIBRARIES = ("timm", "torchvision", "transformers")
_FLOW = (2, 3, 128, 128)


@dataclass(frozen=True)
class Entry:
    """One model name of one library."""

    library: str
    name: str

    @property
    def key(self) -> str:
        """``"library/name"``."""
        return f"{self.library}/{self.name}"


# ---------------------------------------------------------------- names
def entries(libraries: Iterable[str] = LIBRARIES, patterns: Iterable[str] = ()) -> list[Entry]:
    """The models of `libraries` whose name or ``library/name`` matches a pattern (all by default).

    Raises:
        FxPlasticError: a pattern matches no model.
    """
    every = [Entry(library, name) for library in libraries for name in _names(library)]
    wanted = list(patterns)
    for pattern in wanted:
        if not any(_matches(entry, pattern) for entry in every):
            raise FxPlasticError(
                f"{pattern!r} matches no model of {', '.join(libraries)}; give names or patterns "
                "with *, as in resnet18 or timm/vit_*"
            )
    return [e for e in every if not wanted or any(_matches(e, p) for p in wanted)]


def _matches(entry: Entry, pattern: str) -> bool:
    return fnmatchcase(entry.name, pattern) or fnmatchcase(entry.key, pattern)


def _names(library: str) -> list[str]:
    if library == "timm":
        return list(_library("timm").list_models())
    if library == "torchvision":
        models = _library("torchvision.models")
        parts = (models, models.segmentation, models.video, models.optical_flow)
        return [name for part in parts for name in models.list_models(module=part)]
    return list(transformers.CONFIGS)


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise FxPlasticError(
            f"the zoo needs {name.split('.')[0]}, which is not installed: pip install "
            "'fxplastic[zoo]'"
        ) from error


# ---------------------------------------------------------------- building
def build(entry: Entry, options: Mapping[str, Any], device: str) -> nn.Module:
    """The model with random weights (none on the meta device), in train mode."""
    try:
        with torch.device(device):
            return _built(entry, options).train()
    except NotImplementedError:
        if device != "meta":
            raise
        # A constructor that computes sizes by tensors needs their values.
        return _built(entry, options).train().to("meta")


def _built(entry: Entry, options: Mapping[str, Any]) -> nn.Module:
    model: nn.Module
    if entry.library == "timm":
        model = _library("timm").create_model(entry.name, pretrained=False, **options)
    elif entry.library == "torchvision":
        model = _torchvision(entry.name, options)
    else:
        model = transformers.build(entry.name)
    return model


def _torchvision(name: str, options: Mapping[str, Any]) -> nn.Module:
    models = _library("torchvision.models")
    takes = inspect.signature(models.get_model_builder(name)).parameters
    settings: dict[str, Any] = {"weights": None}
    if "weights_backbone" in takes:
        settings["weights_backbone"] = None
    if name in ("googlenet", "inception_v3"):  # their own takes a minute, and warns
        settings["init_weights"] = False
    return models.get_model(name, **settings, **options)  # type: ignore[no-any-return]


def family(entry: Entry, model: nn.Module) -> str:
    """The file of the library that holds the model's class."""
    if entry.library == "transformers":
        return entry.name
    return type(model).__module__.rsplit(".", 1)[-1]


# ---------------------------------------------------------------- inputs
def own_inputs(entry: Entry, model: nn.Module, batch: int = 2) -> Inputs:
    """Inputs of the size that the model was made for."""
    if entry.library == "timm":
        config: Any = getattr(model, "pretrained_cfg", None) or model.default_cfg
        return Inputs(((batch, *config["input_size"]),))
    if entry.library == "transformers":
        return transformers.inputs(entry.name, batch)
    if "raft" in entry.name:
        return Inputs(((batch, *_FLOW[1:]),) * 2)
    part = type(model).__module__.split(".")[2]
    if part == "video":
        side, frames = (112, 8) if "resnet" in type(model).__module__ else (224, 16)
        return Inputs(((batch, 3, frames, side, side),))
    return Inputs(((batch, 3, *(2 * (299 if entry.name == "inception_v3" else 224,))),))


SIDES = (56, 64, 84, 96, 112, 126, 128, 140, 160, 168, 192, 196, 224, 256)


def smaller_inputs(entry: Entry, own: Inputs) -> Iterable[Inputs]:
    """Inputs below the own size, smallest first, with the constructor's options that fit them.

    Models that are made for one size are made for the smaller one, where their constructor can.
    """
    if len(own.shapes) != 1 or own.tokens:
        return
    (batch, channels, *size), *_ = own.shapes
    option = "img_size" if entry.library == "timm" else "image_size"
    for side in SIDES:
        if side >= min(size[-2:]):
            return
        shape = (batch, channels, *size[:-2], side, side)
        yield Inputs((shape,))
        yield Inputs((shape,), {option: side})
