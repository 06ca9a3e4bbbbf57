"""Turnover as a callback of Lightning's Trainer under its older name, ``pytorch_lightning``."""

from __future__ import annotations

try:
    from pytorch_lightning import Callback
except ImportError as error:
    raise ImportError(
        "fxplastic.trainers.pytorch_lightning needs Lightning: pip install pytorch-lightning"
    ) from error

from fxplastic.trainers.hooks import LightningHooks

__all__ = ["PlasticityCallback"]


class PlasticityCallback(LightningHooks, Callback):
    """The same as `fxplastic.trainers.lightning.PlasticityCallback`, for ``pytorch_lightning``.

    Args:
        plastic: as there.
        score: as there.
        options: as there.

    Raises:
        TrainingError: as there.
    """
