"""Arguments and options that several commands have, and the model that they name."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, cast

import torch
import typer
from torch import Tensor, nn

from fxplastic.api import plasticize
from fxplastic.commands.weights import load_weights
from fxplastic.errors import ModelError
from fxplastic.interpret import tensors_in
from fxplastic.meta import plain_attributes
from fxplastic.models import ModelSource, build_model, find_model
from fxplastic.module import PlasticModule

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A name in timm or torchvision, package.module:function, or a folder that "
        "fxplastic.save wrote.",
        show_default=False,
    ),
]
Weights = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="safetensors, or a checkpoint of tensors (weights_only)."),
]
Arguments = Annotated[
    list[str] | None,
    typer.Option("--arg", metavar="KEY=VALUE", help="Argument of the model's builder; repeat it."),
]
Inputs = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        metavar="SIZES",
        help="Shape of an example input, as in 2,3,224,224 or 2,16:int64; once per input. "
        "By default the size that the model was made for, batch 2.",
    ),
]
Attention = Annotated[
    str | None,
    typer.Option(metavar="value", help="'value' opens value channels inside attention heads."),
]
Approximate = Annotated[
    bool, typer.Option("--approximate", help="List groups that a norm averages over, too.")
]
Freeze = Annotated[
    list[str] | None,
    typer.Option(metavar="PATTERN", help="Parameters to leave alone, as in 'stem.*'; repeat it."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON (see: fxplastic schema).")]
Seed = Annotated[int, typer.Option(help="Of random weights and draws.")]


@dataclass(frozen=True)
class Subject:
    """What a command is asked to look at."""

    model: str
    weights: Path | None = None
    arguments: Sequence[str] = ()
    inputs: Sequence[str] = ()
    attention: str | None = None
    approximate: bool = False
    freeze: Sequence[str] = ()
    seed: int = 0

    @classmethod
    def of(cls, model: str, weights: Path | None, arguments: Iterable[str] | None,
           inputs: Iterable[str] | None, **options: Any) -> Subject:  # fmt: skip
        """From what the command line gives, where a list that is not given is `None`."""
        options["freeze"] = tuple(options.get("freeze") or ())
        return cls(model, weights, tuple(arguments or ()), tuple(inputs or ()), **options)

    def builder_arguments(self) -> dict[str, Any]:
        """The model's own arguments: JSON where it is JSON, else text."""
        return dict(_argument(text) for text in self.arguments)

    def plastic(self, *, real: bool = False) -> PlasticModule:
        """The plastic module.

        Args:
            real: with weights (of its own seed, where no file is given); otherwise, as far as the
                model can be built there, on the meta device.

        Raises:
            FxPlasticError: there is no such model, it cannot be built, traced or searched, or a
                file of weights does not fit.
        """
        source = find_model(self.model)
        if source.kind == "saved":
            return self._saved()
        torch.manual_seed(self.seed)
        model = self._built(source, meta=not real and self.weights is None)
        if self.weights is not None:
            load_weights(model, self.weights)
        return plasticize(
            model.eval(),
            self._example(model, source.kind),
            attention=cast("Any", self.attention),
            approximate=self.approximate,
            freeze=self.freeze,
        )

    def _built(self, source: ModelSource, *, meta: bool) -> nn.Module:
        arguments = self.builder_arguments()
        if meta:
            try:
                model = build_model(source, arguments, device="meta")
                if not _has_indices(model):
                    return model
            except ModelError:  # a constructor that computes with tensors: it needs their values
                pass
        return build_model(source, arguments)

    def _saved(self) -> PlasticModule:
        from fxplastic.saving import load

        given = [
            name
            for name, value in (
                ("--arg", self.arguments), ("--input", self.inputs), ("--freeze", self.freeze),
                ("--attention", self.attention), ("--approximate", self.approximate),
            ) if value
        ]  # fmt: skip
        if given:
            raise ModelError(
                f"{given[0]} goes with a model that is built; {self.model} is a saved one, which "
                "has its arguments, inputs and options in it: leave it out"
            )
        plastic: PlasticModule = load(self.model, optimizer=False).plastic
        if self.weights is not None:
            load_weights(plastic, self.weights)
        return plastic

    def _example(self, model: nn.Module, kind: str) -> Any:
        """Example inputs: those that are given, or of torchvision's models' usual size."""
        if self.inputs:
            return tuple(_input(text) for text in self.inputs)
        if kind == "torchvision":
            return _torchvision_input(model)
        return None


def _has_indices(model: nn.Module) -> bool:
    """Whether a model holds whole numbers by which its code may look others up.

    What they are tells neurons apart: without their values, groups and reasons could be others.
    """
    return any(
        tensor.ndim > 0 and not (tensor.is_floating_point() or tensor.is_complex())
        for tensor in (*model.buffers(), *_loose(model))
    )


def _loose(model: nn.Module) -> Iterator[Tensor]:
    """Tensors in plain attributes."""
    for module in model.modules():
        for _, value in plain_attributes(module):
            yield from tensors_in(value)


def _argument(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key.isidentifier():
        raise ModelError(f"--arg {text}: give KEY=VALUE, as in num_classes=10")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


def _input(text: str) -> Tensor:
    """Zeros of a shape and dtype, on meta."""
    sizes, _, kind = text.partition(":")
    dtype = getattr(torch, kind or "float32", None)
    parts = sizes.split(",")
    if not all(p.strip().isdigit() for p in parts) or not isinstance(dtype, torch.dtype):
        raise ModelError(
            f"--input {text}: give sizes and, where it is not float32, a dtype, as in "
            "2,3,224,224 or 2,16:int64"
        )
    return torch.zeros([int(p) for p in parts], dtype=dtype, device="meta")


def _torchvision_input(model: nn.Module) -> Tensor:
    """What torchvision's own models are made for."""
    part = type(model).__module__.split(".")[2:3]
    if part == ["video"] or part == ["optical_flow"]:
        raise ModelError(
            f"{type(model).__name__} takes videos or pairs of images: give their shapes with "
            "--input, as in --input 2,3,8,112,112"
        )
    side = 299 if type(model).__name__ == "Inception3" else 224
    return torch.zeros(2, 3, side, side, device="meta")


def mapping(pairs: Mapping[str, Any], form: str) -> dict[str, Any]:
    """`pairs` under the name and version of a form of output."""
    return {"format": f"fxplastic.{form}", "version": 1, **pairs}
