"""Plasticity in a loop with accelerate: nothing of it has to be adapted."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset

from fxplastic import Plasticity, Schedule
from fxplastic.errors import OptimizerError
from tests import by_hand
from tests.by_hand import CLASSES, assert_same, plastic_of, small

AREA = "Trainers"
EPOCHS, CLIP = 4, 0.5
SETTINGS: dict[str, Any] = {"schedule": Schedule(every=2, window=2), "policy": "paper", "seed": 3}


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """accelerate keeps its state for the whole process."""
    states = (AcceleratorState, GradientState, PartialState)
    for state in states:
        state._reset_state()
    yield
    for state in states:
        state._reset_state()


class Images(Dataset[Any]):
    """Images with labels."""

    def __init__(self) -> None:
        draw = torch.Generator().manual_seed(0)
        self.images = torch.randn(16, 3, 32, 32, generator=draw)
        self.labels = torch.randint(0, CLASSES, (16,), generator=draw)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Any:
        return self.images[index], self.labels[index]


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=1e-3)


class Prepared:
    """A loop as accelerate's pages have it, with the two calls of `Plasticity`."""

    def __init__(self, folder: Path, accumulate: int = 2) -> None:
        self.accelerator = Accelerator(
            cpu=True, gradient_accumulation_steps=accumulate, project_dir=folder
        )
        self.plain = small()
        optimizer = optimizer_of(self.plain)
        plastic = plastic_of(self.plain)
        self.model, self.optimizer, self.loader = self.accelerator.prepare(
            self.plain, optimizer, DataLoader(Images(), batch_size=4)
        )
        self.plasticity = Plasticity(plastic, optimizer, **SETTINGS)
        self.accelerator.register_for_checkpointing(self.plasticity)

    def epoch(self, loader: Any = None) -> None:
        self.model.train()
        for images, labels in self.loader if loader is None else loader:
            with self.accelerator.accumulate(self.model):
                self.accelerator.backward(cross_entropy(self.model(images), labels))
                if self.accelerator.sync_gradients:
                    self.plasticity.after_backward()
                    self.accelerator.clip_grad_norm_(self.model.parameters(), CLIP)
                self.optimizer.step()
                self.optimizer.zero_grad()

    def state(self) -> dict[str, Any]:
        return {"model": self.plain.state_dict(), "optimizer": self.optimizer.state_dict()}


def by_loop(accumulate: int = 2) -> tuple[nn.Module, torch.optim.Optimizer, Plasticity]:
    model = small()
    optimizer = optimizer_of(model)
    plasticity = Plasticity(plastic_of(model), optimizer, **SETTINGS)
    loader = DataLoader(Images(), batch_size=4)
    by_hand.train(model, optimizer, plasticity, loader, EPOCHS, accumulate=accumulate, clip=CLIP)
    return model, optimizer, plasticity


def assert_like_by_hand(run: Prepared, hand: Any) -> None:
    model, optimizer, plasticity = hand
    assert [t.epoch for t in plasticity.history] == [2, 4]
    plans = [turnover.plan for turnover in run.plasticity.history]
    assert plans == [turnover.plan for turnover in plasticity.history]
    assert_same(run.state(), {"model": model.state_dict(), "optimizer": optimizer.state_dict()})


@pytest.mark.setting(AREA, "accelerate: `prepare`, accumulated and clipped gradients", "supported")
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_prepared_loop_does_what_a_loop_by_hand_does(accumulate: int, tmp_path: Path) -> None:
    run = Prepared(tmp_path, accumulate)
    for _ in range(EPOCHS):
        run.epoch()
        run.plasticity.end_epoch()
    assert_like_by_hand(run, by_loop(accumulate))


@pytest.mark.setting(
    AREA, "accelerate: `register_for_checkpointing`, `save_state`, `load_state`", "supported"
)
@pytest.mark.parametrize(("epoch", "steps"), [(2, 0), (1, 2)], ids=["epoch's end", "middle"])
def test_a_run_goes_on_from_a_saved_state_bit_for_bit(
    epoch: int, steps: int, tmp_path: Path
) -> None:
    first = Prepared(tmp_path)
    for _ in range(epoch):
        first.epoch()
        first.plasticity.end_epoch()
    first.epoch(list(first.loader)[:steps])
    first.accelerator.save_state(str(tmp_path / "state"))

    resumed = Prepared(tmp_path)
    resumed.accelerator.load_state(str(tmp_path / "state"))
    assert resumed.plasticity.history == first.plasticity.history
    resumed.epoch(resumed.accelerator.skip_first_batches(resumed.loader, steps))
    resumed.plasticity.end_epoch()
    for _ in range(EPOCHS - epoch - 1):
        resumed.epoch()
        resumed.plasticity.end_epoch()
    assert_like_by_hand(resumed, by_loop())


@pytest.mark.setting(AREA, "accelerate: the wrapped optimizer in place of its own", "refused")
def test_the_wrapped_optimizer_is_refused_by_what_it_wraps(tmp_path: Path) -> None:
    run = Prepared(tmp_path)
    with pytest.raises(
        OptimizerError, match=r"AcceleratedOptimizer wraps the AdamW .*optimizer\.optimizer"
    ):
        Plasticity(plastic_of(run.plain), run.optimizer)
