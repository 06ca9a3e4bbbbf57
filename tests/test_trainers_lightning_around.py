"""What is around a model in Lightning's Trainer: averages, scalers, and what is refused."""

import copy
import importlib
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn

import fxplastic
from fxplastic import Plasticity, Schedule
from fxplastic.errors import PlanError, TrainingError
from tests import by_hand
from tests.by_hand import STEPS, Loader, assert_same, plastic_of, small
from tests.lightning_runs import (
    CHECK,
    OLD,
    SETTINGS,
    module_of,
    optimizer_of,
    package,
    scheduler_of,
    trainer_of,
)

AREA = "Trainers"
pytestmark = pytest.mark.filterwarnings(OLD)


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


def test_scores_may_come_from_a_loss_of_their_own(tmp_path: Path) -> None:
    library, callback_class = package()
    model = small()
    callback = callback_class(plastic_of(model), score=False, score_every=2, **SETTINGS)
    seen: list[int] = []

    class Weighted(type(module_of(library, model))):  # type: ignore[misc]
        def training_step(self, one: Any, index: int) -> Any:
            loss = super().training_step(one, index)
            callback.plasticity.before_backward(2 * loss)
            seen.append(callback.plasticity.scores.updates)
            return loss

    trainer_of(library, tmp_path, [callback], max_epochs=2).fit(Weighted(), Loader(), CHECK)
    assert seen == [1, 1, 2, 2, 3, 3, 4, 4]  # every second step, of two epochs
    assert [t.epoch for t in callback.plasticity.history] == [2]


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
