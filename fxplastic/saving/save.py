"""`save`: a plastic module, its history and its optimizer into a folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from fxplastic.errors import SaveError
from fxplastic.groups import Options
from fxplastic.layouts import history, options_of
from fxplastic.models import find_model
from fxplastic.module import PlasticModule
from fxplastic.saving.files import (
    BUFFERS,
    FORMAT,
    MODEL,
    OPTIMIZER,
    PLANS,
    VERSION,
    write_folder,
    write_tensors,
)
from fxplastic.saving.optimizers import optimizer_to_data
from fxplastic.saving.values import encode


def save(
    folder: str | Path,
    plastic: PlasticModule,
    *,
    optimizer: Optimizer | None = None,
    model: str | None = None,
    arguments: Mapping[str, Any] | None = None,
    extra: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> None:
    """Save a plastic module without pickle.

    The folder has ``model.safetensors`` with the keys of `state_dict` (where no width was changed,
    the stock model loads it), ``plans.jsonl`` with the module's history, ``optimizer.safetensors``,
    and ``fxplastic.json`` with all else and a SHA-256 of each file. It is complete before it gets
    its name.

    Args:
        folder: that is to be made.
        plastic: the module, on any device.
        optimizer: of its parameters, of a class in `fxplastic.state_laws.STATE_LAWS`.
        model: how the model is built: a name in timm or torchvision. Whatever else it is, as in
            ``"package.module:function"``, is kept for readers alone: `load` is then given the
            model, as nothing that a file names is run.
        arguments: of the model's builder; JSON values.
        extra: JSON values of your own.
        overwrite: replace a folder that was saved before.

    Raises:
        SaveError: the folder exists, or something cannot be written; nothing is left behind.

    >>> import tempfile, timm
    >>> from fxplastic import load, plasticize
    >>> plastic = plasticize(timm.create_model("test_resnet"), torch.zeros(2, 3, 32, 32))
    >>> with tempfile.TemporaryDirectory() as place:
    ...     save(f"{place}/net", plastic, model="test_resnet", extra={"epoch": 3})
    ...     load(f"{place}/net").extra
    {'epoch': 3}
    """
    if not isinstance(plastic, PlasticModule):
        raise SaveError(
            f"save takes what fxplastic.plasticize returns, not a {type(plastic).__name__}"
        )
    manifest = _manifest(plastic, model, arguments or {}, extra or {})
    state = _state(plastic)
    kept = None if optimizer is None else optimizer_to_data(optimizer, plastic)

    def fill(place: Path) -> Mapping[str, Any]:
        write_tensors(place / MODEL, state)
        loose = {n: b for n, b in plastic.named_buffers() if n not in state}
        if loose:
            write_tensors(place / BUFFERS, loose)
        lines = "".join(json.dumps(json.loads(p.to_json())) + "\n" for p in history(plastic))
        (place / PLANS).write_text(lines, encoding="utf-8")
        if kept is not None:
            write_tensors(place / OPTIMIZER, kept[1])
        return manifest | {"optimizer": None if kept is None else kept[0]}

    write_folder(Path(folder), fill, overwrite)


def _state(plastic: PlasticModule) -> dict[str, Tensor]:
    state = plastic.state_dict()
    lost = [name for name, _ in plastic.named_parameters() if name not in state]
    if lost:
        raise SaveError(
            f"the state dict has no {lost[0]!r} (a hook of the model gives it other names, say): "
            "what is stored under other names could not be loaded; save the module without it"
        )
    for name, value in state.items():
        if not isinstance(value, Tensor) or value.is_meta or value.layout != torch.strided:
            kind = "tensor without values" if isinstance(value, Tensor) else type(value).__name__
            raise SaveError(
                f"{name!r} of the state dict is a {kind}, which safetensors does not hold; "
                "give the module real, dense tensors alone"
            )
    return dict(state)


def _manifest(
    plastic: PlasticModule,
    model: str | None,
    arguments: Mapping[str, Any],
    extra: Mapping[str, Any],
) -> dict[str, Any]:
    options: Options = options_of(plastic)
    tensors = [*plastic.named_parameters(), *plastic.named_buffers()]
    plans = history(plastic)
    traced = plastic.traced
    named = None if model is None else {
        "name": find_model(model).key, "arguments": encode(dict(arguments), "arguments")
    }  # fmt: skip
    return {
        "format": FORMAT,
        "version": ".".join(map(str, VERSION)),
        "made_with": {
            n: metadata.version(n) for n in ("fxplastic", "torch", "torchvision", "timm")
        },
        "model": named,
        "options": {
            "attention": options.attention,
            "approximate": options.approximate,
            "freeze": list(options.freeze),
        },
        "inputs": encode({"args": tuple(traced.args), "kwargs": dict(traced.kwargs)}, "the inputs"),
        "groups": list(plastic.groups),  # fewer than discovery finds where some were refuted
        "fingerprints": [plans[0].source if plans else plastic.fingerprint, plastic.fingerprint],
        "training": [path for path, m in plastic.named_modules() if m.training],
        "fixed": [name for name, p in plastic.named_parameters() if not p.requires_grad],
        "channels_last": [name for name, t in tensors if _channels_last(t)],
        "extra": encode(dict(extra), "extra"),
    }


def _channels_last(tensor: Tensor) -> bool:
    return (
        tensor.ndim == 4
        and not tensor.is_contiguous()
        and tensor.is_contiguous(memory_format=torch.channels_last)
    )
