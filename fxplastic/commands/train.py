"""``fxplastic train``: a training run with neuron turnover."""

from __future__ import annotations

import typer

from fxplastic.errors import FxPlasticError


def train(context: typer.Context) -> None:
    """Train a timm model on long-tailed data, with neuron turnover; see --help for its flags."""
    try:
        from fxplastic.training import command
    except ModuleNotFoundError as error:
        raise FxPlasticError(
            f"fxplastic train needs {error.name}, which is not installed: pip install "
            "'fxplastic[train]'"
        ) from error
    raise typer.Exit(command.main(context.args))
