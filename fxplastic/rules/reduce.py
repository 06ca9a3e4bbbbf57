"""Ops that mix all positions along some axes: reductions, softmax, scans, sorts."""

from __future__ import annotations

from collections.abc import Sequence

from fxplastic.identity import Field, Names, add_field, opaque
from fxplastic.rules.base import Call, across, rule
from fxplastic.rules.combine import note_use, plain
from fxplastic.rules.norm import AVERAGES

# op -> position of its dim argument
_REDUCTIONS = {
    "mean": 1, "sum": 1, "amax": 1, "amin": 1, "std": 1, "var": 1, "var_mean": 1, "std_mean": 1,
    "prod": 1, "any": 1, "all": 1, "max": 1, "min": 1, "argmax": 1, "argmin": 1, "logsumexp": 1,
    "linalg_vector_norm": 2, "nansum": 1, "count_nonzero": 1, "median": 1, "mode": 1,
    "kthvalue": 2,
}  # fmt: skip
_DEFAULT_DIM = {"mode": -1, "kthvalue": -1}
_MEANS = frozenset({"mean", "var", "std", "var_mean", "std_mean"})


def _keeps_dim(call: Call) -> bool:
    return len(call.outs) > 0 and call.out.ndim == call.args[0].ndim


def _dim_argument(call: Call, position: int) -> int | Sequence[int] | None:
    """`dim`, wherever the overload has it; ``None`` means every axis."""
    value = call.arg(position, "dim", _DEFAULT_DIM.get(call.func.overloadpacket.__name__))
    is_dims = isinstance(value, int | list | tuple) and not isinstance(value, bool)
    return value if is_dims else None


@rule(*_REDUCTIONS)
def reduction(call: Call) -> tuple[Names, ...]:
    """Positions along `dim` become one.

    A sum over a value that is linear in a parameter along the axis is a contraction with that
    parameter; every other reduction over neurons is refused, as copies would count twice. An
    average of activations is what a norm written out takes: approximate groups may be asked for.
    """
    x, ndim = call.names(0), call.args[0].ndim
    name = call.func.overloadpacket.__name__
    dims = call.dims(_dim_argument(call, _REDUCTIONS[name]), ndim)
    kind = "approximate" if name in _MEANS and x.data else "law"
    what = AVERAGES if kind == "approximate" else "reduces over it: copies would count twice"
    reason = f"{call.ledger.op} {what}"
    fields = list(x.fields)
    rounds = not (call.out.is_floating_point() or call.out.is_complex())
    if name == "sum" and not rounds:
        fields = _summed_out(call, fields, dims)
    kept = across(call, Names(tuple(fields), x.data), dims, reason=reason, kind=kind)
    result: list[Field] = []
    for f in kept:
        ids = f.ids
        if not _keeps_dim(call):
            ids = ids.reshape([n for a, n in enumerate(ids.shape) if a not in dims])
        add_field(result, f.with_ids(ids))
    if rounds or name not in ("sum", "mean"):  # over other axes these stay linear along this one
        result = plain(call.ledger, result)
    return (Names(tuple(result), x.data),) * len(call.outs)


def _summed_out(call: Call, fields: Sequence[Field], dims: Sequence[int]) -> list[Field]:
    """Take out the neuron fields that a sum consumes: alone on their axes, linear, complete."""
    kept = []
    for f in fields:
        others = [g for g in fields if g is not f]
        inside = bool(f.axes) and set(f.axes).issubset(dims)
        alone = not any(g.neural and set(g.axes).intersection(f.axes) for g in others)
        complete = f.neural and f.carriers is not None and bool((f.ids > 0).all())
        if inside and alone and complete:
            call.ledger.consume(f.carriers)
            note_use(call.ledger, f, others)
        else:
            kept.append(f)
    return kept


_SCANS = {
    "_softmax": 1, "_log_softmax": 1, "_safe_softmax": 1, "cumsum": 1, "cumprod": 1, "sort": 1,
    "topk": 2, "logcumsumexp": 1, "cummax": 1, "cummin": 1,
}  # fmt: skip


@rule(*_SCANS)
def scan(call: Call) -> tuple[Names, ...]:
    """Each position depends on all along `dim`; the axis stays.

    Denies: neurons along `dim`.
    """
    x, name = call.names(0), call.func.overloadpacket.__name__
    dims = call.dims(call.arg(_SCANS[name], "dim", -1), call.args[0].ndim)
    fields = plain(call.ledger, across(call, x, dims, reason=f"{call.ledger.op} runs over it"))
    for g in opaque(call.out.shape, dims):
        add_field(fields, g)
    return (Names(tuple(fields), x.data),) * len(call.outs)
