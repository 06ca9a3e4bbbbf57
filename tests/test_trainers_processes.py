"""Trainers that train with several processes: all of them turn over the same neurons."""

import importlib
import logging
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

import fxplastic
from fxplastic import Plasticity, PlasticModule, Policy, Schedule
from tests import ranks
from tests.by_hand import assert_same
from tests.ranks import batch, controller, optimizer_of, plastic_model, together, weights

AREA = "Trainers"
EPOCHS, STEPS = 2, 2
SETTINGS: dict[str, Any] = {"schedule": Schedule(every=1), "policy": Policy(zero_sum=0.1)}


class Part:
    """One process's part of each global batch of `ranks.train_epoch`."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size, self.epoch = rank, size, 1
        self.sampler = self

    def set_epoch(self, epoch: int) -> None:
        """Lightning counts from 0, the loop by hand from 1."""
        self.epoch = epoch + 1

    def __len__(self) -> int:
        return STEPS

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for step in range(STEPS):
            yield batch(self.epoch, step, self.rank, self.size)


def environment(rank: int, size: int) -> None:
    """What torchrun tells each process."""
    mine = {"RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0}
    everyone = {"WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, "MASTER_PORT": 29512}
    os.environ.update({key: str(value) for key, value in {**mine, **everyone}.items()})
    os.environ.update({"MASTER_ADDR": "127.0.0.1", "TORCHELASTIC_RUN_ID": "tests"})


def with_lightning(rank: int, size: int, folder: Path) -> dict[str, Any]:
    """A run by Lightning's Trainer under DDP."""
    environment(rank, size)
    warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated")
    library = importlib.import_module("lightning.pytorch")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    strategies = importlib.import_module("lightning.pytorch.strategies")
    mine = importlib.import_module("fxplastic.trainers.lightning")
    model = plastic_model()

    class Module(library.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def training_step(self, one: Any, index: int) -> Any:
            return cross_entropy(self.model(one[0]), one[1])

        def configure_optimizers(self) -> Any:
            return optimizer_of(self)

    callback = mine.PlasticityCallback(**SETTINGS)
    trainer = library.Trainer(
        accelerator="cpu",
        devices=size,
        strategy=strategies.DDPStrategy(process_group_backend="gloo"),
        max_epochs=EPOCHS,
        callbacks=[callback],
        use_distributed_sampler=False,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        default_root_dir=folder,
    )
    trainer.fit(Module(), Part(rank, size))
    logged = float(trainer.callback_metrics["plasticity/neurons"])
    return {"weights": weights(model), "turnovers": callback.plasticity.history, "logged": logged}


def with_transformers(rank: int, size: int, folder: Path) -> dict[str, Any]:
    """A run by the Trainer of transformers, which wraps its model itself."""
    environment(rank, size)
    transformers = importlib.import_module("transformers")
    mine = importlib.import_module("fxplastic.trainers.transformers")
    model, plastic, data = tiny()
    args = transformers.TrainingArguments(
        output_dir=str(folder / "out"),
        num_train_epochs=EPOCHS,
        per_device_train_batch_size=len(data) // STEPS // size,
        learning_rate=1e-3,
        lr_scheduler_type="constant",
        train_sampling_strategy="sequential",
        max_grad_norm=0.0,
        ddp_find_unused_parameters=False,
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        save_strategy="no",
        logging_strategy="no",
    )
    callback = mine.PlasticityCallback(plastic, **SETTINGS)
    trainer = transformers.Trainer(model, args, train_dataset=data, callbacks=[callback])
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.train()
    kind = type(trainer.model_wrapped).__name__
    return {"weights": weights(model), "turnovers": callback.plasticity.history, "kind": kind}


def tiny() -> tuple[Any, PlasticModule, list[dict[str, Tensor]]]:
    """A ViT of transformers in float64, its handle, and a data set."""
    transformers = importlib.import_module("transformers")
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        image_size=16, patch_size=8, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=24, num_labels=5,
    )  # fmt: skip
    model = transformers.ViTForImageClassification(config).double()
    plastic = fxplastic.plasticize(model, {"pixel_values": torch.zeros(2, 3, 16, 16).double()})
    images, labels = torch.randn(16, 3, 16, 16).double(), torch.randint(0, 5, (16,))
    pairs = zip(images, labels, strict=True)
    return model, plastic, [{"pixel_values": x, "labels": y} for x, y in pairs]


def tiny_by_hand() -> dict[str, Any]:
    """The same in one process."""
    model, plastic, data = tiny()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
    plasticity = Plasticity(plastic, optimizer, **SETTINGS)
    size = len(data) // STEPS
    for _ in range(EPOCHS):
        for step in range(STEPS):
            part = data[step * size : (step + 1) * size]
            x, y = (torch.stack([one[key] for one in part]) for key in ("pixel_values", "labels"))
            optimizer.zero_grad()
            cross_entropy(model(x).logits, y).backward()
            plasticity.after_backward()
            optimizer.step()
        plasticity.end_epoch()
    return {"weights": weights(model), "turnovers": plasticity.history}


def by_hand() -> dict[str, Any]:
    """The same in one process."""
    model = plastic_model()
    optimizer = optimizer_of(model)
    plasticity = controller(model, optimizer)
    for _ in range(EPOCHS):
        ranks.train_epoch(model, optimizer, plasticity)
    return {"weights": weights(model), "turnovers": plasticity.history}


def both(rank: int, size: int, folder: Path) -> dict[str, dict[str, Any]]:
    """One start of the processes for both."""
    return {
        "lightning": with_lightning(rank, size, folder),
        "transformers": with_transformers(rank, size, folder),
    }


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, Any]]]:
    return together(both, 2, tmp_path_factory.mktemp("processes"))


def assert_like_one_process(found: list[dict[str, Any]], hand: dict[str, Any]) -> None:
    """The same plans, and the same weights: of two processes exactly, of one nearly."""
    plans = [turnover.plan for turnover in hand["turnovers"]]
    assert len(plans) == EPOCHS
    for one in found:
        assert [turnover.plan for turnover in one["turnovers"]] == plans
    assert_same(found[0]["weights"], found[1]["weights"])
    gap = ranks.furthest(found[0]["weights"], hand["weights"])
    print(f"largest difference {gap:.1e}")
    assert gap < 1e-10


@pytest.mark.setting(AREA, "Lightning: several processes (`strategy='ddp'`)", "supported")
def test_lightning_with_two_processes_does_what_one_does(found: Any) -> None:
    hand = by_hand()
    assert_like_one_process([one["lightning"] for one in found], hand)
    assert {one["lightning"]["logged"] for one in found} == {hand["turnovers"][-1].neurons}


@pytest.mark.setting(AREA, "transformers: several processes (DDP)", "supported")
def test_transformers_with_two_processes_does_what_one_does(found: Any) -> None:
    assert_like_one_process([one["transformers"] for one in found], tiny_by_hand())
    assert {one["transformers"]["kind"] for one in found} == {"DistributedDataParallel"}
