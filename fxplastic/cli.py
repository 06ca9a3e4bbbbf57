"""The command line: ``fxplastic zoo`` and ``fxplastic train``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from fxplastic.errors import FxPlasticError


def main(words: Sequence[str] | None = None) -> int:
    """Run a command; returns the process's exit status."""
    parser = argparse.ArgumentParser(prog="fxplastic", description="Neurons that come and go.")
    commands = parser.add_subparsers(dest="command", required=True)
    zoo = commands.add_parser(
        "zoo",
        help="put models of timm, torchvision and transformers through the pass",
        description="Trace, discover, plan and rewrite models on meta, check them in float64, and "
        "write a table. Rows are stored as they come; models with a good row are passed over.",
    )
    zoo.add_argument("patterns", nargs="*", help="as in resnet18 or timm/vit_*; all by default")
    zoo.add_argument("--library", action="append", help="timm, torchvision or transformers")
    zoo.add_argument("--shard", default="1/1", help="i/n: every n-th model, from the i-th on")
    zoo.add_argument("--rows", type=Path, default=Path("docs/zoo"), help="folder of the rows")
    zoo.add_argument("--table", type=Path, default=Path("docs/zoo.md"), help="the table to write")
    zoo.add_argument("--most", type=float, default=1e8, help="parameters, for a float64 check")
    zoo.add_argument("--again", action="store_true", help="models that have a good row, too")
    zoo.add_argument("--list", action="store_true", help="only say what would be checked")
    # The words of `train` are the fields of its configuration, and are read where that is.
    commands.add_parser("train", help="train a model with neuron turnover", add_help=False)
    options, rest = parser.parse_known_args(words)
    if rest and options.command != "train":
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    try:
        return _train(rest) if options.command == "train" else _zoo(options)
    except FxPlasticError as error:
        print(f"fxplastic: {error}", file=sys.stderr)
        return 2


def _train(words: Sequence[str]) -> int:
    try:
        from fxplastic.training import command
    except ModuleNotFoundError as error:
        raise FxPlasticError(
            f"fxplastic train needs {error.name}, which is not installed: pip install "
            "'fxplastic[train]'"
        ) from error
    return command.main(words)


def _zoo(options: argparse.Namespace) -> int:
    from fxplastic.zoo import catalog, rows, table
    from fxplastic.zoo.check import problems
    from fxplastic.zoo.run import go_through, shard

    libraries = options.library or catalog.LIBRARIES
    unknown = [name for name in libraries if name not in catalog.LIBRARIES]
    if unknown:
        raise FxPlasticError(f"--library {unknown[0]}; there are {', '.join(catalog.LIBRARIES)}")
    chosen = shard(catalog.entries(libraries, options.patterns), options.shard)
    if options.list:
        print("\n".join(entry.key for entry in chosen))
        return 0
    found = go_through(chosen, options.rows, int(options.most), again=options.again)
    if options.shard == "1/1":  # other shards may be adding rows
        rows.tidy(options.rows, found.values())
        names = [entry.key for entry in catalog.entries()]
        options.table.write_text(table.render(found, names), encoding="utf-8")
    mine = [found[entry.key] for entry in chosen if entry.key in found]
    bad = [row["model"] for row in mine if problems(row)]
    print(f"{len(mine)} models, {len(bad)} with problems: {', '.join(bad) or 'none'}")
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main())
