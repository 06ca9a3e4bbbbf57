"""Turnover as a callback of Lightning's Trainer (the package ``lightning``)."""

from __future__ import annotations

try:
    from lightning.pytorch import Callback
except ImportError as error:
    raise ImportError(
        "fxplastic.trainers.lightning needs Lightning: pip install 'fxplastic[lightning]'"
    ) from error

from fxplastic.trainers.hooks import LightningHooks

__all__ = ["PlasticityCallback"]


class PlasticityCallback(LightningHooks, Callback):
    """`fxplastic.Plasticity` in a Lightning ``Trainer``.

    It scores the gradients of each optimizer step (after the last backward of an accumulation,
    unscaled, before Lightning clips them) and turns neurons over at the end of the training epoch:
    after the validation of that epoch, before checkpoints are written. Its state is in the
    checkpoints, and a run that is resumed from one does what the uninterrupted one would have
    done. At the end of each epoch it logs ``plasticity/neurons`` and ``plasticity/groups``.

    Averages that ``WeightAveraging`` or ``StochasticWeightAveraging`` keep are turned over, too.

    Args:
        plastic: what `fxplastic.plasticize` returned for the LightningModule or a part of it;
            by default the only plastic module in the LightningModule.
        score: whether to score the gradients of training; with ``False``, call
            ``callback.plasticity.before_backward(loss)`` in ``training_step``.
        options: keyword arguments of `fxplastic.Plasticity` (ratio, schedule, policy, ...);
            ``epochs`` is the Trainer's ``max_epochs`` if not given.

    Raises:
        TrainingError: not a plastic module, or an unknown option; when training starts, a setting
            in which a turnover would be wrong.

    >>> import fxplastic, torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> plastic = fxplastic.plasticize(model, torch.zeros(2, 3))
    >>> callback = PlasticityCallback(plastic, schedule=fxplastic.Schedule(every=5), ratio=0.25)
    >>> PlasticityCallback(plastic, rate=0.25)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    fxplastic.errors.TrainingError: Plasticity has no argument 'rate'; it takes ratio, ...
    """
