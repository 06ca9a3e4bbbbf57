"""Write docs/optimizers.md: how the state of each optimizer follows, and how well, measured."""

from __future__ import annotations

import platform
import sys
import warnings
from importlib import metadata
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fxplastic.state_laws import REFUSED, STATE_LAWS, Law, laws_of, name_of
from tests.state_laws import CASES, MODELS, errors

HEAD = """# Optimizers

Made by `make optimizers` (Python {python}, torch {torch}, timm {timm}, on the CPU), from
`fxplastic/state_laws.py`.

A turnover carries an optimizer's state with it. Where the plan preserves the function, the gradient
of a weight is gathered like the weight and scaled by the share of the neuron that it produces (a
consumer's weight is scaled, its gradient is not). So a state tensor of degree *d* in the gradient
is gathered and scaled by share^d. What a division has made free of the gradient's size keeps the
sign of the share; averages of weights follow the weights; factored second moments (Adafactor) are
taken for the product that the optimizer takes them for.

*Error* is measured: some steps of a float64 network and then the plan (signed and uneven shares,
the pruned neurons dead), beside the plan and then the same steps, at a learning rate at which
weights stand still; the worst of three networks, relative to the largest value. Rows without a
caveat have to stay below 1e-11. After a pruning of neurons that are not dead the function changes,
no exact law exists, and survivors keep the same formula.

| optimizer | state | follows by | error | caveat |
| --- | --- | --- | --- | --- |
"""

TAIL = """
Step counts, products of coefficients and the like belong to no single weight and stay. `Lookahead`
keeps its slow weights in the state of the optimizer that it wraps: pass that one, and they follow.

## Refused

"""


def said(law: Law) -> str:
    """A law in a few words."""
    if law.kind == "power":
        text = ("gather", "share", "share^2")[law.power]
        text += f", less `{law.start}`" if law.start and law.power else ""
        return text + (f", less {law.fades}^steps" if law.fades else "")
    return {
        "magnitude": "abs(share)", "direction": "sign of share", "weight": "like the weight",
        "factored": "share^2, factor by factor",
    }[law.kind]  # fmt: skip


def main() -> None:
    """Measure every case, and write the table."""
    warnings.simplefilter("ignore")
    lines = []
    for case in CASES:
        worst: dict[str, float] = {}
        for kind in MODELS:
            for shares in ("uneven", "signed"):
                for key, error in errors(case, kind, shares).items():
                    worst[key] = max(worst.get(key, 0.0), error)
        for key, error in worst.items():
            law = (laws_of(case.kind) or {})[key] or Law()
            decay = "coupled weight decay is not scaled by the share"
            caveat = decay if "decay" in case.label and error > 1e-11 else law.caveat
            lines.append(f"| {case.label} | `{key}` | {said(law)} | {error:.1e} | {caveat} |")
    rest = sorted({str(name) for name in STATE_LAWS} - {name_of(case.kind) for case in CASES})
    for name in rest:
        for key, value in STATE_LAWS[name].items():
            law = Law(power=value) if isinstance(value, int) else value
            if law is not None:
                lines.append(f"| {name.split('.')[1]} | `{key}` | {said(law)} | tested | |")
    versions = {name: metadata.version(name) for name in ("torch", "timm")}
    refused = "\n".join(f"- `{name}`: {why}." for name, why in REFUSED.items())
    text = HEAD.format(python=platform.python_version(), **versions)
    Path("docs/optimizers.md").write_text(
        text + "\n".join(lines) + "\n" + TAIL + refused + "\n", encoding="utf-8"
    )


if __name__ == "__main__":
    main()
