"""Runs of Lightning's Trainer, and the same by hand, that the tests of its callback compare."""

import functools
import importlib
import logging
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from fxplastic import Plasticity, Schedule
from tests import by_hand
from tests.by_hand import Loader, assert_same, plastic_of, small

PACKAGES = {"lightning": "lightning.pytorch", "pytorch_lightning": "pytorch_lightning"}
CHECK = by_hand.Check()  # to validate with
SETTINGS: dict[str, Any] = {"schedule": Schedule(every=2, window=2), "policy": "paper", "seed": 3}
# Of Lightning, which asks PyTorch in an old way.
OLD = r"ignore:`isinstance\(treespec, LeafSpec\)` is deprecated:FutureWarning"


def package(name: str = "lightning") -> tuple[Any, Any]:
    """The library, and the callback for it."""
    mine = importlib.import_module(f"fxplastic.trainers.{name}")
    logging.getLogger(PACKAGES[name]).setLevel(logging.ERROR)  # it greets each Trainer
    return importlib.import_module(PACKAGES[name]), mine.PlasticityCallback


def module_of(library: Any, model: nn.Module) -> Any:
    """A LightningModule as one writes it."""

    class Module(library.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def training_step(self, one: Any, index: int) -> Any:
            images, labels = one
            return cross_entropy(self.model(images), labels)

        def validation_step(self, one: Any, index: int) -> None:
            self.log("loss", cross_entropy(self.model(one[0]), one[1]), batch_size=4)

        def configure_optimizers(self) -> Any:
            optimizer = optimizer_of(self)
            return [optimizer], [scheduler_of(optimizer)]

    return Module()


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=1e-2)


def scheduler_of(optimizer: torch.optim.Optimizer) -> Any:
    return torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)


def trainer_of(library: Any, folder: Path, callbacks: Any, **options: Any) -> Any:
    quiet: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "default_root_dir": folder,
        "max_epochs": 4,
    }
    return library.Trainer(callbacks=callbacks, **{**quiet, **options})


@functools.cache  # it is only looked at
def by_loop(**options: Any) -> tuple[nn.Module, torch.optim.Optimizer, Plasticity]:
    model = small()
    optimizer = optimizer_of(model)
    plasticity = Plasticity(plastic_of(model), optimizer, **SETTINGS)
    scheduler = scheduler_of(optimizer)
    by_hand.train(model, optimizer, plasticity, Loader(), 4, scheduler=scheduler, **options)
    return model, optimizer, plasticity


def assert_like_by_hand(module: Any, trainer: Any, callback: Any, hand: Any) -> None:
    model, optimizer, plasticity = hand
    assert [t.epoch for t in plasticity.history] == [2, 4]
    plans = [turnover.plan for turnover in callback.plasticity.history]
    assert plans == [turnover.plan for turnover in plasticity.history]
    assert_same(module.model.state_dict(), model.state_dict())
    assert_same(trainer.optimizers[0].state_dict(), optimizer.state_dict())
