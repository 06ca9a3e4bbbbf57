"""Turnover as a callback of the Trainer of transformers (Hugging Face)."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Mapping
from typing import Any

import torch
from torch.amp import GradScaler
from torch.optim import Optimizer

try:
    from transformers import TrainerCallback
    from transformers.trainer_callback import ExportableState
except ImportError as error:
    raise ImportError(
        "fxplastic.trainers.transformers needs transformers and accelerate: "
        "pip install 'fxplastic[transformers]'"
    ) from error

from fxplastic.errors import TrainingError
from fxplastic.trainers.attached import Attaching
from fxplastic.turnover import Turnover

__all__ = ["PlasticityCallback"]
_STATE = "plasticity"


class PlasticityCallback(Attaching, TrainerCallback, ExportableState):
    """`fxplastic.Plasticity` in the ``Trainer`` of transformers.

    It scores the gradients of each optimizer step (after the last backward of an accumulation,
    unscaled, after the Trainer has clipped them) and turns neurons over at the end of each epoch,
    before the evaluation and the checkpoint of that epoch. Its state is in ``trainer_state.json``
    of every checkpoint, and ``trainer.train(resume_from_checkpoint=...)`` does what the
    uninterrupted run would have done. Each turnover is an entry of ``trainer.state.log_history``.

    An epoch that training stops in the middle of (``max_steps``, or another callback) is not over,
    and nothing turns over.

    Args:
        plastic: what `fxplastic.plasticize` returned for the Trainer's model or a part of it; by
            default the only plastic module in it.
        score: whether to score the gradients of training; with ``False``, call
            ``callback.plasticity.before_backward(loss)`` in ``compute_loss``.
        options: keyword arguments of `fxplastic.Plasticity` (ratio, schedule, policy, ...);
            ``epochs`` is the Trainer's number of epochs if not given.

    Raises:
        TrainingError: not a plastic module, or an unknown option; when training starts, a setting
            in which a turnover would be wrong.

    >>> import fxplastic, torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> plastic = fxplastic.plasticize(model, torch.zeros(2, 3))
    >>> callback = PlasticityCallback(plastic, schedule=fxplastic.Schedule(every=5), ratio=0.25)
    >>> callback.plasticity  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    fxplastic.errors.TrainingError: training has not begun, and there is no Plasticity yet; ...
    """

    # ------------------------------------------------------------------ hooks
    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Make the `Plasticity`, now that optimizer and weights are what training starts from.

        Raises:
            TrainingError: another model, DeepSpeed or FSDP, callbacks that the Trainer makes anew,
                or a checkpoint that was written in another epoch.
        """
        del control
        _check(args)
        self._attached.begin(
            given["model"], _inside(given["optimizer"]), int(state.num_train_epochs)
        )
        if state.global_step:
            done = int(state.epoch)
            late = self._attached.resume(_stored(state, self), done, at_end=state.epoch == done)
            _note(state, late)
        # The Trainer looks its entry up before it writes it.
        state.stateful_callbacks[type(self).__name__] = self.state()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Score the gradients."""
        del args, state, control
        if self._attached.score:
            self.plasticity.after_backward(_scaling(given["optimizer"]))

    def on_epoch_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Turn neurons over if they are due, and note it in the log history."""
        del args, given
        if control.should_training_stop and state.epoch != int(state.epoch):
            return
        _note(state, self.plasticity.end_epoch())

    # ------------------------------------------------------------------ across a stop
    def state(self) -> dict[str, Any]:
        """What the Trainer writes into ``trainer_state.json``."""
        plasticity = self._attached.plasticity
        text = None if plasticity is None else _text(plasticity.state_dict())
        return {"args": {}, "attributes": {_STATE: text}}


def _note(state: Any, turnover: Turnover | None) -> None:
    """Add a turnover to the Trainer's log history."""
    if turnover is not None:
        figures = {"plasticity_neurons": turnover.neurons}
        figures["plasticity_groups"] = len(turnover.plan.edits)
        state.log_history.append({**figures, "epoch": state.epoch, "step": state.global_step})


def _check(args: Any) -> None:
    """Refuse what could not be turned over rightly."""
    if args.restore_callback_states_from_checkpoint:
        raise TrainingError(
            "restore_callback_states_from_checkpoint=True makes every callback anew, without the "
            "model that PlasticityCallback was given; leave it False, its state is restored in "
            "any case"
        )
    for name in ("deepspeed", "fsdp"):
        if getattr(args, name, None) or os.environ.get(f"ACCELERATE_USE_{name.upper()}") == "true":
            raise TrainingError(
                f"the Trainer's {name} has not been shown to leave weights and optimizer state "
                "where a turnover can reach them; train without it, on one process or several"
            )


def _inside(optimizer: Any) -> Optimizer:
    """The optimizer in what accelerate makes of it."""
    while isinstance(getattr(optimizer, "optimizer", None), Optimizer):
        optimizer = optimizer.optimizer
    found: Optimizer = optimizer
    return found


def _scaling(optimizer: Any) -> GradScaler | None:
    """The loss scaler, if gradients are still scaled; clipping, or asking their norm, unscales."""
    scaler: GradScaler | None = getattr(optimizer, "scaler", None)
    if scaler is None or not scaler.is_enabled():
        return None
    # PyTorch has no public way to ask.
    stage = scaler._per_optimizer_states[id(_inside(optimizer))]["stage"]
    return scaler if stage.name == "READY" else None


def _stored(state: Any, callback: object) -> Mapping[str, Any] | None:
    """What the checkpoint says of this callback."""
    name = type(callback).__name__
    entry = state.stateful_callbacks.get(name)
    if isinstance(entry, list):
        raise TrainingError(f"the checkpoint is of a run with several {name}; give the Trainer one")
    text = None if entry is None else entry["attributes"].get(_STATE)
    return None if text is None else _values(text)


def _text(values: Mapping[str, Any]) -> str:
    """Tensors, numbers and text as one line of text."""
    file = io.BytesIO()
    torch.save(dict(values), file)
    return base64.b64encode(file.getvalue()).decode("ascii")


def _values(text: str) -> dict[str, Any]:
    """What `_text` was given."""
    file = io.BytesIO(base64.b64decode(text))
    values: dict[str, Any] = torch.load(file, weights_only=True, map_location="cpu")
    return values
