"""Every error that the project raises on purpose, under one base class.

A message names the offending value, the place where it was met, and the fix.
"""

from __future__ import annotations

from collections.abc import Iterable


class FxPlasticError(Exception):
    """Base of every error that fxplastic raises on purpose."""


class TraceError(FxPlasticError):
    """The model cannot be turned into a graph; the message names the source line."""


class GuardError(FxPlasticError):
    """A call does not fit what tracing fixed (a shape, an optional input, a mode flag)."""


class DiscoverError(FxPlasticError):
    """The graph could not be run on names (meta tensors) to find its channel groups."""


class PlanError(FxPlasticError):
    """A plan is malformed, or was made for another model."""


class ScoreError(FxPlasticError):
    """Scores cannot be planned from: they are missing, not finite, or of the wrong size."""


class RewriteError(FxPlasticError):
    """A rewrite was refused; the model, the optimizer and the files are as they were."""


class WidthError(RewriteError):
    """New widths cannot be laid out; nothing was changed.

    Attributes:
        groups: names of the groups whose widths are to blame, as far as that is known.
    """

    def __init__(self, message: str, groups: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.groups = tuple(groups)


class OptimizerError(RewriteError):
    """An optimizer's state cannot be carried over; nothing was changed."""


class RankError(FxPlasticError):
    """Processes that train one model differ, or one of them failed or is gone."""


class TrainingError(FxPlasticError):
    """A training run cannot start, go on or be resumed; the message says what is kept."""


class DataError(FxPlasticError):
    """A data set cannot be made: a file, a line, a label or a setting is missing or wrong."""


class ReportError(FxPlasticError):
    """A report or a plot cannot be made: what it would show is missing, or a library is."""


class ModelError(FxPlasticError):
    """A model cannot be found, built, or given weights; the message names it and near names."""


class SaveError(FxPlasticError):
    """A model cannot be saved, or a saved one cannot be loaded; files are as they were."""
