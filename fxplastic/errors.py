"""Every error that the project raises on purpose, under one base class.

A message names the offending value, the place where it was met, and the fix.
"""

from __future__ import annotations


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


class OptimizerError(RewriteError):
    """An optimizer's state cannot be carried over; nothing was changed."""
