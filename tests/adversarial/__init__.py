"""Small modules that a pass which guesses gets wrong, each with the verdict it must reach."""

from tests.adversarial import (
    attention,
    control,
    heads,
    layers,
    lost,
    movement,
    ops,
    roles,
    widths,
    written,
)
from tests.adversarial.case import Case

CASES: tuple[Case, ...] = (
    *roles.CASES,
    *movement.CASES,
    *layers.CASES,
    *attention.CASES,
    *heads.CASES,
    *control.CASES,
    *ops.CASES,
    *lost.CASES,
    *widths.CASES,
    *written.CASES,
)

__all__ = ["CASES", "Case"]
