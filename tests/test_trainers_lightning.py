"""The callback for Lightning's Trainer, beside the same loop written by hand."""

import importlib
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

import fxplastic
from fxplastic import Plasticity, Schedule
from fxplastic.errors import TrainingError
from tests import by_hand
from tests.by_hand import Loader, assert_same, batch, plastic_of, small

AREA = "Trainers"
PACKAGES = {"lightning": "lightning.pytorch", "pytorch_lightning": "pytorch_lightning"}
CHECK = DataLoader([batch(99, 0)], batch_size=None)  # to validate with
SETTINGS = {"schedule": Schedule(every=2, window=2), "policy": "paper", "seed": 3}


# Of Lightning, which asks PyTorch in an old way.
pytestmark = pytest.mark.filterwarnings(
    r"ignore:`isinstance\(treespec, LeafSpec\)` is deprecated:FutureWarning"
)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Without the lines that a Trainer logs when it starts."""
    names = ["lightning.pytorch", "pytorch_lightning"]
    levels = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.ERROR)
    yield
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


def package(name: str = "lightning") -> tuple[Any, Any]:
    """The library, and the callback for it."""
    mine = importlib.import_module(f"fxplastic.trainers.{name}")
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


@pytest.mark.setting(
    AREA, "Lightning: `fxplastic.trainers.lightning.PlasticityCallback`", "supported"
)
@pytest.mark.setting(AREA, "Lightning: accumulated and clipped gradients", "supported")
@pytest.mark.parametrize("name", PACKAGES)
@pytest.mark.parametrize("options", [{}, {"accumulate": 2, "clip": 0.1}], ids=["plain", "clipped"])
def test_a_trainer_does_what_a_loop_by_hand_does(
    name: str, options: dict[str, Any], tmp_path: Path
) -> None:
    library, callback_class = package(name)
    model = small()
    heard: list[fxplastic.Turnover] = []
    callback = callback_class(plastic_of(model), **SETTINGS)
    callback.on(heard.append)
    module = module_of(library, model)
    trainer = trainer_of(
        library,
        tmp_path,
        [callback],
        accumulate_grad_batches=options.get("accumulate", 1),
        gradient_clip_val=options.get("clip"),
    )
    trainer.fit(module, Loader(), CHECK)
    assert_like_by_hand(module, trainer, callback, by_loop(**options))
    assert tuple(heard) == callback.plasticity.history
    assert trainer.callback_metrics["plasticity/neurons"] == heard[-1].neurons
    assert trainer.callback_metrics["plasticity/groups"] == len(heard[-1].plan.edits)


# ---------------------------------------------------------------- going on after a stop
def checkpoints(library: Any, folder: Path, **options: Any) -> Any:
    return library.callbacks.ModelCheckpoint(folder, "{epoch}-{step}", save_top_k=-1, **options)


@pytest.mark.setting(
    AREA, "Lightning: resumed from a checkpoint, of an epoch's end or its middle", "supported"
)
@pytest.mark.parametrize(
    ("when", "at"),
    [
        ({}, "epoch=1-step=8"),
        ({"save_on_train_epoch_end": False}, "epoch=1-step=8"),  # at the end of the validation
        ({"save_on_train_epoch_end": False}, "epoch=2-step=12"),
        ({"every_n_train_steps": 3}, "epoch=2-step=9"),
        ({"every_n_train_steps": 4}, "epoch=1-step=8"),
        ({"every_n_train_steps": 3}, "epoch=0-step=3"),
    ],
    ids=["epoch", "validation", "between turnovers", "step", "last step", "first epoch"],
)
@pytest.mark.filterwarnings("ignore:The dirpath has changed from:UserWarning")  # it was meant to
def test_a_run_goes_on_from_a_checkpoint_bit_for_bit(
    when: dict[str, Any], at: str, tmp_path: Path
) -> None:
    library, callback_class = package()

    def run(path: Path | None, loader: Loader) -> tuple[Any, Any, Any]:
        model = small()
        callback = callback_class(plastic_of(model), **SETTINGS)
        module = module_of(library, model)
        saves = checkpoints(library, tmp_path / ("first" if path is None else "again"), **when)
        trainer = trainer_of(library, tmp_path, [saves, callback], enable_checkpointing=True)
        trainer.fit(module, loader, CHECK, ckpt_path=path, weights_only=True)
        return module, trainer, callback

    whole, hand = run(None, Loader()), by_loop()
    assert_like_by_hand(*whole, hand)
    assert_like_by_hand(*run(tmp_path / "first" / f"{at}.ckpt", Loader()), hand)
