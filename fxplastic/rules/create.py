"""Ops that make tensors from sizes."""

from __future__ import annotations

from fxplastic.identity import Field, Names, opaque
from fxplastic.rules.base import Call, rule

_UNIFORM = (
    "zeros", "ones", "full", "empty", "zeros_like", "ones_like", "full_like", "empty_like",
    "new_zeros", "new_ones", "new_full", "new_empty", "scalar_tensor", "empty_strided",
    "new_empty_strided", "zero_",
)  # fmt: skip


@rule(*_UNIFORM, reads=False)
def uniform(call: Call) -> Names:
    """The same value everywhere: no position is told apart."""
    return Names()


@rule("fill_.Scalar", "bernoulli_.float", reads=False)
def overwritten(call: Call) -> Names:
    """One value, or a mask drawn alike for every position, written over what was there."""
    return Names()


@rule("bernoulli", "native_dropout")
def drawn(call: Call) -> tuple[Names, ...]:
    """Masks drawn position by position (dropout): copies draw their own."""
    call.freeze_argument([*call.args[1:], *call.kwargs.values()], "a probability")
    source = call.names(0)
    call.ledger.release_all(source.fields)
    fields = tuple(Field(f.ids) for f in source.fields)
    return (Names(fields, source.data),) * len(call.outs)


@rule("arange", "linspace", "logspace", "eye", "randperm", "rand", "randn", "randint",
      "rand_like", "randn_like", "randint_like", "tril_indices", "triu_indices", "uniform_",
      "normal_", "exponential_", "random_", reads=False)  # fmt: skip
def told_apart(call: Call) -> tuple[Names, ...]:
    """Another value at every position, which no plan moves."""
    return tuple(Names(opaque(o.shape)) for o in call.outs)
