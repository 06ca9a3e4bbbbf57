"""The hooks of Lightning's callbacks, for both packages that Lightning is published in."""

from __future__ import annotations

from typing import Any

from torch.amp import GradScaler
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from fxplastic.errors import TrainingError
from fxplastic.plastic import Plastic
from fxplastic.trainers.attached import Attaching
from fxplastic.turnover import Turnover

_STRATEGIES = ("SingleDeviceStrategy", "DDPStrategy")


class LightningHooks(Attaching):
    """What a `PlasticityCallback` does, hook by hook; documented there."""

    def __init__(
        self, plastic: Plastic | None = None, *, score: bool = True, **options: Any
    ) -> None:
        super().__init__(plastic, score=score, **options)
        self._stored: dict[str, Any] | None = None  # read from a checkpoint, not used yet

    # ------------------------------------------------------------------ before a run
    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Refuse what could not be turned over rightly.

        Raises:
            TrainingError: manual optimization, or a strategy that was not shown to work.
        """
        if stage != "fit":
            return
        self._stored = None
        if not pl_module.automatic_optimization:
            raise TrainingError(
                f"{type(pl_module).__name__} has automatic_optimization = False, where no hook "
                "comes between its backward and what it does with gradients; make a "
                "fxplastic.Plasticity in it and call after_backward() and end_epoch() yourself"
            )
        kinds = {kind.__name__ for kind in type(trainer.strategy).__mro__}
        if not kinds & set(_STRATEGIES):
            raise TrainingError(
                f"strategy {type(trainer.strategy).__name__} has not been shown to leave "
                "parameters and optimizer state where a turnover can reach them; use "
                'Trainer(strategy="ddp"), or a single device'
            )

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Make the `Plasticity`, now that optimizer and weights are what training starts from.

        Raises:
            TrainingError: several optimizers, another model, or a checkpoint of another epoch.
        """
        if len(trainer.optimizers) != 1:
            raise TrainingError(
                f"{type(pl_module).__name__} has {len(trainer.optimizers)} optimizers, and a "
                "turnover moves the state of one; give configure_optimizers one with several "
                "parameter groups"
            )
        done, state = trainer.current_epoch, self._stored
        before = self._attached.plasticity
        if state is None and done and before is not None:  # the same trainer is told to go on
            state = before.state_dict()
        known = trainer.max_epochs if (trainer.max_epochs or -1) > 0 else None
        self._attached.begin(
            pl_module,
            trainer.optimizers[0],
            None if trainer.fast_dev_run else known,
            _averages(trainer),
        )
        self._attached.resume(state, done)
        self._stored = None

    # ------------------------------------------------------------------ in a run
    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Optimizer) -> None:
        """Score the gradients: accumulated, unscaled, and not yet clipped."""
        del pl_module
        if self._attached.score and _some_gradient(optimizer):
            self.plasticity.after_backward(_scaling(trainer, optimizer))

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Turn neurons over if they are due, and log it."""
        turnover = self.plasticity.end_epoch()
        if not trainer.barebones:
            pl_module.log_dict(_figures(turnover), batch_size=1, sync_dist=True)

    # ------------------------------------------------------------------ across a stop
    def state_dict(self) -> dict[str, Any]:
        """All that a run needs to go on; Lightning puts it into its checkpoints."""
        if self._attached.plasticity is None:
            return self._stored or {}
        return self._attached.plasticity.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep what a checkpoint holds until training starts."""
        self._stored = state_dict


def _figures(turnover: Turnover | None) -> dict[str, float]:
    """What is logged at the end of an epoch."""
    if turnover is None:
        return {"plasticity/neurons": 0.0, "plasticity/groups": 0.0}
    groups = len(turnover.plan.edits)
    return {"plasticity/neurons": float(turnover.neurons), "plasticity/groups": float(groups)}


def _some_gradient(optimizer: Optimizer) -> bool:
    """Whether there was a backward: a training step may return None."""
    return any(p.grad is not None for group in optimizer.param_groups for p in group["params"])


def _scaling(trainer: Any, optimizer: Optimizer) -> GradScaler | None:
    """The loss scaler, if gradients are still scaled; Lightning has done it but for fused ones."""
    scaler: GradScaler | None = getattr(trainer.precision_plugin, "scaler", None)
    return scaler if getattr(optimizer, "_step_supports_amp_scaling", False) else None


def _averages(trainer: Any) -> list[Any]:
    """Averaged weights in other callbacks: those of WeightAveraging and StochasticWeightAveraging.

    Both keep them in a private attribute. A turnover without them would average neurons with
    others that have taken their place.
    """
    found = [getattr(callback, "_average_model", None) for callback in trainer.callbacks]
    return [
        one.module if isinstance(one, AveragedModel) else one for one in found if one is not None
    ]
