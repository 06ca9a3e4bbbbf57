"""What a run leaves in its folder beside checkpoints: metrics, plans, the result, a picture."""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from sklearn.metrics import ConfusionMatrixDisplay
from torch import Tensor

from fxplastic.errors import TrainingError
from fxplastic.training.evaluation import Accuracy
from fxplastic.training.files import replace_file, replace_text, writing
from fxplastic.turnover import Turnover

MOST_DRAWN = 1000  # classes in a picture of the confusion matrix
MOST_LABELLED = 30
_KEPT = "the last good checkpoint is still there"


@dataclass(frozen=True)
class Epoch:
    """An epoch in numbers.

    Attributes:
        epoch: counted from 1.
        lr: learning rate of its first batch.
        loss: mean over its training samples, while the weights change.
        accuracy: on the test set, after a turnover if there was one.
        neurons: slots that were filled anew at its end.
        seconds: that all of it took, evaluation included.
    """

    epoch: int
    lr: float
    loss: float
    accuracy: Accuracy
    neurons: int
    seconds: float

    def row(self) -> dict[str, Any]:
        """Columns of ``metrics.csv``; what is not known is None, and an empty cell."""
        classes = {f"class_{c}": value for c, value in enumerate(self.accuracy.per_class)}
        return {
            "epoch": self.epoch,
            "lr": self.lr,
            "loss": self.loss,
            "top1": None if math.isnan(self.accuracy.top1) else self.accuracy.top1,
            **self.accuracy.splits,
            "neurons": self.neurons,
            "seconds": round(self.seconds, 3),
            **classes,
        }


@dataclass(frozen=True)
class Records:
    """The files of a run that grow, one line per epoch or turnover.

    Attributes:
        folder: of the run; it exists.
    """

    folder: Path

    @property
    def metrics(self) -> Path:
        """One row per epoch."""
        return self.folder / "metrics.csv"

    @property
    def plans(self) -> Path:
        """One JSON object per turnover, with its plan."""
        return self.folder / "plans.jsonl"

    def add(self, epoch: Epoch, turnover: Turnover | None) -> None:
        """Append an epoch, and its turnover if there was one.

        Raises:
            TrainingError: the disk is full.
        """
        row = epoch.row()
        with writing(self.metrics, _KEPT), self.metrics.open("a", newline="") as file:
            writer = csv.DictWriter(file, list(row), lineterminator="\n")
            if file.tell() == 0:
                writer.writeheader()
            writer.writerow(row)
            _to_disk(file)
        if turnover is not None:
            values = turnover.as_dict()
            values |= {"neurons": turnover.neurons, "plan": json.loads(values["plan"])}
            with writing(self.plans, _KEPT), self.plans.open("a") as file:
                file.write(json.dumps(values) + "\n")
                _to_disk(file)

    def cut(self, epoch: int) -> None:
        """Drop what was written after `epoch`, half lines included, so that nothing comes twice.

        Raises:
            TrainingError: rows of epochs up to `epoch` are missing.
        """
        found = _cut(self.metrics, epoch, lambda line: int(line.split(",")[0]), header=True)
        if found != list(range(1, epoch + 1)):
            raise TrainingError(
                f"{self.metrics} has rows of epochs {found}, and the checkpoint is of epoch "
                f"{epoch}; put the run's own file back, or start anew in another folder"
            )
        _cut(self.plans, epoch, lambda line: int(json.loads(line)["epoch"]), header=False)


def _to_disk(file: TextIO) -> None:
    """Lines are there before the checkpoint that counts on them, even if power is lost."""
    file.flush()
    os.fsync(file.fileno())


def _cut(path: Path, epoch: int, epoch_of: Callable[[str], int], *, header: bool) -> list[int]:
    """Epochs of the whole lines of `path` up to `epoch`; the other lines are removed."""
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    lines = [line for line in text.splitlines(keepends=True) if line.endswith("\n")]
    head, rows = lines[:header], lines[header:]
    try:
        kept = [(epoch_of(row), row) for row in rows]
    except (ValueError, KeyError) as error:
        raise TrainingError(f"{path} has a line that no run wrote ({error}); mend it") from None
    kept = [(found, row) for found, row in kept if found <= epoch]
    with writing(path, _KEPT):
        replace_text(path, "".join([*(head if kept else []), *(row for _, row in kept)]))
    return [found for found, _ in kept]


@dataclass(frozen=True)
class Result:
    """The end of a run.

    Attributes:
        label: the run's name.
        epochs: how many it trained.
        top1: test accuracy in percent, of the averaged weights if there are any.
        splits: of classes with many, medium and few samples; None where there is none.
        per_class: of each class.
        turnovers: how many there were.
        neurons: slots filled anew by all of them.
        folder: of the run.
    """

    label: str
    epochs: int
    top1: float
    splits: Mapping[str, float | None]
    per_class: tuple[float | None, ...]
    turnovers: int
    neurons: int
    folder: str

    def store(self) -> None:
        """Write ``result.json``.

        Raises:
            TrainingError: the disk is full.
        """
        path = Path(self.folder) / "result.json"
        with writing(path, _KEPT):
            replace_text(path, json.dumps(asdict(self), indent=2) + "\n")


def draw_confusion(path: Path, truth: Tensor, found: Tensor, classes: Sequence[str]) -> None:
    """A PNG of the confusion matrix; rows are true classes and sum to one.

    Args:
        path: of the picture.
        truth: true classes, int64 ``[N]``.
        found: predicted classes, int64 ``[N]``.
        classes: their names; with more than `MOST_DRAWN` there is no picture.

    Raises:
        TrainingError: the disk is full.
    """
    if len(classes) > MOST_DRAWN:
        return
    few = len(classes) <= MOST_LABELLED
    figure = Figure(figsize=(8, 7), layout="constrained")
    FigureCanvasAgg(figure)  # without pyplot there is no display to miss
    axes = figure.add_subplot()
    ConfusionMatrixDisplay.from_predictions(
        truth,
        found,
        labels=range(len(classes)),
        display_labels=list(classes) if few else None,
        normalize="true",
        include_values=len(classes) <= 12,
        xticks_rotation="vertical",
        ax=axes,
    )
    if not few:
        axes.set(xticks=[], yticks=[])
    with writing(path, _KEPT):
        replace_file(path, lambda file: figure.savefig(file, format="png"))
