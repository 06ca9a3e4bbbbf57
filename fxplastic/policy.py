"""What becomes of the weights of a turnover: `Policy`, and its two presets.

A plan says which neuron copies which. A policy says how the outgoing weights are scaled, how a
copy is made to differ from its original, and what the optimizer remembers of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args, get_type_hints

from fxplastic.errors import PlanError

Split = Literal["even", "uneven", "signed", "whole", "zero"]
Scaling = Literal["exact", "norm", "none"]
Noise = Literal["none", "absolute", "relative"]
Fill = Literal["copy", "fresh"]
Carry = Literal["law", "copy", "zero"]

_DEFAULT_SHARE = {"even": 0.5, "uneven": 0.25, "signed": 0.25, "whole": 1.0, "zero": 0.0}


@dataclass(frozen=True)
class Policy:
    """How weights are scaled and copies are parted in a turnover.

    Attributes:
        scaling: ``"exact"``: the outgoing weights of original and copy sum to the original's
            (Chen et al., Net2Net, 2016), which keeps the function; ``"norm"``: both have all of
            it, and the norm of each consumer's incoming weights is restored; ``"none"``: both have
            all of it.
        shares: for exact scaling, how the weight is split: ``"even"``, ``"uneven"`` as
            (1-share, share) or ``"signed"`` as (1+share, -share).
        share: of the copy; 0.25 by default.
        fill: ``"copy"``, or ``"fresh"``: the slots are drawn anew instead of copied, with no
            outgoing weight (Sokar et al., ReDo, 2023), and their optimizer state is zero.
        noise: on weight and bias of the copies in BatchNorm and its kin: ``"absolute"``: gamma is
            N(1, sigma), beta N(0, sigma); ``"relative"``: gamma times N(1, sigma), beta plus
            N(0, sigma abs(gamma)).
        sigma: standard deviation of the noise.
        zero_sum: size of a noise E that is taken from the original's outgoing weight W and added
            to the copy's, as the ratio of norms abs(E) / abs(W); it keeps the function.
        carry: what the optimizer remembers: ``"law"`` (by the degree in the gradient), ``"copy"``
            (gathered as it is), or ``"zero"`` (the moments of the copies are what they started
            from; step counts stay, so that Adam's first steps of a copy are longer).

    Raises:
        PlanError: a value that is not one of these, or out of range.

    >>> Policy.exact().preserving, Policy.paper().preserving
    (True, False)
    """

    scaling: Scaling = "exact"
    shares: Literal["even", "uneven", "signed"] = "uneven"
    share: float | None = None
    fill: Fill = "copy"
    noise: Noise = "none"
    sigma: float = 0.1
    zero_sum: float = 0.0
    carry: Carry = "law"

    def __post_init__(self) -> None:
        for name, hint in get_type_hints(type(self)).items():
            allowed, value = get_args(hint), getattr(self, name)
            if all(isinstance(word, str) for word in allowed) and allowed and value not in allowed:
                raise PlanError(f"{name}={value!r}; give one of {', '.join(map(repr, allowed))}")
        for name in ("sigma", "zero_sum"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not 0.0 <= value < math.inf:
                raise PlanError(f"{name}={value!r}; give a number that is not negative")
        if self.zero_sum and (self.scaling != "exact" or self.fill == "fresh"):
            raise PlanError(
                f"zero_sum={self.zero_sum!r} takes from an original what it gives to its copy, "
                "and needs scaling='exact' and fill='copy'"
            )
        if self.fill == "fresh" and self.scaling != "exact":
            raise PlanError("fill='fresh' leaves the originals alone; use it with scaling='exact'")
        if self.scaling != "exact" and (self.shares != "uneven" or self.share is not None):
            raise PlanError(
                f"shares={self.shares!r} and share={self.share!r} have no effect with "
                f"scaling={self.scaling!r}, which gives copies all of the weight; leave them out"
            )
        split_of(self.split, self.share)

    @staticmethod
    def exact() -> Policy:
        """The function stays as it is where all is copied; copies part by uneven shares."""
        return Policy()

    @staticmethod
    def paper() -> Policy:
        """As in the paper: norms restored, and BatchNorm parameters of copies drawn.

        Without a BatchNorm (in a transformer) nothing parts a copy from its original: take
        `exact`, ``shares="signed"``, or `zero_sum`.
        """
        return Policy(scaling="norm", noise="absolute")

    @staticmethod
    def of(value: Policy | str) -> Policy:
        """A policy as it is, or the preset of that name.

        Raises:
            PlanError: no such preset.
        """
        if isinstance(value, Policy):
            return value
        presets = {"exact": Policy.exact, "paper": Policy.paper}
        if not isinstance(value, str) or value not in presets:
            names = ", ".join(map(repr, presets))
            raise PlanError(f"policy={value!r}; give one of {names}, or a fxplastic.Policy")
        return presets[value]()

    @property
    def split(self) -> Split:
        """How a plan splits the outgoing weight between original and copy."""
        if self.fill == "fresh":
            return "zero"
        return self.shares if self.scaling == "exact" else "whole"

    @property
    def preserving(self) -> bool:
        """Whether duplicating neurons under this policy leaves the function of exact groups."""
        noisy = self.noise == "absolute" or (self.noise == "relative" and self.sigma > 0)
        return self.scaling == "exact" and not noisy

    def as_dict(self) -> dict[str, Any]:
        """The attributes, for a file; ``Policy(**d)`` reads them."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def split_of(kind: str, share: float | None) -> tuple[float, float]:
    """Shares of original and copy.

    Raises:
        PlanError: no such kind, or a share that it cannot have.

    >>> split_of("signed", 0.25)
    (1.25, -0.25)
    """
    if kind not in get_args(Split):
        raise PlanError(f"shares={kind!r}; give one of {', '.join(map(repr, get_args(Split)))}")
    value = _DEFAULT_SHARE[kind] if share is None else share
    if kind in ("even", "whole", "zero"):
        if value != _DEFAULT_SHARE[kind]:
            raise PlanError(f"share={value!r} with shares={kind!r}; leave it out, or say 'uneven'")
        return (0.5, 0.5) if kind == "even" else (1.0, value)
    highest = math.inf if kind == "signed" else 1.0
    if not isinstance(value, int | float) or not 0.0 < value < highest:
        raise PlanError(
            f"share={value!r} with shares={kind!r}; give a number above 0 and below {highest}"
        )
    return (1.0 + value, -value) if kind == "signed" else (1.0 - value, value)
