"""The table of settings says what the marked tests show, no more and no less."""

import re
from pathlib import Path

import pytest

from tools.settings import OUTCOMES, Setting, file_of, settings_of

PAGE = Path(__file__).resolve().parent.parent / "docs" / "settings.md"


def written() -> set[str]:
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    return {line for line in lines if line.count(" | ") == 2 and line.split(" | ")[1] in OUTCOMES}


def shown(items: list[pytest.Item]) -> dict[Setting, set[str]]:
    files: dict[Setting, set[str]] = {}
    for item in items:
        for setting in settings_of(item):
            files.setdefault(setting, set()).add(file_of(item))
    return files


def test_what_the_marked_tests_show_is_in_the_table(request: pytest.FixtureRequest):
    table = written()
    for setting, files in shown(request.session.items).items():
        start = f"| {setting.what} | {setting.outcome} | "
        lines = [line for line in table if line.startswith(start)]
        assert lines, f"{setting} is not in {PAGE.name}; run make settings"
        assert all(file in lines[0] for file in files)


def test_every_line_of_the_table_is_shown_by_its_tests(request: pytest.FixtureRequest):
    present = {file_of(item) for item in request.session.items}
    whole = not request.config.getoption("keyword") and not request.config.getoption("markexpr")
    known = {setting.line(files) for setting, files in shown(request.session.items).items()}
    for line in written():
        files = re.findall(r"`tests/[^`]+`", line)
        assert files
        if whole and present.issuperset(files):  # in a run of a part, its tests may not be there
            assert line in known, "no test shows this any longer; run make settings"
