"""The callback for the Trainer of transformers, beside the same loop written by hand."""

import functools
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    PrinterCallback,
    Trainer,
    TrainerState,
    TrainingArguments,
    ViTConfig,
    ViTForImageClassification,
    get_linear_schedule_with_warmup,
)
from transformers.utils import logging

import fxplastic
from fxplastic import Plasticity, PlasticModule, Policy, Schedule
from fxplastic.errors import TrainingError
from fxplastic.trainers.transformers import PlasticityCallback
from tests.by_hand import assert_same

AREA = "Trainers"
LAYERS = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
DROP = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}
SETTINGS: dict[str, Any] = {
    "schedule": Schedule(every=2, window=2),
    "policy": Policy(zero_sum=0.1),
    "seed": 3,
}
EPOCHS, IMAGES, SIZE = 4, 16, 4


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Without bars and lines of progress."""
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    yield
    logging.set_verbosity_warning()
    logging.enable_progress_bar()


def vit() -> tuple[nn.Module, dict[str, Tensor]]:
    torch.manual_seed(0)
    config = ViTConfig(
        image_size=16, patch_size=8, intermediate_size=24, num_labels=5, **LAYERS, **DROP
    )
    return ViTForImageClassification(config), {"pixel_values": torch.randn(IMAGES, 3, 16, 16)}


def bert() -> tuple[nn.Module, dict[str, Tensor]]:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=50, max_position_embeddings=16, intermediate_size=24, num_labels=5,
        **LAYERS, **DROP,
    )  # fmt: skip
    model = BertForSequenceClassification(config)
    ids = torch.randint(0, 50, (IMAGES, 8))
    return model, {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


MODELS = {"ViT": vit, "BERT": bert}


def parts(name: str) -> tuple[nn.Module, PlasticModule, list[dict[str, Tensor]]]:
    """A model with uneven norms, its handle, and a data set."""
    model, inputs = MODELS[name]()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
    plastic = fxplastic.plasticize(model, {key: value[:2] for key, value in inputs.items()})
    labels = torch.randint(0, 5, (IMAGES,))
    data = [
        {**{key: value[i] for key, value in inputs.items()}, "labels": labels[i]}
        for i in range(IMAGES)
    ]
    return model, plastic, data


def arguments(folder: Path, **options: Any) -> TrainingArguments:
    quiet: dict[str, Any] = {
        "output_dir": str(folder),
        "num_train_epochs": EPOCHS,
        "per_device_train_batch_size": SIZE,
        "learning_rate": 1e-2,
        "use_cpu": True,
        "report_to": "none",
        "disable_tqdm": True,
        "save_strategy": "no",
        "logging_strategy": "no",
    }
    return TrainingArguments(**{**quiet, **options})


def trainer_of(model: nn.Module, data: Any, callback: Any, args: TrainingArguments) -> Trainer:
    trainer = Trainer(model, args, train_dataset=data, callbacks=[callback])
    trainer.remove_callback(PrinterCallback)
    return trainer


@functools.cache  # it is only looked at
def by_hand(
    name: str, accumulate: int = 1, *, decay: bool = True
) -> tuple[nn.Module, Any, Plasticity]:
    """The loop, on the batches that a Trainer draws with its seed."""
    model, plastic, data = parts(name)
    with tempfile.TemporaryDirectory() as folder:  # which a Trainer makes in any case
        args = arguments(Path(folder))
        loader = Trainer(model, args, train_dataset=data).get_train_dataloader()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0, fused=True)
    steps = EPOCHS * IMAGES // SIZE // accumulate
    scheduler = get_linear_schedule_with_warmup(optimizer, 0, steps if decay else 10**9)
    plasticity = Plasticity(plastic, optimizer, **SETTINGS)
    for epoch in range(EPOCHS):
        loader.set_epoch(epoch)
        model.train()
        for number, batch in enumerate(loader, 1):
            labels = batch.pop("labels")
            loss = cross_entropy(model(**batch).logits, labels, reduction="sum")
            (loss / (SIZE * accumulate)).backward()
            if number % accumulate == 0:
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                plasticity.after_backward()
                optimizer.step()
                if decay:
                    scheduler.step()
                optimizer.zero_grad()
        plasticity.end_epoch()
    return model, optimizer, plasticity


def assert_like_by_hand(trainer: Any, callback: PlasticityCallback, hand: Any) -> None:
    model, optimizer, plasticity = hand
    assert [t.epoch for t in plasticity.history] == [2, 4]
    plans = [turnover.plan for turnover in callback.plasticity.history]
    assert plans == [turnover.plan for turnover in plasticity.history]
    assert_same(trainer.model.state_dict(), model.state_dict())
    theirs, mine = trainer.optimizer.optimizer.state, optimizer.state
    names = {p: name for name, p in trainer.model.named_parameters()}
    own = dict(model.named_parameters())
    assert len(theirs) == len(mine) > 0
    logged = [entry for entry in trainer.state.log_history if "plasticity_neurons" in entry]
    turned = [t.neurons for t in plasticity.history]
    assert [entry["plasticity_neurons"] for entry in logged] == turned
    assert [entry["epoch"] for entry in logged] == [2.0, 4.0]
    for parameter, state in theirs.items():
        assert_same(state, mine[own[names[parameter]]], names[parameter])


@pytest.mark.setting(
    AREA, "transformers: `fxplastic.trainers.transformers.PlasticityCallback`", "supported"
)
@pytest.mark.setting(AREA, "transformers: accumulated and clipped gradients", "supported")
# BERT's own loss is not divided by the number of accumulated batches, which is left to itself.
@pytest.mark.parametrize(("name", "accumulate"), [("ViT", 1), ("ViT", 2), ("BERT", 1)])
def test_a_trainer_does_what_a_loop_by_hand_does(
    name: str, accumulate: int, tmp_path: Path
) -> None:
    model, plastic, data = parts(name)
    heard: list[fxplastic.Turnover] = []
    callback = PlasticityCallback(plastic, **SETTINGS)
    callback.on(heard.append)
    args = arguments(tmp_path, gradient_accumulation_steps=accumulate)
    trainer = trainer_of(model, data, callback, args)
    trainer.train()
    assert_like_by_hand(trainer, callback, by_hand(name, accumulate))
    assert tuple(heard) == callback.plasticity.history


# ---------------------------------------------------------------- going on after a stop
@pytest.mark.setting(
    AREA, "transformers: resumed from a checkpoint, of an epoch's end or its middle", "supported"
)
@pytest.mark.parametrize("every", [3, 4, "epoch"])
def test_a_run_goes_on_from_a_checkpoint_bit_for_bit(every: Any, tmp_path: Path) -> None:
    saving: dict[str, Any] = {"save_strategy": "epoch"}
    if every != "epoch":
        saving = {"save_strategy": "steps", "save_steps": every}
    hand = by_hand("BERT")

    def run(checkpoint: str | None) -> tuple[Trainer, PlasticityCallback]:
        model, plastic, data = parts("BERT")
        callback = PlasticityCallback(plastic, **SETTINGS)
        trainer = trainer_of(model, data, callback, arguments(tmp_path, **saving))
        trainer.train(resume_from_checkpoint=checkpoint)
        return trainer, callback

    assert_like_by_hand(*run(None), hand)
    steps = [6, 9] if every == 3 else [4, 8, 12]
    for step in steps:
        assert_like_by_hand(*run(str(tmp_path / f"checkpoint-{step}")), hand)


@pytest.mark.setting(
    AREA, "transformers: an epoch that `max_steps` cuts short is not over", "supported"
)
def test_a_run_that_was_stopped_within_an_epoch_goes_on_in_it(tmp_path: Path) -> None:
    constant: dict[str, Any] = {"lr_scheduler_type": "constant", "save_strategy": "epoch"}
    model, plastic, data = parts("BERT")
    callback = PlasticityCallback(plastic, **SETTINGS)
    args = arguments(tmp_path, max_steps=7, **constant)
    trainer_of(model, data, callback, args).train()
    assert callback.plasticity.history == ()
    assert callback.plasticity.epoch == 2
    model, plastic, data = parts("BERT")
    callback = PlasticityCallback(plastic, **SETTINGS)
    trainer = trainer_of(model, data, callback, arguments(tmp_path, **constant))
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-7"))
    assert_like_by_hand(trainer, callback, by_hand("BERT", decay=False))


def test_a_second_run_of_the_same_trainer_begins_anew(tmp_path: Path) -> None:
    model, plastic, data = parts("BERT")
    callback = PlasticityCallback(plastic, **SETTINGS)
    trainer = trainer_of(model, data, callback, arguments(tmp_path, num_train_epochs=2))
    trainer.train()
    first = callback.plasticity
    trainer.train()
    assert callback.plasticity is not first
    assert [t.epoch for t in callback.plasticity.history] == [2]


def test_a_checkpoint_from_before_the_callback_is_gone_on_from_with_a_warning(
    tmp_path: Path,
) -> None:
    model, plastic, data = parts("BERT")
    Trainer(
        model, arguments(tmp_path, num_train_epochs=1, save_strategy="epoch"), train_dataset=data
    ).train()
    callback = PlasticityCallback(plastic, **SETTINGS)
    args = arguments(tmp_path, num_train_epochs=3, save_strategy="epoch")
    trainer = trainer_of(model, data, callback, args)
    with pytest.warns(UserWarning, match="holds no state of this callback: it begins in epoch 2"):
        trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert [t.epoch for t in callback.plasticity.history] == [2]


def test_scores_may_come_from_a_loss_of_their_own(tmp_path: Path) -> None:
    model, plastic, data = parts("BERT")
    callback = PlasticityCallback(plastic, score=False, score_every=2, **SETTINGS)

    seen: list[int] = []

    class Weighted(Trainer):
        def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            loss = super().compute_loss(model, inputs, *args, **kwargs)
            callback.plasticity.before_backward(2 * loss)
            seen.append(callback.plasticity.scores.updates)
            return loss

    trainer = Weighted(
        model, arguments(tmp_path, num_train_epochs=2), train_dataset=data, callbacks=[callback]
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    assert seen == [1, 1, 2, 2, 3, 3, 4, 4]  # every second step, of two epochs
    assert [t.epoch for t in callback.plasticity.history] == [2]


# ---------------------------------------------------------------- what is refused
@pytest.mark.setting(AREA, "transformers: a model that was not made plastic", "refused")
def test_a_model_that_was_not_made_plastic_is_refused(tmp_path: Path) -> None:
    model, _, data = parts("BERT")
    with pytest.raises(TrainingError, match=r"holds 0 plastic modules.*fxplastic.plasticize"):
        trainer_of(model, data, PlasticityCallback(), arguments(tmp_path)).train()
    _, other, _ = parts("BERT")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(TrainingError, match="was not made of BertForSequenceClassification"):
        trainer_of(model, data, PlasticityCallback(other), arguments(tmp_path)).train()
    assert_same(dict(model.state_dict()), before)
    with pytest.raises(TrainingError, match="has no channel groups; pass what"):
        PlasticityCallback(model)  # type: ignore[arg-type]


@pytest.mark.setting(
    AREA, "transformers: DeepSpeed, FSDP, `restore_callback_states_from_checkpoint`", "refused"
)
def test_settings_in_which_a_turnover_would_be_wrong_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, plastic, data = parts("BERT")
    callback = PlasticityCallback(plastic, **SETTINGS)
    args = arguments(tmp_path, restore_callback_states_from_checkpoint=True)
    with pytest.raises(TrainingError, match="leave it False, its state is restored in any case"):
        trainer_of(model, data, callback, args).train()
    for name in ("deepspeed", "fsdp"):
        args = arguments(tmp_path)
        setattr(args, name, "x")
        with pytest.raises(TrainingError, match=f"the Trainer's {name} has not been shown"):
            callback.on_train_begin(args, SimpleNamespace(), None)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")  # from a file of accelerate's
    with pytest.raises(TrainingError, match="the Trainer's fsdp has not been shown"):
        callback.on_train_begin(arguments(tmp_path / "b"), SimpleNamespace(), None)


def test_the_state_of_another_epoch_is_refused(tmp_path: Path) -> None:
    model, plastic, data = parts("BERT")
    callback = PlasticityCallback(plastic, **SETTINGS)
    trainer = trainer_of(
        model, data, callback, arguments(tmp_path, num_train_epochs=2, save_strategy="epoch")
    )
    trainer.train()
    state = trainer.state
    state.epoch = 5.0
    with pytest.raises(TrainingError, match=r"goes on in epoch 6, and the state .* epoch 3"):
        callback.on_train_begin(trainer.args, state, None, model=model, optimizer=trainer.optimizer)


def test_scaled_gradients_are_unscaled_before_they_are_scored() -> None:
    model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
    plastic = fxplastic.plasticize(model, torch.zeros(2, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    prepared = Accelerator(cpu=True).prepare(optimizer)
    prepared.scaler = scaler
    state = TrainerState(num_train_epochs=1)
    callback = PlasticityCallback(plastic, schedule=Schedule(every=1))
    args = TrainingArguments(use_cpu=True, report_to="none")
    callback.on_train_begin(args, state, None, model=model, optimizer=prepared)
    scaler.scale(model(torch.ones(4, 3)).square().sum()).backward()
    seen = []
    for _ in range(2):
        callback.on_pre_optimizer_step(args, state, None, optimizer=prepared)
        seen.append(next(iter(callback.plasticity.scores.values().values())).clone())
        callback.plasticity.scores.reset()
        if len(seen) == 1:
            scaler.unscale_(optimizer)
    # The same before and after they were unscaled.
    torch.testing.assert_close(seen[0], seen[1], rtol=1e-6, atol=0.0)
