"""Ops that make tensors from sizes."""

from __future__ import annotations

import torch

from fxplastic.identity import Field, Names, opaque
from fxplastic.rules.base import Call, rule


@rule("zeros", "ones", "full", "empty", "new_zeros", "new_ones", "new_full", "new_empty",
      "scalar_tensor", reads=False)  # fmt: skip
def uniform(call: Call) -> Names:
    """The same value everywhere: no position is told apart, except where widths matter."""
    return Names(call.ledger.named_axes(call.out.shape, range(call.out.ndim)))


@rule("zeros_like", "ones_like", "full_like", "empty_like", "zero_", "fill_.Scalar", reads=False)
def filled(call: Call) -> Names:
    """One value, with the sizes of what was given."""
    return _shaped_like(call)


def _shaped_like(call: Call) -> Names:
    """No names, except where widths matter: then those of the first argument, as its size."""
    if not call.ledger.sizes:
        return Names()
    return Names(tuple(Field(f.ids) for f in call.names(0).fields if f.neural))


@rule("bernoulli_.float")
def mask(call: Call) -> Names:
    """A mask of one probability for all: in training this is dropout, and copies draw their own.

    Denies: neurons along its axes where it is drawn in eval mode too.
    """
    return _shaped_like(call) if call.ledger.training else Names(opaque(call.out.shape))


@rule("bernoulli")
def sampled(call: Call) -> Names:
    """A mask with a probability of its own for each position."""
    call.freeze_argument(call.args[0], "probabilities to draw by")
    return Names(opaque(call.out.shape), call.names(0).data)


@rule("arange", reads=False)
def counted(call: Call) -> Names:
    """Numbers in a row, whose values are known where they can be an index."""
    known = None
    if not call.out.is_floating_point():
        known = call.func(*call.args, **{**call.kwargs, "device": torch.device("cpu")})
    return Names(opaque(call.out.shape), known=known)


@rule("linspace", "logspace", "eye", "randperm", "rand", "randn", "randint",
      "rand_like", "randn_like", "randint_like", "tril_indices", "triu_indices", "uniform_",
      "normal_", "exponential_", "random_", reads=False)  # fmt: skip
def told_apart(call: Call) -> tuple[Names, ...]:
    """Another value at every position, which no plan moves."""
    return tuple(Names(opaque(o.shape)) for o in call.outs)
