"""Models by name: of timm, of torchvision, or made by a function of the user's own.

A name is looked up in the registries of the two libraries; it is never taken as code. Only
`build_model`, which is for names that a user has typed, imports a function.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, cast

import torch
from torch import nn

from fxplastic.errors import ModelError

Kind = Literal["timm", "torchvision", "function", "saved"]
MANIFEST = "fxplastic.json"
"""The file by which a saved folder is told from others."""

# Arguments by which a constructor would read weights, from a file or over the network.
_WEIGHTS = frozenset(
    "pretrained pretrained_cfg pretrained_cfg_overlay checkpoint_path cache_dir weights "
    "weights_backbone".split()
)
_NO_ARGUMENTS: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class ModelSource:
    """Where a model comes from.

    Attributes:
        name: its name in its library, ``"package.module:function"``, or the path of a saved folder.
        kind: which of these it is.
    """

    name: str
    kind: Kind

    @property
    def key(self) -> str:
        """The name that `find_model` finds it by again, library included.

        >>> ModelSource("resnet18", "timm").key
        'timm/resnet18'
        """
        return f"{self.kind}/{self.name}" if self.kind in ("timm", "torchvision") else self.name


def find_model(name: str) -> ModelSource:
    """What a name stands for; nothing is imported but the two libraries, and nothing is built.

    Args:
        name: ``"timm/NAME"``, ``"torchvision/NAME"``, a bare name (timm is asked first),
            ``"package.module:function"``, or the path of a folder that `fxplastic.save` wrote.

    Raises:
        ModelError: there is no such model; the message has the nearest names.

    >>> find_model("resnet18").key, find_model("torchvision/resnet18").key
    ('timm/resnet18', 'torchvision/resnet18')
    >>> find_model("my_models:small").kind
    'function'
    """
    if not isinstance(name, str) or not name:
        raise ModelError(f"a model's name is text, not {name!r}; give one such as timm/resnet18")
    library = find_library_model(name)
    if library is not None:
        return library
    if (Path(name) / MANIFEST).is_file():
        return ModelSource(name, "saved")
    module, colon, function = name.partition(":")
    if colon and all(part.isidentifier() for part in (*module.split("."), *function.split("."))):
        return ModelSource(name, "function")
    raise ModelError(f"there is no model {name!r}: {_hint(name)}")


def find_library_model(name: str) -> ModelSource | None:
    """The model of timm or torchvision with this name; None where neither has it.

    >>> find_library_model("os:system") is None
    True
    """
    libraries: tuple[Kind, ...] = ("timm", "torchvision")
    for kind in libraries:
        short = name.removeprefix(f"{kind}/")
        if "/" not in short and _has(kind, short):
            return ModelSource(short, kind)
    return None


def build_model(
    source: ModelSource,
    arguments: Mapping[str, Any] = _NO_ARGUMENTS,
    *,
    device: torch.device | str | None = None,
) -> nn.Module:
    """A fresh model with random weights.

    For a ``"function"`` the module is imported and the function called, which runs its code: only
    for a name that the user gave, never for one out of a file.

    Args:
        source: from `find_model`.
        arguments: keyword arguments of the constructor or function.
        device: where its tensors are made; ``"meta"`` makes none. Default: PyTorch's own.

    Raises:
        ModelError: the library is missing, the arguments do not fit or ask for pretrained
            weights, the function cannot be imported or returns no module, or the source is a
            saved folder.

    >>> model = build_model(find_model("timm/test_resnet"), {"num_classes": 7}, device="meta")
    >>> model.num_classes, next(model.parameters()).device.type
    (7, 'meta')
    """
    if source.kind != "function":
        return build_library_model(source, arguments, device=device)
    function = _imported(source.name)
    model = _called(source, function, dict(arguments), device)
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"{source.name} returned a {type(model).__name__}; it has to return a torch.nn.Module"
        )
    return model


def build_library_model(
    source: ModelSource,
    arguments: Mapping[str, Any] = _NO_ARGUMENTS,
    *,
    device: torch.device | str | None = None,
) -> nn.Module:
    """`build_model` for timm and torchvision alone: safe for a name that a file gives.

    Raises:
        ModelError: as for `build_model`, or the source is of another kind.
    """
    if source.kind not in ("timm", "torchvision"):
        raise ModelError(
            f"{source.name!r} is no model of timm or torchvision (it is a {source.kind}); "
            + ("use fxplastic.load" if source.kind == "saved" else "use build_model")
        )
    _check_arguments(source, arguments)
    if source.kind == "timm":
        settings: dict[str, Any] = {"pretrained": False, "model_name": source.name}
        make = _library("timm").create_model
    else:
        models = _library("torchvision.models")
        make = models.get_model_builder(source.name)
        settings = _without_weights(make, source.name)
    return cast("nn.Module", _called(source, make, settings | dict(arguments), device))


def _check_arguments(source: ModelSource, arguments: Mapping[str, Any]) -> None:
    for key, value in arguments.items():
        if key in _WEIGHTS:
            raise ModelError(
                f"argument {key!r} of {source.key} asks for stored weights, and models are built "
                "with random ones here; leave it out, and load weights with load_state_dict"
            )
        if key == "model_name":
            raise ModelError(f"argument {key!r} of {source.key} would rename it; leave it out")
        try:
            json.dumps(value)
        except (TypeError, ValueError) as error:
            raise ModelError(
                f"argument {key!r} of {source.key} is {value!r:.80}, no JSON value ({error}); "
                "write a function package.module:function that makes the model"
            ) from None


def _without_weights(make: Any, name: str) -> dict[str, Any]:
    takes = inspect.signature(make).parameters
    settings: dict[str, Any] = {
        key: None for key in ("weights", "weights_backbone") if key in takes
    }
    if name in ("googlenet", "inception_v3"):  # their own start takes a minute, and warns
        settings["init_weights"] = False
    return settings


def _called(
    source: ModelSource, make: Any, arguments: dict[str, Any], device: torch.device | str | None
) -> object:
    try:
        if device is None:
            return make(**arguments)
        with torch.device(device):
            return make(**arguments)
    except Exception as error:  # whatever a constructor raises
        given = {k: v for k, v in arguments.items() if k not in (*_WEIGHTS, "model_name")}
        raise ModelError(
            f"{source.key} cannot be built with arguments {given}: "
            f"{type(error).__name__}: {error}; change them"
        ) from error


def _imported(name: str) -> Any:
    module, _, path = name.partition(":")
    try:
        found: Any = importlib.import_module(module)
    except ImportError as error:
        raise ModelError(
            f"module {module!r} of {name!r} cannot be imported ({error}); check its name, and that "
            "its folder is on sys.path (PYTHONPATH)"
        ) from error
    for part in path.split("."):
        if not hasattr(found, part):
            raise ModelError(f"{module!r} has no {path!r}; give package.module:function")
        found = getattr(found, part)
    if not callable(found):
        raise ModelError(f"{name!r} is a {type(found).__name__}, which cannot be called")
    return found


# ---------------------------------------------------------------- registries
def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        root = name.split(".")[0]
        raise ModelError(f"{root} is needed and not installed: pip install {root}") from error


def _has(kind: str, name: str) -> bool:
    """Whether a registry has this very name (for timm, a pretrained tag after a dot may follow)."""
    if kind == "timm":
        return ":" not in name and bool(_library("timm").is_model(name))
    models = _library("torchvision.models")
    return name in models.list_models()


def _hint(name: str) -> str:
    models = _library("torchvision.models")
    short = name.rsplit("/", 1)[-1]
    libraries = {"timm": _library("timm").list_models(), "torchvision": models.list_models()}
    own = [k for k in libraries if name.startswith(f"{k}/")] or list(libraries)
    near = [
        f"{kind}/{match}"
        for kind in own
        for match in difflib.get_close_matches(short, libraries[kind], n=3, cutoff=0.6)
    ]
    if near:
        return f"did you mean {' or '.join(near)}?"
    return (
        "give a name of timm or torchvision (timm.list_models() and torchvision.models."
        "list_models() have them all), package.module:function, or a folder that was saved"
    )
