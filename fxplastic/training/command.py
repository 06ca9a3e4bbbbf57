"""``fxplastic train``: a run from a file, from flags, or from both."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fxplastic.errors import TrainingError
from fxplastic.training.config import Config, options
from fxplastic.training.loop import train
from fxplastic.training.options import flag, suggestion
from fxplastic.training.reading import add_flags, from_flags, read_values
from fxplastic.training.records import Result

_OWN = ("config", "resume", "resume-from", "quiet", "json", "help")


def main(words: Sequence[str]) -> int:
    """Run the command; returns the process's exit status.

    Raises:
        FxPlasticError: see `fxplastic.training.train`.
    """
    config, given = parse(words)
    result = train(
        config, resume=given.resume, resume_from=given.resume_from, progress=not given.quiet
    )
    if given.json:
        print(json.dumps(as_json(result), indent=2))
        return 0
    splits = ", ".join(f"{name} {_percent(value)}" for name, value in result.splits.items())
    print(f"top-1 {_percent(result.top1)} ({splits}); turnovers: {result.turnovers}, of "
          f"{result.neurons} neurons in all; {Path(result.folder) / 'result.json'}")  # fmt: skip
    return 0


def as_json(result: Result) -> dict[str, Any]:
    """What ``--json`` prints; its schema: ``fxplastic schema train``."""
    return {
        "format": "fxplastic.train",
        "version": 1,
        "folder": result.folder,
        "top1": result.top1,
        "splits": dict(result.splits),
        "turnovers": result.turnovers,
        "neurons": result.neurons,
    }


def _percent(value: float | None) -> str:
    return "none" if value is None else f"{value:.1f} %"


def parse(words: Sequence[str]) -> tuple[Config, argparse.Namespace]:
    """The configuration that the words give, and the words that are about no configuration.

    Values come from the flags, then from the file, then from the defaults. ``--resume`` without a
    file takes the one in the run's folder.

    Raises:
        TrainingError: an unknown flag or key, or a bad value.
    """
    parser = argparse.ArgumentParser(
        prog="fxplastic train",
        description="Train a timm model on long-tailed data, with neuron turnover. Every key of "
        "the TOML file is a flag, too; flags come first.",
        epilog="Example: fxplastic train --data digits-lt --epochs 2 --warmup 0 --every 1 "
        "--out run",
        allow_abbrev=False,
    )
    parser.add_argument("--config", type=Path, help="TOML file, or a run's config.json")
    parser.add_argument("--resume", action="store_true", help="go on with the run in --out")
    parser.add_argument("--resume-from", type=Path, help="a checkpoint of it, as previous.pt")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    add_flags(parser.add_argument_group("configuration"))
    given, unknown = parser.parse_known_args(words)
    if unknown:
        known = [*_OWN, *map(flag, options())]
        hint = suggestion(unknown[0].lstrip("-").split("=")[0], known)
        raise TrainingError(f"{unknown[0]} is no flag of fxplastic train{hint}; see --help")
    flags = {key: text for key, text in vars(given).items() if key in options()}
    return from_flags(flags, _base(given, flags)), given


def _base(given: argparse.Namespace, flags: dict[str, str]) -> dict[str, Any]:
    """Values of the file that is named, or of the run that is resumed."""
    if given.config is not None:
        return read_values(given.config)
    stored = Path(flags.get("out", Config().out)) / "config.json"
    if (given.resume or given.resume_from) and stored.exists():
        return read_values(stored) | {"out": str(stored.parent)}
    return {}
