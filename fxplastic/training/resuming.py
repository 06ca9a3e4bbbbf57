"""From a running loop to the state in a checkpoint, and back."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fxplastic.errors import TrainingError
from fxplastic.training import checkpoints
from fxplastic.training.build import Parts
from fxplastic.training.config import Config, as_values, differences
from fxplastic.training.files import replace_file, writing
from fxplastic.training.randomness import random_states, restore_random_states


def taken(parts: Parts, config: Config, epoch: int) -> dict[str, Any]:
    """All that the run needs to go on after `epoch`."""
    return {
        "epoch": epoch,
        "config": as_values(config),
        "random": random_states(),
        **{name: part.state_dict() for name, part in _stateful(parts).items()},
    }


def put_back(parts: Parts, state: Mapping[str, Any]) -> int:
    """Load what `taken` gave into newly built parts; returns the number of epochs done.

    Raises:
        TrainingError: it is not of these parts, whatever the configuration says.
    """
    for name, part in _stateful(parts).items():
        try:
            part.load_state_dict(state[name])
        except (RuntimeError, ValueError, KeyError, TypeError) as error:
            raise TrainingError(
                f"the checkpoint's {name} does not fit ({error}); go on with the versions of "
                "fxplastic, timm and torch that wrote it"
            ) from error
    restore_random_states(state["random"])
    return int(state["epoch"])


def _stateful(parts: Parts) -> dict[str, Any]:
    """What has a state of its own, by its key in a checkpoint."""
    every = {
        "model": parts.model,
        "optimizer": parts.optimizer,
        "scheduler": parts.scheduler,
        "scaler": parts.scaler,
        "ema": parts.ema,
        "plasticity": parts.plasticity,
    }
    return {name: part for name, part in every.items() if part is not None}


def stored_state(
    config: Config, *, resume: bool, resume_from: Path | None
) -> dict[str, Any] | None:
    """The checkpoint to go on from, or None for a run from the beginning.

    Raises:
        TrainingError: the folder has a run and neither `resume` nor `resume_from` is given; the
            checkpoint cannot be read; it, or the folder, is of another configuration.
    """
    folder = Path(config.out)
    last = folder / checkpoints.LAST
    if not resume and resume_from is None:
        if last.exists() or (folder / "config.json").exists():
            raise TrainingError(
                f"{folder} has a run already; give --resume to go on with it, or another --out"
            )
        return None
    _refuse_another(config, _stored_config(folder / "config.json"), folder)
    if resume_from is None and not (last.exists() or last.with_name(checkpoints.PREVIOUS).exists()):
        return None
    path = last if resume_from is None else resume_from
    state = checkpoints.load(path)
    _refuse_another(config, state["config"], path)
    return state


def _stored_config(path: Path) -> Mapping[str, Any] | None:
    """The configuration in a run's folder, if it has one."""
    if not path.exists():
        return None
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TrainingError(f"{path} cannot be read: {error}; put the run's own back") from None
    if not isinstance(values, dict):
        raise TrainingError(f"{path} holds a {type(values).__name__}; put the run's own back")
    return values


def _refuse_another(config: Config, stored: Mapping[str, Any] | None, place: Path) -> None:
    differing = () if stored is None else differences(as_values(config), stored)
    if differing:
        raise TrainingError(
            f"{place} is of another configuration ({'; '.join(differing)}); resume with the "
            "same, or start anew with another --out"
        )


def make_last(path: Path, folder: Path) -> None:
    """Put a checkpoint in the place of the ``last.pt`` of a run's folder.

    Else the next save would keep an unreadable ``last.pt`` as ``previous.pt``, over the good one.

    Raises:
        TrainingError: the disk is full.
    """
    last = folder / checkpoints.LAST
    with writing(last, f"{path} is still there"), path.open("rb") as source:
        replace_file(last, lambda file: shutil.copyfileobj(source, file))
