"""Pooling, resampling and non-constant padding: ops that slide along the last axes only."""

from __future__ import annotations

from fxplastic.identity import Names, add_field, opaque
from fxplastic.rules.base import Call, across, rule
from fxplastic.rules.combine import plain

# op -> number of trailing axes it slides along
_WINDOWS = {
    "avg_pool2d": 2, "avg_pool3d": 3, "max_pool2d_with_indices": 2,
    "max_pool3d_with_indices": 3,
    "_adaptive_avg_pool2d": 2, "_adaptive_avg_pool3d": 3, "adaptive_max_pool2d": 2,
    "adaptive_max_pool3d": 3, "upsample_nearest1d": 1, "upsample_nearest2d": 2,
    "upsample_nearest3d": 3, "_upsample_nearest_exact1d": 1, "_upsample_nearest_exact2d": 2,
    "_upsample_nearest_exact3d": 3, "upsample_linear1d": 1, "upsample_bilinear2d": 2,
    "upsample_bicubic2d": 2, "_upsample_bilinear2d_aa": 2, "_upsample_bicubic2d_aa": 2,
    "upsample_trilinear3d": 3, "reflection_pad1d": 1, "reflection_pad2d": 2,
    "reflection_pad3d": 3, "replication_pad1d": 1, "replication_pad2d": 2, "replication_pad3d": 3,
}  # fmt: skip


@rule(*_WINDOWS)
def window(call: Call) -> tuple[Names, ...]:
    """Each channel by itself; space is mixed and gets a new size.

    Denies: neurons along the axes it slides along.
    """
    x, shape = call.names(0), call.args[0].shape
    count = _WINDOWS[call.func.overloadpacket.__name__]
    dims = call.dims(range(len(shape) - count, len(shape)), len(shape))
    reason = f"{call.ledger.op} slides along it"
    fields = plain(call.ledger, across(call, x, dims, reason=reason))
    for g in opaque(call.out.shape, dims):
        add_field(fields, g)
    return (Names(tuple(fields), x.data),) * len(call.outs)
