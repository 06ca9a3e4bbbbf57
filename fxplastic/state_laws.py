"""How each tensor in an optimizer's state follows a turnover: one table for all classes.

Where a plan preserves the function, the gradient of a weight is gathered like the weight and
scaled by the share of the neuron that the weight produces. What is made of gradients follows with
it: sums and averages by the share, averages of squares by its square, and what a division has made
free of the gradient's size keeps the sign alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor
from torch.optim import Optimizer

Kind = Literal["power", "magnitude", "direction", "weight", "factored"]


@dataclass(frozen=True)
class Law:
    """How a state tensor follows.

    Attributes:
        kind: ``"power"``: gathered, and scaled by share^power on producer axes; ``"magnitude"``:
            by abs(share); ``"direction"``: by the sign of the share; ``"weight"``: like the weight
            itself; ``"factored"``: a mean of squares over one axis, scaled by share^2 along the
            others, with the means that the other factor (`partner`) tells.
        power: the degree in the gradient.
        start: name of the option with the value that the tensor started from, which no share
            scales.
        fades: name of the option by which a start of one is multiplied at each step.
        partner: state key of the other factor.
        dropped: which of the two factored axes is missing (not kept with size 1): 0 or 1.
        caveat: why it is approximate; empty where it is exact.
    """

    kind: Kind = "power"
    power: int = 0
    start: str = ""
    fades: str = ""
    partner: str = ""
    dropped: int | None = None
    caveat: str = ""

    def factor(self, share: Tensor) -> Tensor:
        """What a tensor is scaled by along a producer axis.

        >>> import torch
        >>> Law(power=2).factor(torch.tensor([0.5, -0.25])).tolist()
        [0.25, 0.0625]
        >>> Law("direction").factor(torch.tensor([0.5, -0.25])).tolist()
        [1.0, -1.0]
        """
        if self.kind == "magnitude":
            return share.abs()
        return share.sign() if self.kind == "direction" else share.pow(self.power)


EPS = "a constant is added to the denominator"
DECAY = "weight decay that is added to the gradient is not scaled by the share"
NORM = "gradients are scaled by a norm of the whole tensor or of all of them"
SINGLE = "it is computed in float32"
RANK = "the means over an axis are those of a product of two factors"

GRADIENT, SQUARE, WEIGHT = Law(power=1), Law(power=2), Law("weight")
DIRECTION = Law("direction", caveat=EPS)
ASIDE = None
"""For what belongs to no single weight: step counts, products of coefficients."""

Laws = dict[str, Law | int | None]

_MOMENTS: Laws = {"step": ASIDE, "exp_avg": 1, "exp_avg_sq": 2}
_ADAM: Laws = {**_MOMENTS, "max_exp_avg_sq": 2}

# To teach fxplastic another optimizer, add a row: the class itself (not a parent), or its package
# and name, as in "torch.SGD". A whole number is a degree in the gradient.
STATE_LAWS: dict[type[Optimizer] | str, Laws] = {
    "torch.SGD": {"momentum_buffer": 1},
    "torch.Adam": _ADAM,
    "torch.AdamW": _ADAM,
    "torch.SparseAdam": _MOMENTS,
    "torch.NAdam": {**_MOMENTS, "mu_product": ASIDE},
    "torch.RAdam": _MOMENTS,
    "torch.Adamax": {"step": ASIDE, "exp_avg": 1, "exp_inf": Law("magnitude", caveat=EPS)},
    "torch.Adagrad": {"step": ASIDE, "sum": Law(power=2, start="initial_accumulator_value")},
    "torch.Adadelta": {"step": ASIDE, "square_avg": 2, "acc_delta": Law(caveat=EPS)},
    "torch.RMSprop": {
        "step": ASIDE, "square_avg": 2, "grad_avg": 1, "momentum_buffer": DIRECTION,
    },
    "torch.Rprop": {"step": ASIDE, "prev": 1, "step_size": Law(start="lr")},
    "torch.ASGD": {"step": ASIDE, "eta": ASIDE, "mu": ASIDE, "ax": WEIGHT},
    "torch.Muon": {"momentum_buffer": 1},
    "torch.Adafactor": {
        "step": ASIDE, "variance": 2,
        "row_var": Law("factored", 2, partner="col_var", caveat=RANK),
        "col_var": Law("factored", 2, partner="row_var", caveat=RANK),
    },
    "timm.AdaBelief": {
        "step": ASIDE, "exp_avg": 1, "exp_avg_var": Law(power=2, caveat=EPS),
        "max_exp_avg_var": Law(power=2, caveat=EPS),
    },
    "timm.Adafactor": {
        "step": ASIDE, "RMS": ASIDE, "exp_avg_sq": 2,
        "exp_avg": Law("direction", caveat=NORM),
        "exp_avg_sq_row": Law("factored", 2, partner="exp_avg_sq_col", dropped=1, caveat=RANK),
        "exp_avg_sq_col": Law("factored", 2, partner="exp_avg_sq_row", dropped=0, caveat=RANK),
    },
    "timm.AdafactorBigVision": {
        "step": ASIDE, "exp_avg_sq": 2,
        "exp_avg": Law("direction", caveat="it is rounded to bfloat16"),
        "exp_avg_sq_r": Law("factored", 2, partner="exp_avg_sq_c", caveat=RANK),
        "exp_avg_sq_c": Law("factored", 2, partner="exp_avg_sq_r", caveat=RANK),
    },
    "timm.AdamP": _MOMENTS,
    "timm.AdamWLegacy": _ADAM,
    "timm.NAdamW": _MOMENTS,
    "timm.NAdamLegacy": {**_MOMENTS, "m_schedule": ASIDE},
    "timm.RAdamLegacy": {
        "step": ASIDE, "exp_avg": Law(power=1, caveat=SINGLE),
        "exp_avg_sq": Law(power=2, caveat=SINGLE),
    },
    "timm.Adan": {"exp_avg": 1, "exp_avg_sq": 2, "exp_avg_diff": 1, "neg_pre_grad": 1},
    "timm.Adopt": {
        "step": ASIDE, "exp_avg": Law("direction", caveat="it is clipped"), "exp_avg_sq": 2,
    },
    "timm.Lamb": {
        "exp_avg": Law(power=1, caveat=NORM), "exp_avg_sq": Law(power=2, caveat=NORM),
    },
    "timm.LaProp": {
        "step": ASIDE, "exp_avg_lr_1": ASIDE, "exp_avg_lr_2": ASIDE, "exp_avg_sq": 2,
        "exp_avg": DIRECTION,
    },
    "timm.Lars": {"momentum_buffer": Law(power=1, caveat=NORM)},
    "timm.Lion": {"exp_avg": 1},
    "timm.Mars": {
        "step": ASIDE, "last_grad": 1,
        "exp_avg": Law(power=1, caveat=NORM), "exp_avg_sq": Law(power=2, caveat=NORM),
    },
    "timm.Muon": {
        "use_muon": ASIDE, "step": ASIDE, "momentum_buffer": 1, "exp_avg": 1, "exp_avg_sq": 2,
    },
    "timm.NvNovoGrad": {
        "step": ASIDE, "exp_avg": Law(power=1, caveat=NORM), "exp_avg_sq": ASIDE,
        "max_exp_avg_sq": ASIDE,
    },
    "timm.RMSpropTF": {
        "step": ASIDE, "square_avg": Law(power=2, fades="alpha"), "grad_avg": 1,
        "momentum_buffer": Law("direction", caveat="the denominator starts at one, which fades"),
    },
    "timm.SGDP": {"momentum": 1},
    "timm.SGDW": {"momentum_buffer": 1},
}  # fmt: skip

REFUSED = {
    "torch.LBFGS": "its state is vectors over all parameters at once; use another optimizer, or "
    "pass None and build a new one after the turnover",
    "timm.Adahessian": "second derivatives follow no power of the share; use another optimizer, "
    "or pass None and build a new one after the turnover",
    "timm.Kron": "its preconditioners are matrices over whole axes; use another optimizer, or "
    "pass None and build a new one after the turnover",
    "timm.MADGRAD": "it computes every weight anew from sums that began with the first step; use "
    "another optimizer, or pass None and build a new one after the turnover",
    "timm.Lookahead": "it keeps its state in the optimizer that it wraps; pass that one "
    "(optimizer._base_optimizer), whose slow weights follow too",
}
"""Classes whose state cannot follow, and why."""

_BY_WRAPPERS: Laws = {"lookahead_slow_buff": WEIGHT}


def name_of(kind: type) -> str:
    """The name of a class in the table: its package and its own name.

    >>> from torch.optim import SGD
    >>> name_of(SGD)
    'torch.SGD'
    """
    return f"{kind.__module__.split('.')[0]}.{kind.__qualname__}"


def laws_of(kind: type[Optimizer]) -> dict[str, Law | None] | None:
    """How the state of this very class follows, by key; ``None`` for a class without a row.

    >>> from torch.optim import Adam
    >>> laws_of(Adam)["exp_avg_sq"].power
    2
    """
    row = STATE_LAWS.get(kind)
    if row is None:
        row = STATE_LAWS.get(name_of(kind))
    if row is None:
        return None
    every = {**_BY_WRAPPERS, **row}
    return {key: Law(power=law) if isinstance(law, int) else law for key, law in every.items()}
