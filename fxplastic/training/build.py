"""From a configuration to all that a loop needs, or an error before anything is trained."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import timm
import torch
from timm.optim import create_optimizer_v2, list_optimizers  # type: ignore[attr-defined]
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from fxplastic.api import plasticize
from fxplastic.controller import Plasticity
from fxplastic.data import LongTailed, TensorSet, load
from fxplastic.errors import TrainingError
from fxplastic.module import PlasticModule
from fxplastic.training.batches import batches_per_epoch
from fxplastic.training.config import Config
from fxplastic.training.losses import Loss, check_labels, make_loss
from fxplastic.training.options import suggestion
from fxplastic.training.randomness import seed_all


@dataclass(frozen=True, eq=False)
class Parts:
    """What a loop trains with.

    Attributes:
        data: training and test set.
        device: of the model.
        model: the model itself; its neurons turn over.
        forward: the model, compiled if the run is to be.
        optimizer: of its parameters.
        scheduler: of the learning rate, stepped once per batch.
        scaler: of the loss; not enabled without AMP.
        ema: averaged weights, or None.
        loss: trains.
        score_loss: scores neurons, or None where `loss` does.
        plasticity: turns neurons over, or None.
        steps: batches in an epoch.
    """

    data: LongTailed
    device: torch.device
    model: nn.Module
    forward: Callable[[Tensor], Tensor]
    optimizer: Optimizer
    scheduler: LambdaLR
    scaler: GradScaler
    ema: ModelEmaV3 | None
    loss: Loss
    score_loss: Loss | None
    plasticity: Plasticity | None
    steps: int

    @property
    def evaluated(self) -> nn.Module:
        """The averaged weights where there are any, else the model."""
        if self.ema is None:
            return self.model
        average: nn.Module = self.ema.module
        return average


def build(config: Config) -> Parts:
    """Data, model, optimizer and controller; the weights depend on the seed alone.

    Raises:
        TrainingError: a device that is not there, labels out of range, a class without samples,
            no such model or optimizer, a model with another number of classes.
        FxPlasticError: of another kind, from the data, from tracing the model, or from the
            controller (a model without channel groups).
    """
    device = device_of(config)
    data = _loaded(config, device)
    classes = len(data.classes)
    check_labels(data.labels, classes)
    steps = batches_per_epoch(len(data.labels), config.batch)
    if steps == 0:
        raise TrainingError(f"{data.name} has one training sample; two are the least")
    seed_all(config.seed, 0)
    model = make_model(config, data, device)
    optimizer = make_optimizer(config, model)
    ema = None
    if config.ema is not None:
        ema = ModelEmaV3(model, decay=config.ema, use_warmup=True)
    return Parts(
        data=data,
        device=device,
        model=model,
        forward=compile_model(model) if config.compile else model,
        optimizer=optimizer,
        scheduler=make_scheduler(config, optimizer, steps),
        scaler=GradScaler("cuda", enabled=config.amp),
        ema=ema,
        loss=_loss(config, config.loss, data, device),
        score_loss=_loss(config, config.score_loss, data, device) if config.score_loss else None,
        plasticity=make_plasticity(config, model, optimizer, ema, data, device),
        steps=steps,
    )


def compile_model(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """The model compiled; it shares all tensors, and a turnover leaves the code valid."""
    compiled: Callable[[Tensor], Tensor] = torch.compile(model)
    return compiled


def device_of(config: Config) -> torch.device:
    """The device that a configuration names.

    Raises:
        TrainingError: there is no such device, or AMP is asked for without CUDA.
    """
    cuda = torch.cuda.is_available()
    try:
        device = torch.device(
            ("cuda" if cuda else "cpu") if config.device == "auto" else config.device
        )
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda"):
        raise TrainingError(f"device={config.device!r}; give auto, cpu, cuda or cuda:1")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise TrainingError(
            f"device={config.device!r}, and there are {torch.cuda.device_count()} CUDA devices; "
            "give cpu, or auto"
        )
    if config.amp and device.type != "cuda":
        raise TrainingError(f"amp=true needs CUDA, and the device is {device}; leave amp out")
    return device


def _loaded(config: Config, device: torch.device) -> LongTailed:
    data = load(
        config.data,
        root=config.root,
        imbalance=config.imbalance,
        seed=config.data_seed,
        image_size=config.image_size,
        download=config.download,
    )
    if not isinstance(data.train, TensorSet) or not isinstance(data.test, TensorSet):
        return data
    return replace(data, train=data.train.to(device), test=data.test.to(device))


def _loss(config: Config, name: str, data: LongTailed, device: torch.device) -> Loss:
    return make_loss(name, data.counts, start=config.first_weighted, tau=config.tau, device=device)


def make_model(config: Config, data: LongTailed, device: torch.device) -> nn.Module:
    """The timm model, with the channels and classes of the data, on its device.

    Raises:
        TrainingError: no such model, arguments or images that it refuses, or another number of
            classes than the data has.
    """
    channels, classes = data.input_size[0], len(data.classes)
    if not timm.is_model(config.model.split(".")[0]):
        hint = suggestion(config.model, timm.list_models())
        raise TrainingError(f"timm has no model {config.model!r}{hint}; see timm.list_models()")
    arguments: dict[str, Any] = {"num_classes": classes, "in_chans": channels, **config.model_args}
    try:
        model: nn.Module = timm.create_model(config.model, **arguments).to(device)
        model.eval()
        with torch.no_grad():
            logits = model(torch.zeros(2, *data.input_size, device=device))
    except Exception as error:  # a model's own code may raise anything
        raise TrainingError(
            f"model {config.model!r} with {arguments} does not take images of {data.input_size}: "
            f"{type(error).__name__}: {error}; see model_args (a transformer wants its img_size)"
        ) from error
    shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    if shape != (2, classes):
        raise TrainingError(
            f"model {config.model!r} gives {shape} for two images, and {data.name} has {classes} "
            "classes; leave num_classes out of model_args, and give a classifier"
        )
    return model


def make_optimizer(config: Config, model: nn.Module) -> Optimizer:
    """Timm's optimizer of that name; biases and norm parameters do not decay.

    Raises:
        TrainingError: no such optimizer.
    """
    known = [str(name) for name in list_optimizers()]
    if config.optimizer not in known:
        hint = suggestion(config.optimizer, known)
        raise TrainingError(
            f"timm has no optimizer {config.optimizer!r}{hint}; see timm.optim.list_optimizers()"
        )
    optimizer: Optimizer = create_optimizer_v2(
        model,
        config.optimizer,
        lr=config.lr,
        weight_decay=config.weight_decay,
        momentum=config.momentum,
    )
    return optimizer


def make_scheduler(config: Config, optimizer: Optimizer, steps: int) -> LambdaLR:
    """Linear warm-up, then a cosine to zero (Loshchilov and Hutter, 2017), batch by batch."""
    warmup, total = config.warmup * steps, config.epochs * steps
    return LambdaLR(optimizer, lambda step: lr_factor(step, warmup, total))


def lr_factor(step: int, warmup: int, total: int) -> float:
    """Share of the highest learning rate in a step, counted from 0.

    >>> [lr_factor(step, 2, 6) for step in (0, 1, 2, 4)]
    [0.5, 1.0, 1.0, 0.5]
    """
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))


def make_plasticity(
    config: Config,
    model: nn.Module,
    optimizer: Optimizer,
    ema: ModelEmaV3 | None,
    data: LongTailed,
    device: torch.device,
) -> Plasticity | None:
    """The controller; None where turnover is off.

    Raises:
        TrainingError: the model has no channel group.
        FxPlasticError: the model cannot be traced, or the controller refuses an argument.
    """
    if not config.turnover:
        return None
    plastic: PlasticModule = plasticize(model, torch.zeros(2, *data.input_size, device=device))
    if not plastic.groups:
        raise TrainingError(
            f"model {config.model!r} has no channel group, so that no neuron could turn over; "
            "give turnover=false or another model (fxplastic.plasticize(model, images).frozen "
            "says of each axis why)"
        )
    return Plasticity(
        plastic,
        optimizer,
        ratio=config.ratio,
        schedule=config.when,
        epochs=config.epochs,
        criterion=config.criterion,
        policy=config.scaling,
        scope=config.scope,
        protect=config.protect,
        overrides={name: ratio_of(name, value) for name, value in config.overrides.items()},
        min_width=config.min_width,
        ema=ema,
        adjust=upside_down if config.copy == "lowest" else None,
        score_every=config.score_every,
        seed=config.seed,
    )


def upside_down(scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Scores that rank neurons the other way round."""
    return {name: -row for name, row in scores.items()}


def ratio_of(name: str, value: object) -> float:
    """The ratio that `overrides` has for a group.

    Raises:
        TrainingError: it is no number.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TrainingError(f"overrides has {name!r} = {value!r}; give a number from 0 to 0.5")
    return float(value)
