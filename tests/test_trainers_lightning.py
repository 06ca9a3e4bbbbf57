"""The callback for Lightning's Trainer, beside the same loop written by hand."""

from pathlib import Path
from typing import Any

import pytest

import fxplastic
from tests.by_hand import STEPS, Loader, plastic_of, small
from tests.lightning_runs import (
    CHECK,
    OLD,
    PACKAGES,
    SETTINGS,
    assert_like_by_hand,
    by_loop,
    module_of,
    package,
    trainer_of,
)

AREA = "Trainers"
pytestmark = pytest.mark.filterwarnings(OLD)


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
        trainer.fit(module, loader, CHECK, ckpt_path=path)
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
        trainer.fit(module, Loader(), CHECK, ckpt_path=ckpt_path)
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
        trainer.fit(module, Loader(), CHECK, ckpt_path=tmp_path / "plain.ckpt")
    assert [t.epoch for t in callback.plasticity.history] == [2]
