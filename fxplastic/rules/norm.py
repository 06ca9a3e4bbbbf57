"""Normalisation layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from fxplastic.identity import Field, Names, add_field, opaque
from fxplastic.rules.base import Call, across, rule
from fxplastic.rules.combine import meet, merge
from fxplastic.rules.pointwise import align

AVERAGES = "averages over it: a copy would shift the mean and the variance of all"


def _affine(call: Call, fields: list[Field], others: list[Names]) -> tuple[Field, ...]:
    """Per-channel vectors, already laid out over the input's axes, meet the input."""
    result = tuple(fields)
    for names in others:
        pairs = meet(call.ledger, result, names.fields)
        result = merge(call.ledger, result, names.fields, pairs, "none")
    return result


def _along(names: Names, axis: int, ndim: int) -> Names:
    """A vector's names laid along `axis`."""
    shape = [-1 if a == axis else 1 for a in range(ndim)]
    return replace(names, fields=tuple(f.with_ids(f.ids.reshape(shape)) for f in names.fields))


def _outputs(call: Call, fields: Sequence[Field], data: bool) -> tuple[Names, ...]:
    """The normalised tensor; the statistics beside it are opaque."""
    first = Names(tuple(fields), data)
    return (first, *(Names(opaque(o.shape), data) for o in call.outs[1:]))


@rule(
    "native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training",
    "batch_norm_with_update", "_batch_norm_with_update", "cudnn_batch_norm", "miopen_batch_norm",
    "_native_batch_norm_legit_functional",
)  # fmt: skip
def batch_norm(call: Call) -> tuple[Names, ...]:
    """Statistics over batch and space, one set per channel (axis 1): channels pass.

    Scale, shift and running statistics belong to the channel's neuron.
    """
    x, ndim = call.names(0), call.args[0].ndim
    dims = [a for a in range(ndim) if a != 1]
    reason = f"{call.ledger.op} takes statistics over it"
    passed = across(call, x, dims, reason=reason)
    call.ledger.release_all(passed)
    fields = [Field(f.ids) for f in passed]
    for g in opaque(call.args[0].shape, dims):
        add_field(fields, g)
    vectors = [t for t in call.args[1:5] if t is not None and hasattr(t, "shape")]
    return _outputs(
        call,
        _affine(call, fields, [_along(call.lookup(t), 1, ndim) for t in vectors]),
        x.data,
    )


@rule("native_layer_norm", "_fused_rms_norm")
def layer_norm(call: Call) -> tuple[Names, ...]:
    """Statistics over the last axes, per sample and token.

    Denies: neurons along them, exactly (approximate groups may be asked for).
    """
    x, ndim = call.names(0), call.args[0].ndim
    dims = call.dims(range(ndim - len(call.args[1]), ndim), ndim)
    kept = list(_averaged(call, x, dims))
    vectors = [call.lookup(t) for t in call.args[2:4] if hasattr(t, "shape")]
    laid = [replace(v, fields=tuple(align(f, ndim) for f in v.fields)) for v in vectors]
    return _outputs(call, _affine(call, kept, laid), x.data)


@rule("native_group_norm")
def group_norm(call: Call) -> tuple[Names, ...]:
    """Statistics over space and the channels of a group; with one channel a group they pass."""
    x, ndim = call.names(0), call.args[0].ndim
    channels, groups = int(call.args[4]), int(call.args[6])
    dims = tuple(range(2, ndim))
    if groups != channels:
        dims = (1, *dims)
    kept = list(_averaged(call, x, dims))
    vectors = [_along(call.lookup(t), 1, ndim) for t in call.args[1:3] if t is not None]
    return _outputs(call, _affine(call, kept, vectors), x.data)


def _averaged(call: Call, x: Names, dims: Sequence[int]) -> list[Field]:
    """Fields after statistics over `dims`; averaged neurons stay, as approximate ones."""
    kept: list[Field] = []
    for f in x.fields:
        call.ledger.release(f.carriers)
        if f.neural and set(f.axes).intersection(dims):
            call.ledger.freeze(f.array, f"{call.ledger.op} {AVERAGES}", "approximate")
        add_field(kept, Field(f.ids))
    for g in opaque(call.out.shape, dims):
        if not any(f.neural and f.axes == g.axes for f in kept):
            add_field(kept, g)
    return kept


@rule("_weight_norm_interface")
def weight_norm(call: Call) -> tuple[Names, ...]:
    """``v * g / |v|``, the norm over every axis but `dim`: rows pass, what is normed does not."""
    v, g = call.names(0), call.names(1)
    dim = int(call.arg(2, "dim", 0))
    dims = [a for a in range(call.args[0].ndim) if a != dim]
    reason = f"{call.ledger.op} takes a norm over it: copies would count twice"
    kept = across(call, v, dims, reason=reason)
    call.ledger.release_all(kept)
    fields = [Field(f.ids) for f in kept]
    for o in opaque(call.args[0].shape, dims):
        add_field(fields, o)
    return _outputs(call, _affine(call, fields, [g]), v.data or g.data)
