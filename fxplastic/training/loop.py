"""The loop: train, turn neurons over, evaluate, record, and store a checkpoint, epoch by epoch.

On a CPU a run that was killed and resumed ends with the weights of the uninterrupted run, bit for
bit, given the same machine, library versions, number of threads and workers. On a GPU that also
needs deterministic kernels: call ``torch.use_deterministic_algorithms(True)`` first, and set
``CUBLAS_WORKSPACE_CONFIG=:4096:8``; it is not forced here, because it costs time.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.optim.swa_utils import update_bn
from tqdm import tqdm

from fxplastic.errors import TrainingError
from fxplastic.training import checkpoints
from fxplastic.training.batches import training_batches
from fxplastic.training.build import Parts, build
from fxplastic.training.config import Config
from fxplastic.training.evaluation import Accuracy, accuracy, not_tested, predictions
from fxplastic.training.events import Events
from fxplastic.training.files import replace_text, writing
from fxplastic.training.randomness import seed_all
from fxplastic.training.reading import as_json
from fxplastic.training.records import Epoch, Records, Result, draw_confusion
from fxplastic.training.resuming import make_last, put_back, stored_state, taken


def train(
    config: Config,
    *,
    resume: bool = False,
    resume_from: Path | str | None = None,
    progress: bool = True,
) -> Result:
    """Carry a run out, from the beginning or from its last checkpoint.

    The folder ``config.out`` gets ``config.json``, ``metrics.csv``, ``plans.jsonl``, ``last.pt``
    with ``previous.pt``, and at the end ``result.json`` and ``confusion.png``.

    Args:
        config: all that the run depends on.
        resume: go on from ``last.pt``; from the beginning where the run was stopped before it.
        resume_from: a checkpoint of this run to go on from, such as ``previous.pt``.
        progress: show a progress bar.

    Returns:
        The accuracies at the end.

    Raises:
        TrainingError: the folder has a run and `resume` was not asked for, or one of another
            configuration; an unreadable checkpoint; a full disk; a loss that is not finite.
        FxPlasticError: of another kind, see `build`. All of them but the last two come before
            training starts.
    """
    folder = Path(config.out)
    from_file = None if resume_from is None else Path(resume_from)
    state = stored_state(config, resume=resume, resume_from=from_file)
    parts = build(config)
    done = 0 if state is None else put_back(parts, state)
    records = Records(folder)
    with writing(folder, "nothing was changed"):
        folder.mkdir(parents=True, exist_ok=True)
        replace_text(folder / "config.json", as_json(config))
    if from_file is not None:
        make_last(from_file, folder)
    records.cut(done)
    steps = parts.steps
    bar = tqdm(
        total=config.epochs * steps, initial=done * steps, unit="batch", disable=not progress
    )
    with Events(config, done) as events, bar:
        for number in range(done + 1, config.epochs + 1):
            epoch = _epoch(parts, config, number, records, lambda: bar.update())
            events.add(epoch)
            top1 = epoch.accuracy.top1
            shown = {} if math.isnan(top1) else {"top1": f"{top1:.1f}"}
            bar.set_postfix(epoch=number, loss=f"{epoch.loss:.3f}", **shown)
            if number % config.checkpoint == 0 or number == config.epochs:
                checkpoints.save(folder / checkpoints.LAST, taken(parts, config, number))
    return _finish(parts, config, folder)


def _epoch(
    parts: Parts, config: Config, number: int, records: Records, tick: Callable[[], object]
) -> Epoch:
    """One epoch, with its turnover and its evaluation, put on record."""
    began = time.perf_counter()
    seed_all(config.seed, number)
    lr = float(parts.optimizer.param_groups[0]["lr"])
    loss = _train(parts, config, number, tick)
    turnover = None if parts.plasticity is None else parts.plasticity.end_epoch()
    if turnover is not None and config.reestimate_bn:
        _reestimate(parts, config, number)
    if number % config.evaluate == 0 or number == config.epochs:
        _, _, found = _evaluate(parts, config)
    else:
        found = not_tested(len(parts.data.classes), parts.data.splits())
    neurons = 0 if turnover is None else turnover.neurons
    epoch = Epoch(number, lr, loss, found, neurons, time.perf_counter() - began)
    records.add(epoch, turnover)
    return epoch


def _train(parts: Parts, config: Config, epoch: int, tick: Callable[[], object]) -> float:
    """Go through the training set once; returns the mean loss of its samples."""
    parts.model.train()
    total = torch.zeros((), dtype=torch.float64, device=parts.device)
    samples = torch.zeros_like(total)
    for index, (images, labels) in enumerate(training_batches(parts.data, config, epoch)):
        loss = _step(parts, config, images, labels, epoch)
        if parts.ema is not None:
            parts.ema.update(parts.model, step=(epoch - 1) * parts.steps + index + 1)
        # A loss scaler skips a step that overflowed, and so does the mean; nothing else may.
        counts = loss.isfinite() if config.amp else torch.ones_like(loss, dtype=torch.bool)
        total += torch.where(counts, loss, 0.0) * len(labels)
        samples += counts * len(labels)
        tick()
    mean = float(total / samples)
    if not torch.isfinite(torch.tensor(mean)):
        raise TrainingError(
            f"the training loss of epoch {epoch} is {mean}; checkpoints of epochs before are kept. "
            "Give a smaller lr, a longer warmup or a clip, and start anew in another folder"
        )
    return mean


def _step(parts: Parts, config: Config, images: Tensor, labels: Tensor, epoch: int) -> Tensor:
    """One optimizer step; returns its loss, detached, on the device."""
    images = images.to(parts.device, non_blocking=True)
    labels = labels.to(parts.device, non_blocking=True)
    plasticity, scaler = parts.plasticity, parts.scaler
    parts.optimizer.zero_grad()
    with torch.autocast(parts.device.type, enabled=config.amp):
        logits = parts.forward(images)
        loss = parts.loss(logits, labels, epoch)
    if plasticity is not None and parts.score_loss is not None:
        plasticity.before_backward(parts.score_loss(logits.float(), labels, epoch))
    torch.autograd.backward(scaler.scale(loss))
    unscaled = config.clip is not None
    if unscaled:
        scaler.unscale_(parts.optimizer)
    if plasticity is not None and parts.score_loss is None:
        plasticity.after_backward(None if unscaled else scaler)
    if config.clip is not None:
        clip_grad_norm_(parts.model.parameters(), config.clip)
    scaler.step(parts.optimizer)
    scaler.update()
    parts.scheduler.step()
    return loss.detach()


def _reestimate(parts: Parts, config: Config, epoch: int) -> None:
    """BatchNorm statistics of the network as it is now: what was pruned made the old ones stale."""
    for model in (parts.model, None if parts.ema is None else parts.ema.module):
        if model is not None:
            batches = training_batches(parts.data, config, epoch, "statistics")
            update_bn(batches, model, parts.device)


def _evaluate(parts: Parts, config: Config) -> tuple[Tensor, Tensor, Accuracy]:
    truth, found = predictions(parts.evaluated, parts.data, config, parts.device)
    splits = parts.data.splits()
    return truth, found, accuracy(truth, found, len(parts.data.classes), splits)


def _finish(parts: Parts, config: Config, folder: Path) -> Result:
    """The result and the picture; from the weights alone, so that a finished run can redo it."""
    truth, found, reached = _evaluate(parts, config)
    history = () if parts.plasticity is None else parts.plasticity.history
    result = Result(
        label=config.label,
        epochs=config.epochs,
        top1=reached.top1,
        splits=reached.splits,
        per_class=reached.per_class,
        turnovers=len(history),
        neurons=sum(turnover.neurons for turnover in history),
        folder=str(folder),
    )
    result.store()
    if config.plot:
        draw_confusion(folder / "confusion.png", truth, found, parts.data.classes)
    return result
