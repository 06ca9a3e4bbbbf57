"""Ops that make tensors from sizes."""

from __future__ import annotations

from fxplastic.identity import Names, opaque
from fxplastic.rules.base import Call, rule

_UNIFORM = (
    "zeros", "ones", "full", "empty", "zeros_like", "ones_like", "full_like", "empty_like",
    "new_zeros", "new_ones", "new_full", "new_empty", "scalar_tensor", "empty_strided",
    "new_empty_strided",
)  # fmt: skip


@rule(*_UNIFORM)
def uniform(call: Call) -> Names:
    """The same value everywhere: no position is told apart."""
    return Names()


@rule("bernoulli_", "bernoulli", "native_dropout", "zero_", "fill_")
def drawn(call: Call) -> tuple[Names, ...]:
    """Masks drawn alike for every position (dropout): copies draw their own.

    `bernoulli_` and `fill_` write over what was there; `bernoulli` and `native_dropout` of a
    tensor keep its names.
    """
    name = call.func.overloadpacket.__name__
    if name in ("bernoulli", "native_dropout"):
        source = call.names(0)
        call.ledger.release_all(source.fields)
        fields = tuple(f.with_ids(f.ids) for f in source.fields)
        return (Names(fields, source.data),) * len(call.outs)
    return (Names(),)


@rule("arange", "linspace", "logspace", "eye", "randperm", "rand", "randn", "randint", "normal",
      "rand_like", "randn_like", "tril_indices", "triu_indices", "uniform_", "normal_")  # fmt: skip
def told_apart(call: Call) -> tuple[Names, ...]:
    """Another value at every position, which no plan moves."""
    return tuple(Names(opaque(o.shape)) for o in call.outs)
