"""Where the model's code stands while it is traced, and the refusal that names the place."""

from __future__ import annotations

from torch import fx, nn

from fxplastic.errors import TraceError
from fxplastic.sources import here


def trace_below(tracer: fx.Tracer, model: nn.Module) -> fx.Graph:
    """`tracer.trace(model)`; source lines are looked for in the frames below this one."""
    return tracer.trace(model)


def location() -> str:
    """``"file:line in function"`` of the model's code that runs now."""
    return here(trace_below.__code__)


def unknown(question: str) -> TraceError:
    """The error for code that depends on values of activations or weights."""
    return TraceError(
        f"{location()}: {question} asks for values of a tensor, which are not known before the "
        "model runs; use tensor operations (torch.where, masks) instead of a branch or a size "
        "that depends on data, or take this part out of the model"
    )
