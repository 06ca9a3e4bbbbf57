"""timm's building blocks for training: optimizers, schedules, averages, mixup and the scaler."""

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from timm.data import Mixup
from timm.loss import SoftTargetCrossEntropy
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import ModelEmaV3, NativeScaler, dispatch_clip_grad
from torch import nn

from fxplastic import GradientScores, Plasticity, Policy, Schedule, plan_turnover, rewrite_
from tests.by_hand import CLASSES, Loader, assert_same, plastic_of, small
from tests.test_examples import load

AREA = "Trainers"
EPOCHS = 4
POLICY = Policy(zero_sum=0.1)


class Run:
    """A loop on timm's blocks; what happens at an epoch's end is the caller's."""

    def __init__(self, name: str = "test_resnet", opt: str = "adamw", **options: Any) -> None:
        self.model = small(name)
        self.optimizer = create_optimizer_v2(self.model, opt, lr=1e-3, weight_decay=0.02, **options)
        self.scheduler, _ = create_scheduler_v2(
            self.optimizer, "cosine", num_epochs=EPOCHS, warmup_epochs=1, warmup_lr=1e-4
        )
        self.ema = ModelEmaV3(self.model, decay=0.9)
        self.mixup = Mixup(0.2, label_smoothing=0.1, num_classes=CLASSES)
        self.loader, self.steps = Loader(), 0

    def epoch(self, after_backward: Callable[[], object]) -> None:
        self.model.train()
        np.random.seed(self.loader.epoch)  # mixup draws from numpy
        for batch in self.loader:
            images, targets = self.mixup(*batch)
            self.optimizer.zero_grad()
            SoftTargetCrossEntropy()(self.model(images), targets).backward()
            after_backward()
            dispatch_clip_grad(self.model.parameters(), 1.0)
            self.optimizer.step()
            self.steps += 1
            self.ema.update(self.model, step=self.steps)
        self.scheduler.step(self.loader.epoch)

    def state(self) -> dict[str, Any]:
        stateful = {"model": self.model, "ema": self.ema, "optimizer": self.optimizer}
        states = {name: part.state_dict() for name, part in stateful.items()}
        return {**states, "scheduler": self.scheduler.state_dict(), "steps": self.steps}


def controller(run: Run) -> Plasticity:
    return Plasticity(
        plastic_of(run.model),
        run.optimizer,
        schedule=Schedule(every=2),
        policy=POLICY,
        ema=run.ema,
        seed=3,
    )


@pytest.mark.setting(
    AREA, "timm: `create_optimizer_v2`, `create_scheduler_v2`, `ModelEmaV3`, mixup", "supported"
)
@pytest.mark.parametrize(
    ("name", "opt", "options"),
    [
        ("test_resnet", "adamw", {}),
        ("test_resnet", "sgd", {}),
        ("test_vit", "lamb", {}),
        ("test_vit", "lion", {"layer_decay": 0.7}),
        ("test_convnext", "nadamw", {}),
        ("test_efficientnet", "rmsproptf", {}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_turnover_is_what_scores_plan_and_rewrite_make_by_hand(
    name: str, opt: str, options: dict[str, Any]
) -> None:
    run = Run(name, opt, **options)
    plasticity = controller(run)
    for _ in range(EPOCHS):
        run.epoch(plasticity.after_backward)
        plasticity.end_epoch()

    hand = Run(name, opt, **options)
    plastic = plastic_of(hand.model)
    average, scores = plastic_of(hand.ema.module), GradientScores(plastic)
    for epoch in range(1, EPOCHS + 1):
        hand.epoch(scores.update)
        if epoch % 2 == 0:
            plan = plan_turnover(plastic, scores, 0.3, shares=POLICY.split, share=POLICY.share)
            seed = plasticity.history[epoch // 2 - 1].seed
            rewrite_(plastic, plan, hand.optimizer, policy=POLICY, seed=seed)
            rewrite_(average, plan, policy=POLICY, seed=seed)
        scores.reset()
    assert [turnover.epoch for turnover in plasticity.history] == [2, 4]
    assert_same(run.state(), hand.state())


def test_a_run_goes_on_bit_for_bit() -> None:
    whole = Run()
    plasticity = controller(whole)
    for epoch in range(EPOCHS):
        whole.epoch(plasticity.after_backward)
        plasticity.end_epoch()
        if epoch == 2:
            saved = {**whole.state(), "plasticity": plasticity.state_dict()}
            saved = torch.load(_stored(saved), weights_only=True)
    resumed = Run()
    resumed.model.load_state_dict(saved["model"])
    resumed.optimizer.load_state_dict(saved["optimizer"])
    resumed.ema.load_state_dict(saved["ema"])
    resumed.scheduler.load_state_dict(saved["scheduler"])
    resumed.steps, resumed.loader.epoch = saved["steps"], 3
    again = controller(resumed)
    again.load_state_dict(saved["plasticity"])
    resumed.epoch(again.after_backward)
    again.end_epoch()
    assert_same(resumed.state(), whole.state())
    assert [t.plan for t in again.history] == [t.plan for t in plasticity.history]


def _stored(values: dict[str, Any]) -> Any:
    file = io.BytesIO()
    torch.save(values, file)
    file.seek(0)
    return file


@pytest.mark.setting(AREA, "timm: `NativeScaler`, by a hook of the optimizer", "supported")
@pytest.mark.parametrize("clip", [None, 1.0])
def test_gradients_that_a_scaler_takes_through_the_step_are_scored(clip: float | None) -> None:
    def trained(scaled: bool) -> tuple[nn.Module, Plasticity]:
        model = small()
        optimizer = create_optimizer_v2(model, "sgd", lr=1e-2)
        plasticity = Plasticity(
            plastic_of(model), optimizer, schedule=Schedule(every=2), policy=POLICY
        )
        scaler = NativeScaler("cpu")
        if scaled:
            optimizer.register_step_pre_hook(lambda *_: plasticity.after_backward())
        for _ in range(2):
            for images, labels in Loader():
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(model(images), labels)
                if scaled:
                    scaler(loss, optimizer, clip_grad=clip, parameters=model.parameters())
                else:
                    loss.backward()
                    if clip is not None:
                        dispatch_clip_grad(model.parameters(), clip)
                    plasticity.after_backward()
                    optimizer.step()
            plasticity.end_epoch()
        return model, plasticity

    (model, plasticity), (other, expected) = trained(True), trained(False)
    assert [t.plan for t in plasticity.history] == [t.plan for t in expected.history]
    assert len(expected.history) == 1
    for name, value in model.state_dict().items():  # a scale that is a power of two rounds little
        torch.testing.assert_close(value, other.state_dict()[name], rtol=1e-5, atol=1e-6)


def test_the_example_turns_over_and_tests_both_models(capsys: pytest.CaptureFixture[str]) -> None:
    load("timm_blocks").main(["--quick"])
    printed = capsys.readouterr().out
    assert "epoch 1: 195 neurons of 11 groups turned over" in printed
    assert "epoch 2: 195 neurons of 11 groups turned over" in printed
    assert "their average: " in printed
    load("timm_blocks").main(["--quick", "--model", "test_vit", "--opt", "lion", "--mixup", "0"])
    assert "of 6 groups turned over" in capsys.readouterr().out


def test_the_example_refuses_half_a_pair(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        load("timm_blocks").main(["--batch", "33"])
    assert "--batch is 33; mixup takes an even number" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        load("timm_blocks").main(["--help"])
    assert "--quick" in capsys.readouterr().out
