"""The command line, ``fxplastic COMMAND``: what each command does is in `fxplastic.commands`.

Exit status: 0 if all went well, 1 if something was checked and found wanting (plans that differ,
models with problems), 2 for an error, which is said on standard error.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

import typer
from rich.console import Console

from fxplastic.commands.diff import diff
from fxplastic.commands.explain import explain
from fxplastic.commands.groups import groups
from fxplastic.commands.plan import plan
from fxplastic.commands.report import report
from fxplastic.commands.rewrite import rewrite
from fxplastic.commands.schema import schema
from fxplastic.commands.train import train
from fxplastic.commands.zoo import zoo
from fxplastic.errors import FxPlasticError

EXAMPLES: dict[Callable[..., None], str] = {
    groups: "fxplastic groups resnet18 --arg num_classes=10",
    explain: "fxplastic explain vit_tiny_patch16_224 blocks.0.attn.qkv.weight --axis 0",
    plan: "fxplastic plan resnet18 --macs 0.5 --out half.json",
    diff: "fxplastic diff half.json half.json",
    rewrite: "fxplastic rewrite resnet18 half.json --out half --check",
    report: "fxplastic report resnet18 --plan half.json --scores l1 --out half.html",
    zoo: "fxplastic zoo test_resnet --rows rows --table zoo.md",
    train: "fxplastic train --data digits-lt --epochs 2 --warmup 0 --every 1 --out run",
    schema: "fxplastic schema groups",
}
"""An example of each command, in an order in which they can be run one after the other."""

app = typer.Typer(
    name="fxplastic",
    help="Look at the neurons of a PyTorch model, plan their surgery, carry it out.",
    epilog="Exit status: 0 fine, 1 checked and found wanting, 2 error.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _add(function: Callable[..., None]) -> None:
    settings = {}
    own_flags = function is train  # they are the fields of its configuration, and read there
    if own_flags:
        settings = {"allow_extra_args": True, "ignore_unknown_options": True}
    app.command(
        epilog=f"Example: {EXAMPLES[function]}",
        context_settings=settings,
        add_help_option=not own_flags,
    )(function)


for _function in (groups, plan, explain, rewrite, diff, report, zoo, train, schema):
    _add(_function)


def main(words: Sequence[str] | None = None) -> int:
    """Run a command; returns the process's exit status."""
    try:
        app(args=None if words is None else list(words), prog_name="fxplastic")
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 0
    except FxPlasticError as error:
        Console(stderr=True, highlight=False, soft_wrap=True).print(
            f"fxplastic: {error}", markup=False
        )
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
