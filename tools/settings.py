"""Run the tests that show where fxplastic works, and write what they show: docs/settings.md.

python tools/settings.py --out docs/settings.md

A test says what it shows by a mark, ``@pytest.mark.setting(area, what, outcome)``; a line is
written once all tests with it have passed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from fxplastic.zoo import rows

ROOT = Path(__file__).resolve().parent.parent
AREAS = (
    "Several processes",
    "Sharded parameters",
    "torch.compile",
    "Precision and memory",
    "Around the model",
    "Trainers",
    "Export",
)
OUTCOMES = {
    "supported": "works, and the test compares it with the plain case",
    "frozen": "left alone, with the reason; the rest of the model stays plastic",
    "refused": "an error says what to do; model and optimizer are as they were",
}
HEAD = """# What works where

Made from the tests by `make settings`: each line is what the tests that are marked with it show,
and is written only where all of them pass.

{meanings}
"""


@dataclass(frozen=True, order=True)
class Setting:
    """One line of the table: what becomes of something that is around a model in training."""

    area: str
    what: str
    outcome: str

    def line(self, files: Iterable[str]) -> str:
        """As a row of the table, with the tests that show it."""
        return f"| {self.what} | {self.outcome} | {', '.join(sorted(files))} |"


def settings_of(item: pytest.Item) -> list[Setting]:
    """What a test shows.

    Raises:
        ValueError: there is no such area or outcome.
    """
    found = []
    for mark in item.iter_markers("setting"):
        setting = Setting(*mark.args)
        if setting.area not in AREAS or setting.outcome not in OUTCOMES:
            raise ValueError(f"{item.nodeid}: no such area or outcome: {setting}")
        found.append(setting)
    return found


def file_of(item: pytest.Item) -> str:
    """The file of a test, as the table names it."""
    return f"`{Path(item.path).relative_to(ROOT)}`"


@dataclass
class Shown:
    """A pytest plugin that keeps what the marked tests show, and which of them did not pass."""

    files: dict[Setting, set[str]] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:
            for setting in settings_of(item):
                self.files.setdefault(setting, set()).add(file_of(item))

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed or report.skipped:
            self.failed.append(f"{report.nodeid} ({report.outcome})")


def document(files: dict[Setting, set[str]]) -> str:
    """The page."""
    meanings = "\n".join(f"- **{word}**: {what}." for word, what in OUTCOMES.items())
    parts = [HEAD.format(meanings=meanings)]
    for area in AREAS:
        mine = sorted(setting for setting in files if setting.area == area)
        if mine:
            head = f"## {area}\n\n| what | outcome | shown by |\n| --- | --- | --- |\n"
            parts.append(head + "\n".join(s.line(files[s]) for s in mine) + "\n")
    return "\n".join(parts)


def main() -> int:
    """Write the page; the exit status is 1, and nothing is written, where a test does not pass."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    out: Path = parser.parse_args().out
    shown = Shown()
    pytest.main(["-q", "-m", "setting and not gpu", "-p", "no:cacheprovider"], plugins=[shown])
    if shown.failed or not shown.files:
        print("not written:", *shown.failed, sep="\n  ")
        return 1
    origin = rows.origin()
    versions = ", ".join(f"{k} {v}" for k, v in origin["versions"].items())
    foot = f"\n{versions}; {origin['machine']}; commit {origin['commit']}.\n"
    out.write_text(document(shown.files) + foot, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
