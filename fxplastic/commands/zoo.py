"""``fxplastic zoo``: put models of timm, torchvision and transformers through the pass."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fxplastic.commands import options as o
from fxplastic.commands.output import print_json
from fxplastic.errors import FxPlasticError


def zoo(
    patterns: Annotated[
        list[str] | None,
        typer.Argument(metavar="[PATTERN]...", help="As in resnet18 or timm/vit_*; default: all."),
    ] = None,
    library: Annotated[
        list[str] | None, typer.Option(help="timm, torchvision or transformers; repeat it.")
    ] = None,
    shard: Annotated[str, typer.Option(help="i/n: every n-th model, from the i-th on.")] = "1/1",
    rows: Annotated[Path, typer.Option(help="Folder of the rows.")] = Path("docs/zoo"),
    table: Annotated[Path, typer.Option(help="The table to write.")] = Path("docs/zoo.md"),
    most: Annotated[float, typer.Option(help="Parameters, for a float64 check.")] = 1e8,
    again: Annotated[bool, typer.Option("--again", help="Models with a good row, too.")] = False,
    only_list: Annotated[bool, typer.Option("--list", help="Only say which models.")] = False,
    json: o.Json = False,
) -> None:
    """Trace, discover, plan and rewrite models on meta, check them in float64, write a table.

    Rows are stored as they come; models with a good row are passed over. The exit status is 1 if
    a model has a problem.
    """
    from fxplastic.zoo import catalog
    from fxplastic.zoo import rows as stored
    from fxplastic.zoo import table as tables
    from fxplastic.zoo.check import problems
    from fxplastic.zoo.run import go_through
    from fxplastic.zoo.run import shard as part

    libraries = library or catalog.LIBRARIES
    unknown = [name for name in libraries if name not in catalog.LIBRARIES]
    if unknown:
        raise FxPlasticError(f"--library {unknown[0]}; there are {', '.join(catalog.LIBRARIES)}")
    chosen = part(catalog.entries(libraries, patterns or ()), shard)
    keys = [entry.key for entry in chosen]
    if only_list:
        if json:
            print_json(o.mapping({"models": keys, "problems": []}, "zoo"))
        else:
            typer.echo("\n".join(keys))
        return
    found = go_through(chosen, rows, int(most), again=again)
    if shard == "1/1":  # other shards may be adding rows
        stored.tidy(rows, found.values())
        names = [entry.key for entry in catalog.entries()]
        table.write_text(tables.render(found, names), encoding="utf-8")
    mine = [found[key] for key in keys if key in found]
    bad = [str(row["model"]) for row in mine if problems(row)]
    if json:
        print_json(o.mapping({"models": [row["model"] for row in mine], "problems": bad}, "zoo"))
    else:
        typer.echo(f"{len(mine)} models, {len(bad)} with problems: {', '.join(bad) or 'none'}")
    raise typer.Exit(int(bool(bad)))
