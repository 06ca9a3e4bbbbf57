"""What the callbacks of all trainers have in common: a `Plasticity` that is made when a run begins.

A trainer makes or moves the optimizer itself, so that a callback is given the plastic module and
the settings first, and makes its `Plasticity` of them once training starts.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer

from fxplastic.controller import Listener, Plasticity
from fxplastic.errors import TrainingError
from fxplastic.module import PlasticModule
from fxplastic.plastic import Plastic, require_plastic
from fxplastic.turnover import Turnover

_OPTIONS = tuple(inspect.signature(Plasticity).parameters)[2:]  # after plastic and optimizer


class Attached:
    """A `Plasticity` to be: of which module, with which settings, and who listens.

    Args:
        plastic: what `plasticize` returned; by default the only one in the model that trains.
        score: whether the trainer's own gradients are scored.
        options: keyword arguments of `Plasticity`.

    Raises:
        TrainingError: not a plastic module, or an option that `Plasticity` does not have.
    """

    def __init__(self, plastic: Plastic | None, score: bool, options: Mapping[str, Any]) -> None:
        if plastic is not None:
            require_plastic(plastic, TrainingError)
        for name in options:
            if name not in _OPTIONS:
                raise TrainingError(
                    f"Plasticity has no argument {name!r}; it takes {', '.join(_OPTIONS)}"
                )
        self.score = score
        self.plasticity: Plasticity | None = None
        self._plastic, self._options = plastic, dict(options)
        self._listeners: list[Listener] = []

    def on(self, listener: Listener) -> Listener:
        """Call `listener` with each turnover of this run and of later ones."""
        self._listeners.append(listener)
        if self.plasticity is not None:
            self.plasticity.on(listener)
        return listener

    @property
    def running(self) -> Plasticity:
        """The `Plasticity` of the run.

        Raises:
            TrainingError: no run has begun.
        """
        if self.plasticity is None:
            raise TrainingError(
                "training has not begun, and there is no Plasticity yet; it is made once the "
                "trainer has made the optimizer"
            )
        return self.plasticity

    def begin(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        epochs: int | None,
        averages: Sequence[nn.Module] = (),
    ) -> Plasticity:
        """Make the `Plasticity` of a run.

        Args:
            model: what the trainer trains, without the wrappers that it put around it.
            optimizer: the only one, itself.
            epochs: of the whole run, if known.
            averages: modules like `model` with averaged weights, to be turned over with it.

        Raises:
            TrainingError: `model` is not the module that was made plastic, and does not hold it.
        """
        plastic = _found(model) if self._plastic is None else self._plastic
        path = _path(model, plastic)
        options = {"epochs": epochs, **self._options}
        given = options.get("ema")
        ema = [*_listed(given), *(average.get_submodule(path) for average in averages)]
        options["ema"] = ema if averages else given
        self.plasticity = None
        plasticity = Plasticity(plastic, optimizer, **options)
        for listener in self._listeners:
            plasticity.on(listener)
        self.plasticity = plasticity
        return plasticity

    def resume(
        self, state: Mapping[str, Any] | None, done: int, *, at_end: bool = True
    ) -> Turnover | None:
        """Go on after `done` epochs, with what was stored, if there is something.

        A checkpoint that was written after the last step of an epoch, and before the callback was
        told of its end, is one epoch behind: the turnover that was due then is made now.

        Args:
            state: what `Plasticity.state_dict` returned then.
            done: number of epochs that the trainer has completed.
            at_end: whether the checkpoint may have been written at the end of an epoch.

        Returns:
            The turnover that was made up for, if one was.

        Raises:
            TrainingError: the state is of another epoch.

        Warns:
            UserWarning: epochs were trained without this callback.
        """
        plasticity = self.running
        if state is not None:
            plasticity.load_state_dict(state)
        elif done:
            warnings.warn(
                f"{done} epochs were trained before, and the checkpoint holds no state of this "
                f"callback: it begins in epoch {done + 1}, without scores",
                stacklevel=3,
            )
            plasticity.load_state_dict(plasticity.state_dict() | {"epoch": done + 1})
        late = plasticity.end_epoch() if at_end and plasticity.epoch == done else None
        if plasticity.epoch != done + 1:
            raise TrainingError(
                f"the trainer goes on in epoch {done + 1}, and the state of its turnovers is of "
                f"epoch {plasticity.epoch}; resume from a checkpoint that was written at the end "
                "of a whole epoch"
            )
        return late


class Attaching:
    """What every callback has: arguments, its `Plasticity`, and listeners; documented there."""

    def __init__(
        self, plastic: Plastic | None = None, *, score: bool = True, **options: Any
    ) -> None:
        super().__init__()
        self._attached = Attached(plastic, score, options)

    @property
    def plasticity(self) -> Plasticity:
        """The `fxplastic.Plasticity` of this run, from the start of its first epoch.

        Raises:
            TrainingError: training has not begun.
        """
        return self._attached.running

    def on(self, listener: Listener) -> Listener:
        """Call `listener` with each `fxplastic.Turnover`. Usable as a decorator."""
        return self._attached.on(listener)


def _found(model: nn.Module) -> PlasticModule:
    """The plastic module inside a model."""
    found = [module for module in model.modules() if isinstance(module, PlasticModule)]
    if len(found) == 1:
        return found[0]
    raise TrainingError(
        f"{type(model).__name__} holds {len(found)} plastic modules, so that the callback cannot "
        "know which one is meant; give it what fxplastic.plasticize returned for the model that "
        "trains: PlasticityCallback(plastic, ...)"
    )


def _path(model: nn.Module, plastic: Plastic) -> str:
    """Where in `model` the plastic module's parameters are: the path of a submodule."""
    theirs = dict(model.named_parameters(remove_duplicate=False))
    mine = dict(plastic.named_parameters(remove_duplicate=False))
    first = next(iter(mine), "")
    ends = [name.removesuffix(first) for name in theirs if name.endswith(first)]
    for prefix in ends:
        if all(theirs.get(prefix + name) is parameter for name, parameter in mine.items()):
            return prefix.removesuffix(".")
    raise TrainingError(
        f"the plastic module was not made of {type(model).__name__} or of a part of it: parameter "
        f"{first!r} is not among its own; plasticize the very model that the trainer is given, "
        "after its last layer was replaced, and make no copy of it"
    )


def _listed(ema: Any) -> list[nn.Module]:
    """One average, several of them or none, as a list."""
    if ema is None:
        return []
    return list(ema) if isinstance(ema, list | tuple) else [ema]
