"""The models of the zoo: their names, how each one is built, and inputs that it takes."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from fxplastic.errors import FxPlasticError

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


@dataclass(frozen=True)
class Inputs:
    """Shapes of a model's inputs.

    Attributes:
        shapes: of each floating tensor, in order, the batch first.
        options: keyword arguments that the constructor needs for these shapes.
        tokens: shapes of integer tensors by name, with the number of different values.
        named: names of the floating tensors, where they go by keyword.
    """

    shapes: tuple[tuple[int, ...], ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    tokens: Mapping[str, tuple[tuple[int, ...], int]] = field(default_factory=dict)
    named: tuple[str, ...] = ()

    def make(self, device: str, dtype: torch.dtype) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
        """Positional and keyword inputs: zeros, or distinct tokens, on `device`."""
        floats = [torch.zeros(s, device=device, dtype=dtype) for s in self.shapes]
        kwargs = dict(zip(self.named, floats, strict=False))
        draw = torch.Generator().manual_seed(3)
        for name, (shape, most) in self.tokens.items():
            values = torch.randint(most, shape, generator=draw)
            kwargs[name] = values.to(device)
        return tuple(floats[len(self.named) :]), kwargs

    @property
    def batch(self) -> int:
        """Number of samples."""
        shapes = [*self.shapes, *(shape for shape, _ in self.tokens.values())]
        return shapes[0][0]

    @property
    def side(self) -> int:
        """Size of the longest axis of an image or signal; 0 where there is none."""
        return max((size for shape in self.shapes for size in shape[2:]), default=0)

    def batched(self, batch: int) -> Inputs:
        """The same inputs in another batch."""
        return replace(
            self,
            shapes=tuple((batch, *shape[1:]) for shape in self.shapes),
            tokens={n: ((batch, *shape[1:]), most) for n, (shape, most) in self.tokens.items()},
        )

    def __str__(self) -> str:
        every = [*self.shapes, *(shape for shape, _ in self.tokens.values())]
        return " ".join("x".join(map(str, shape[1:])) for shape in every)


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
    from fxplastic.zoo import transformers

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
    with torch.device(device):
        if entry.library == "timm":
            model = _library("timm").create_model(entry.name, pretrained=False, **options)
        elif entry.library == "torchvision":
            model = _torchvision(entry.name, options)
        else:
            from fxplastic.zoo import transformers

            model = transformers.build(entry.name)
    built: nn.Module = model.train()
    return built


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
        from fxplastic.zoo import transformers

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
