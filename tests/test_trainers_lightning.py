"""The callback for Lightning's Trainer, beside the same loop written by hand."""

import copy
import importlib
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn

import fxplastic
from fxplastic import Plasticity, Schedule
from fxplastic.errors import PlanError, TrainingError
from tests import by_hand
from tests.by_hand import STEPS, Loader, assert_same, plastic_of, small

AREA = "Trainers"
PACKAGES = {"lightning": "lightning.pytorch", "pytorch_lightning": "pytorch_lightning"}
CHECK = by_hand.Check()  # to validate with
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


def test_a_checkpoint_of_an_earlier_callback_lacks_only_the_turnover(tmp_path: Path) -> None:
    """The epoch's end is made up for: the state in it has the scores, the weights are of before."""
    library, callback_class = package()
    path = tmp_path / "early.ckpt"

    class Early(library.Callback):
        def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
            if trainer.current_epoch == 1:
                trainer.save_checkpoint(path)

    def fit(before: list[Any], ckpt_path: Path | None) -> tuple[Any, Any, Any]:
        model = small()
        callback = callback_class(plastic_of(model), **SETTINGS)
        module = module_of(library, model)
        trainer = trainer_of(library, tmp_path, [*before, callback])
        trainer.fit(module, Loader(), CHECK, ckpt_path=ckpt_path, weights_only=True)
        return module, trainer, callback

    fit([Early()], None)
    assert_like_by_hand(*fit([], path), by_loop())


def test_a_trainer_that_is_told_to_go_on_keeps_what_was_scored(tmp_path: Path) -> None:
    library, callback_class = package()
    model = small()
    callback = callback_class(plastic_of(model), **SETTINGS)
    trainer = trainer_of(library, tmp_path, [callback], max_epochs=3)
    module = module_of(library, model)
    trainer.fit(module, Loader(), CHECK)
    first = callback.plasticity
    assert first.scores.updates == STEPS
    trainer.fit_loop.max_epochs = 4
    trainer.fit(module, Loader(), CHECK)
    assert callback.plasticity is not first
    assert [t.epoch for t in callback.plasticity.history] == [2, 4]


def test_a_checkpoint_from_before_the_callback_is_gone_on_from_with_a_warning(
    tmp_path: Path,
) -> None:
    library, callback_class = package()
    model = small()
    trainer = trainer_of(library, tmp_path, [], max_epochs=1)
    module = module_of(library, model)
    trainer.fit(module, Loader(), CHECK)
    trainer.save_checkpoint(tmp_path / "plain.ckpt")
    callback = callback_class(plastic_of(model), **SETTINGS)
    trainer = trainer_of(library, tmp_path, [callback], max_epochs=3)
    with pytest.warns(UserWarning, match="holds no state of this callback: it begins in epoch 2"):
        trainer.fit(module, Loader(), CHECK, ckpt_path=tmp_path / "plain.ckpt", weights_only=True)
    assert [t.epoch for t in callback.plasticity.history] == [2]


# ---------------------------------------------------------------- what is around the model
@pytest.mark.setting(
    AREA, "Lightning: averages by `WeightAveraging`, `StochasticWeightAveraging`", "supported"
)
def test_averages_of_other_callbacks_follow(tmp_path: Path) -> None:
    library, callback_class = package()
    model = small()
    averaging = library.callbacks.EMAWeightAveraging(decay=0.9)
    callback = callback_class(plastic_of(model), **SETTINGS)
    trainer = trainer_of(library, tmp_path, [averaging, callback], limit_val_batches=0)
    trainer.fit(module_of(library, model), Loader(), CHECK)

    other = small()
    optimizer = optimizer_of(other)
    average = AveragedModel(other, avg_fn=get_ema_avg_fn(0.9), use_buffers=True)
    plasticity = Plasticity(plastic_of(other), optimizer, ema=average, **SETTINGS)
    by_hand.train(
        other,
        optimizer,
        plasticity,
        Loader(),
        4,
        scheduler=scheduler_of(optimizer),
        after_step=lambda: average.update_parameters(other),
    )
    assert [t.epoch for t in callback.plasticity.history] == [2, 4]
    # When training ends, Lightning puts the averages in place of the weights.
    assert_same(model.state_dict(), average.module.state_dict())


def test_stochastic_averages_follow(tmp_path: Path) -> None:
    library, callback_class = package()
    model = small()
    averaging = library.callbacks.StochasticWeightAveraging(swa_lrs=1e-3, swa_epoch_start=2)
    callback = callback_class(plastic_of(model), schedule=Schedule(every=3), policy="paper")
    kept = {}

    class Before(library.Callback):
        def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
            if trainer.current_epoch == 2:
                kept.update(copy.deepcopy(dict(averaging._average_model.state_dict())))

    trainer = trainer_of(library, tmp_path, [averaging, Before(), callback], limit_val_batches=0)

    def check(turnover: fxplastic.Turnover) -> None:
        expected = small()
        own = {name.removeprefix("model."): value for name, value in kept.items()}
        expected.load_state_dict(own)
        fxplastic.rewrite_(
            plastic_of(expected), turnover.plan, policy=turnover.policy, seed=turnover.seed
        )
        assert_same(averaging._average_model.model.state_dict(), expected.state_dict())
        checked.append(turnover.epoch)

    checked: list[int] = []
    callback.on(check)
    trainer.fit(module_of(library, model), Loader(), CHECK)
    assert checked == [3]


