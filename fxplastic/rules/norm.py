"""Normalisation layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from fxplastic.identity import Field, Names, add_field, opaque
from fxplastic.rules.base import Call, across, rule
from fxplastic.rules.combine import blend, meet, plain
from fxplastic.rules.pointwise import align

AVERAGES = "averages over it: a copy would shift the mean and the variance of all"


def _affine(call: Call, fields: list[Field], others: list[Names]) -> tuple[Field, ...]:
    """Per-channel vectors, already laid out over the input's axes, meet the input."""
    result = tuple(fields)
    for names in others:
        pairs = meet(call.ledger, result, names.fields)
        result = blend(call.ledger, result, names.fields, pairs)
    return result


def _along(names: Names, axis: int, ndim: int) -> Names:
    """A vector's names laid along `axis`."""
    shape = [-1 if a == axis else 1 for a in range(ndim)]
    return replace(names, fields=tuple(f.laid_out(f.ids.reshape(shape)) for f in names.fields))


def _outputs(
    call: Call, fields: Sequence[Field], data: bool, passed: Sequence[Field]
) -> tuple[Names, ...]:
    """The normalised tensor, and the statistics beside it, which carry the names that passed."""
    results = [Names(tuple(fields), data)]
    for out in call.outs[1:]:
        told: list[Field] = []
        for f in passed if out.numel() else ():  # in eval mode there are none
            # Of the same number of axes, or without those that follow the channels, or [channels].
            lead = f.ids.shape[1:2] if out.ndim == 1 else f.ids.shape[: out.ndim]
            add_field(told, f.laid_out(f.ids.reshape(lead)))
        results.append(Names(tuple(told), data))
    return tuple(results)


@rule("native_batch_norm")
def batch_norm(call: Call) -> tuple[Names, ...]:
    """Statistics over batch and space, one set per channel (axis 1): channels pass.

    Scale, shift and running statistics belong to the channel's neuron.
    """
    x, ndim = call.names(0), call.args[0].ndim
    dims = [a for a in range(ndim) if a != 1]
    reason = f"{call.ledger.op} takes statistics over it"
    passed = plain(call.ledger, across(call, x, dims, reason=reason))
    fields = list(passed)
    for g in opaque(call.args[0].shape, dims):
        add_field(fields, g)
    vectors = [_along(call.lookup(t), 1, ndim) for t in call.args[1:5] if t is not None]
    normed = _affine(call, fields, vectors)
    if call.args[5]:  # in training the statistics are updated, which the schema does not say
        told = tuple(Field(f.ids.reshape(-1)) for f in normed if f.axes == (1,))
        for statistic in (t for t in call.args[3:5] if t is not None):
            call.assign(statistic, Names(told, x.data))
    return _outputs(call, normed, x.data, passed)


@rule("native_layer_norm")
def layer_norm(call: Call) -> tuple[Names, ...]:
    """Statistics over the last axes, per sample and token.

    Denies: neurons along them, exactly (approximate groups may be asked for).
    """
    x, ndim = call.names(0), call.args[0].ndim
    dims = call.dims(range(ndim - len(call.args[1]), ndim), ndim)
    kept, passed = _averaged(call, x, dims)
    vectors = [call.lookup(t) for t in call.args[2:4] if isinstance(t, Tensor)]
    laid = [replace(v, fields=tuple(align(f, ndim) for f in v.fields)) for v in vectors]
    return _outputs(call, _affine(call, kept, laid), x.data, passed)


@rule("native_group_norm")
def group_norm(call: Call) -> tuple[Names, ...]:
    """Statistics over space and the channels of a group; with one channel a group they pass."""
    x, ndim = call.names(0), call.args[0].ndim
    channels, groups = int(call.args[4]), int(call.args[6])
    dims = tuple(range(1 if groups != channels else 2, ndim))
    kept, passed = _averaged(call, x, dims)
    vectors = [_along(call.lookup(t), 1, ndim) for t in call.args[1:3] if t is not None]
    return _outputs(call, _affine(call, kept, vectors), x.data, passed)


def _averaged(call: Call, x: Names, dims: Sequence[int]) -> tuple[list[Field], list[Field]]:
    """Fields after statistics over `dims`, and those of them that do not vary along `dims`.

    Averaged neurons stay in the first, as approximate ones.
    """
    kept = plain(call.ledger, x.fields)
    averaged = [f for f in kept if set(f.axes).intersection(dims)]
    call.ledger.freeze_fields(averaged, f"{call.ledger.op} {AVERAGES}", "approximate")
    return kept, [f for f in kept if f not in averaged]


@rule("_weight_norm_interface")
def weight_norm(call: Call) -> tuple[Names, ...]:
    """``v * g / |v|``, the norm over every axis but `dim`: rows pass, what is normed does not."""
    v, g = call.names(0), call.names(1)
    dim, ndim = int(call.arg(2, "dim", 0)), call.args[0].ndim
    dims = [a for a in range(ndim) if a != dim]
    reason = f"{call.ledger.op} takes a norm over it: copies would count twice"
    passed = plain(call.ledger, across(call, v, dims, reason=reason))
    fields = list(passed)
    for o in opaque(call.args[0].shape, dims):
        add_field(fields, o)
    return _outputs(call, _affine(call, fields, [g]), v.data or g.data, passed)
