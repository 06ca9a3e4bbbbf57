"""What `fxplastic train` left in a run's folder, read back for reports and plots."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fxplastic.errors import FxPlasticError, ReportError
from fxplastic.turnover import Turnover

_OTHERS = {"epoch", "lr", "loss", "neurons", "seconds"}  # columns that are no accuracy
_CLASS = "class_"


@dataclass(frozen=True)
class Run:
    """A run, epoch by epoch.

    Attributes:
        epochs: their numbers, ascending.
        splits: accuracy in percent on the whole test set (``"top1"``) and on its splits (such as
            ``"many"``), per epoch; ``None`` where it was not measured.
        classes: the same of each class, by its number as text.
        turnovers: in the order in which they were made.
    """

    epochs: tuple[int, ...]
    splits: Mapping[str, tuple[float | None, ...]]
    classes: Mapping[str, tuple[float | None, ...]]
    turnovers: tuple[Turnover, ...]


def read_run(folder: str | Path) -> Run:
    """The run in `folder`, which may still go on: a last line without an end is left out.

    Raises:
        ReportError: there is no ``metrics.csv`` in it, or a line that no run wrote.
    """
    metrics, plans = Path(folder) / "metrics.csv", Path(folder) / "plans.jsonl"
    if not metrics.is_file():
        raise ReportError(
            f"{metrics} is not there; give the folder of a run that has ended an epoch (--out of "
            "fxplastic train)"
        )
    rows = list(csv.DictReader(_lines(metrics)))
    if not rows:
        raise ReportError(f"{metrics} has no epoch yet; wait until the run has ended one")
    try:
        epochs = tuple(int(row["epoch"]) for row in rows)
        values = {
            key: tuple(float(row[key]) if row[key] else None for row in rows)
            for key in rows[0]
            if key not in _OTHERS
        }
    except (KeyError, ValueError, TypeError) as error:
        raise ReportError(f"{metrics} has a line that no run wrote ({error}); mend it") from error
    return Run(
        epochs,
        {key: row for key, row in values.items() if not key.startswith(_CLASS)},
        {key.removeprefix(_CLASS): row for key, row in values.items() if key.startswith(_CLASS)},
        _turnovers(plans) if plans.is_file() else (),
    )


def _lines(path: Path) -> list[str]:
    """The whole lines of a file that may still grow."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [line for line in lines if line.endswith("\n")]


def _turnovers(path: Path) -> tuple[Turnover, ...]:
    return tuple(_turnover(path, i, line) for i, line in enumerate(_lines(path), start=1))


def _turnover(path: Path, number: int, line: str) -> Turnover:
    try:
        values = json.loads(line)
        return Turnover.from_dict(values | {"plan": json.dumps(values["plan"])})
    except (ValueError, KeyError, TypeError, FxPlasticError) as error:
        raise ReportError(
            f"line {number} of {path} is no turnover ({error}); put the run's own file back"
        ) from error


def around(
    epochs: Sequence[int], values: Sequence[float | None], epoch: int
) -> tuple[float | None, float | None, float | None]:
    """A value in the epoch before a turnover, in its own (after it was made), and in the next.

    >>> around([1, 2, 3], [10.0, 8.0, 12.0], 2), around([1], [5.0], 1)
    ((10.0, 8.0, 12.0), (None, 5.0, None))
    """
    known = dict(zip(epochs, values, strict=True))
    before, at, after = (known.get(epoch + step) for step in (-1, 0, 1))
    return before, at, after
