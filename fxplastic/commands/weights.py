"""Weights from a file into a model: safetensors, or a checkpoint that holds nothing but tensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fxplastic.errors import ModelError

_INSIDE = ("state_dict", "model_state_dict", "model", "state_dict_ema")
_WRAPPERS = ("module.", "_orig_mod.")


def load_weights(model: nn.Module, path: Path) -> None:
    """Load every tensor of `model` from a file; all of it happens, or nothing.

    Args:
        model: on a real device.
        path: safetensors, or a file that `torch.load` reads with ``weights_only=True``: a state
            dict, or a dict that has one under a usual key (``state_dict``, ``model``). Names may
            have the prefix of a data-parallel or compiled wrapper.

    Raises:
        ModelError: no such file, not of either kind, or names or shapes that do not fit.
    """
    state = _unwrapped(_read(path))
    own = model.state_dict()
    missing, unknown = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    if missing or unknown:
        raise ModelError(
            f"{path} does not fit the model: {_listed('missing', missing)}, "
            f"{_listed('unknown', unknown)}; give the weights of this very model (and --arg for "
            "what it was built with)"
        )
    for name, tensor in own.items():
        if tensor.shape != state[name].shape:
            raise ModelError(
                f"{path}: {name!r} has shape {tuple(state[name].shape)}, the model's has "
                f"{tuple(tensor.shape)}; give --arg for what the model was built with, as in "
                "--arg num_classes=10"
            )
    model.load_state_dict(state)


def _listed(what: str, names: list[str]) -> str:
    shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    return f"{len(names)} {what}" + (f" ({shown})" if names else "")


def _read(path: Path) -> Any:
    if not path.is_file():
        raise ModelError(f"there is no file {path}; give safetensors or a checkpoint of tensors")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ModelError(
            f"{path} cannot be read: {str(error).splitlines()[0]}; give safetensors, or a file "
            "that torch.load reads with weights_only=True (a whole pickled module is not loaded, "
            "as that runs its code: save its state_dict)"
        ) from error


def _unwrapped(found: Any) -> dict[str, Tensor]:
    """The state dict in what a file holds, without a wrapper's prefix."""
    inside = [found, *(found.get(key) for key in _INSIDE)] if isinstance(found, Mapping) else []
    for item in inside:
        if isinstance(item, Mapping) and item and all(isinstance(v, Tensor) for v in item.values()):
            state = {str(name): tensor for name, tensor in item.items()}
            for prefix in _WRAPPERS:
                if all(name.startswith(prefix) for name in state):
                    state = {name.removeprefix(prefix): t for name, t in state.items()}
            return state
    raise ModelError(
        f"the file holds no state dict: neither itself nor what it has under {', '.join(_INSIDE)} "
        "is a mapping from names to tensors"
    )
