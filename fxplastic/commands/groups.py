"""``fxplastic groups``: what of a model is plastic, what is frozen, and why."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Annotated, Any

import typer

from fxplastic.commands import options as o
from fxplastic.commands.output import console, print_json, table
from fxplastic.coverage import coverage, frozen_reasons
from fxplastic.forecast import count_parameters
from fxplastic.module import PlasticModule


def groups(
    model: o.Model,
    weights: o.Weights = None,
    arg: o.Arguments = None,
    shapes: o.Inputs = None,
    attention: o.Attention = None,
    approximate: o.Approximate = False,
    freeze: o.Freeze = None,
    match: Annotated[str, typer.Option(metavar="PATTERN", help="Groups and axes to show.")] = "*",
    json: o.Json = False,
) -> None:
    """List the channel groups of a model, and the reasons for what is frozen."""
    subject = o.Subject.of(
        model, weights, arg, shapes, attention=attention, approximate=approximate, freeze=freeze
    )
    plastic = subject.plastic()
    found = described(plastic, model, match)
    if json:
        print_json(found)
    else:
        show(plastic, found)


def described(plastic: PlasticModule, model: str, match: str = "*") -> dict[str, Any]:
    """Groups and frozen axes as plain data."""
    reach = coverage(plastic.named_parameters(), plastic.groups)
    return o.mapping(
        {
            "model": model,
            "fingerprint": plastic.fingerprint,
            "parameters": count_parameters(plastic),
            "neurons": reach.neurons,
            "coverage": round(reach.share, 6),
            "groups": [
                {
                    "name": group.name,
                    "size": group.size,
                    "exact": group.exact,
                    "blocks": group.block_count,
                    "coupled": list(group.coupled),
                    "sites": [
                        {
                            "parameter": site.parameter,
                            "axis": site.axis,
                            "role": site.role,
                            "slots": int(site.positions.shape[1]),
                            "aliases": list(site.aliases),
                        }
                        for site in group.sites
                    ],
                }
                for name, group in plastic.groups.items()
                if fnmatchcase(name, match)
            ],
            "frozen": [
                {
                    "parameter": axis.parameter,
                    "axis": axis.axis,
                    "positions": axis.positions,
                    "reason": axis.reason,
                    "node": axis.node,
                    "source": axis.source,
                }
                for axis in plastic.frozen
                if fnmatchcase(f"{axis.parameter}:{axis.axis}", match)
            ],
        },
        "groups",
    )


def show(plastic: PlasticModule, found: dict[str, Any]) -> None:
    """Tables of groups and of reasons."""
    out = console()
    rows = [
        (
            group["name"],
            group["size"],
            group["blocks"],
            "yes" if group["exact"] else "no",
            len([s for s in group["sites"] if s["role"] == "producer"]),
            len([s for s in group["sites"] if s["role"] == "consumer"]),
        )
        for group in found["groups"]
    ]
    columns = ("group", "#neurons", "#blocks", "exact", "#producers", "#consumers")
    out.print(table(f"{found['model']}: {len(rows)} groups", columns, rows))
    reasons = frozen_reasons(plastic.frozen)
    out.print(
        table(f"{len(reasons)} reasons why axes are frozen", ("reason", "#positions"), reasons)
    )
    out.print(
        f"{found['neurons']:,} neurons in exact groups; they reach "
        f"{100 * found['coverage']:.1f} % of the slots of {found['parameters']:,} parameters. "
        f"Ask for one axis with: fxplastic explain {found['model']} PARAMETER",
        markup=False,
    )