def test_a_step_without_a_loss_is_not_scored(tmp_path: Path) -> None:
    library, callback_class = package()
    model = small()
    callback = callback_class(plastic_of(model), schedule=Schedule(every=2, window=2), epochs=2)

    class Skips(type(module_of(library, model))):  # type: ignore[misc]
        def training_step(self, one: Any, index: int) -> Any:
            return None if index == 1 else super().training_step(one, index)

    trainer = trainer_of(library, tmp_path, [callback], max_epochs=1)
    with pytest.warns(UserWarning, match="`training_step` returned `None`"):
        trainer.fit(Skips(), Loader(), CHECK)
    assert callback.plasticity.scores.updates == STEPS - 1


@pytest.mark.setting(AREA, "Lightning: a loss scaler, of a fused optimizer too", "supported")
@pytest.mark.parametrize("fused", [False, True])
def test_scaled_gradients_are_scored_unscaled(fused: bool, tmp_path: Path) -> None:
    library, callback_class = package()
    precision = importlib.import_module("lightning.pytorch.plugins.precision")
    scored = []
    for scale in (1.0, 1024.0):
        model = small()
        scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        plugin = precision.MixedPrecision("16-mixed", "cpu", scaler)
        plugin.autocast_context_manager = lambda: torch.autocast("cpu", enabled=False)
        callback = callback_class(plastic_of(model), schedule=Schedule(every=2, window=2), epochs=2)
        trainer = trainer_of(library, tmp_path, [callback], max_epochs=1, plugins=[plugin])
        module = module_of(library, model)
        module.configure_optimizers = lambda: torch.optim.AdamW(model.parameters(), fused=fused)  # noqa: B023
        trainer.fit(module, Loader(), CHECK)
        scored.append(callback.plasticity.scores.values())
    for name, row in scored[0].items():
        torch.testing.assert_close(row, scored[1][name], rtol=1e-4, atol=0.0)


# ---------------------------------------------------------------- what is refused
def fitted(library: Any, module: Any, callback: Any, folder: Path, **options: Any) -> None:
    trainer_of(library, folder, [callback], **options).fit(module, Loader(), CHECK)


@pytest.mark.setting(AREA, "Lightning: a model that was not made plastic", "refused")
def test_a_model_that_was_not_made_plastic_is_refused(tmp_path: Path) -> None:
    library, callback_class = package()
    model = small()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    module = module_of(library, model)
    with pytest.raises(TrainingError, match=r"Module holds 0 plastic modules.*plasticize"):
        fitted(library, module, callback_class(), tmp_path)
    with pytest.raises(TrainingError, match="was not made of Module or of a part of it"):
        fitted(library, module, callback_class(plastic_of(small())), tmp_path)
    with pytest.raises(TrainingError, match="has no channel groups; pass what"):
        callback_class(model)
    assert_same(dict(model.state_dict()), before)


def test_the_plastic_module_in_a_lightning_module_is_found(tmp_path: Path) -> None:
    library, callback_class = package()
    callback = callback_class(**SETTINGS)
    fitted(library, module_of(library, plastic_of(small())), callback, tmp_path)
    assert [t.epoch for t in callback.plasticity.history] == [2, 4]


@pytest.mark.setting(AREA, "Lightning: manual optimization, several optimizers", "refused")
def test_manual_optimization_and_several_optimizers_are_refused(tmp_path: Path) -> None:
    library, callback_class = package()
    model = small()
    callback = callback_class(plastic_of(model), **SETTINGS)
    module = module_of(library, model)
    module.automatic_optimization = False
    with pytest.raises(TrainingError, match="automatic_optimization = False.*yourself"):
        fitted(library, module, callback, tmp_path)
    two = SimpleNamespace(optimizers=[optimizer_of(model), optimizer_of(model)])
    with pytest.raises(TrainingError, match="Module has 2 optimizers.*several parameter groups"):
        callback.on_train_start(two, module)


@pytest.mark.setting(
    AREA, "Lightning: strategies other than one device and DDP (FSDP, DeepSpeed)", "refused"
)
def test_strategies_that_hide_parameters_are_refused() -> None:
    library, callback_class = package()
    model = small()
    callback = callback_class(plastic_of(model), **SETTINGS)
    strategies = importlib.import_module("lightning.pytorch.strategies")
    trainer = SimpleNamespace(strategy=strategies.FSDPStrategy())
    with pytest.raises(TrainingError, match='strategy FSDPStrategy .*strategy="ddp"'):
        callback.setup(trainer, module_of(library, model), "fit")


def test_a_schedule_past_the_last_epoch_is_refused(tmp_path: Path) -> None:
    library, callback_class = package()
    model = small()
    callback = callback_class(plastic_of(model))
    with pytest.raises(PlanError, match="due after epoch 30, and the run ends after epoch 4"):
        fitted(library, module_of(library, model), callback, tmp_path)
    with pytest.raises(TrainingError, match="Plasticity has no argument 'rate'"):
        callback_class(plastic_of(model), rate=0.3)


def test_nothing_of_trainers_is_imported_with_fxplastic() -> None:
    code = (
        "import sys, fxplastic, fxplastic.trainers; others = {'lightning', 'pytorch_lightning', "
        "'transformers', 'accelerate'}; print(*(others & {*sys.modules}))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == ""
