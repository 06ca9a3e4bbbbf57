"""The benchmarks' own arithmetic, and that the page says what was stored."""

import itertools
import json
import time
from typing import Any

import pytest

from tools.bench import __main__ as bench
from tools.bench import discovery, timing
from tools.bench.table import render


def test_the_page_says_what_is_stored() -> None:
    stored = json.loads(bench.STORE.read_text(encoding="utf-8"))
    note = bench.NOTE.read_text(encoding="utf-8")
    assert bench.PAGE.read_text(encoding="utf-8") == render(stored, note)
    assert {key.split("/")[0] for key in stored} <= set(bench.PARTS)


def test_ratios_are_taken_round_by_round(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count()
    spent = {"base": 2, "other": 3}
    now = [0.0]

    def work(name: str) -> None:
        now[0] += spent[name] * (1 + next(clock) // 2)  # a machine that gets slower and slower

    monkeypatch.setattr(time, "process_time", lambda: now[0])
    works = {name: (lambda name=name: work(name)) for name in spent}
    mean, half = timing.ratios(works, 4, "base")["other"]
    assert mean == pytest.approx(1.5)
    assert half == pytest.approx(0.0)


@pytest.mark.parametrize(("factor", "worse"), [(1.0, []), (0.6, ["discovery/resnet18"])])
def test_what_is_one_and_a_half_times_worse_is_named(
    factor: float, worse: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = {"resnet18": 0.5, "convnext_tiny": 0.8}
    asked = []

    def measure(name: str, **_: Any) -> dict[str, float]:
        asked.append(name)
        return {"ratio": stored[name] * (factor if name == "resnet18" else 1.0)}

    monkeypatch.setattr(discovery, "measure", measure)
    monkeypatch.setattr(bench, "apart", lambda *_: {"in_place": 2.9})
    rows: dict[str, dict[str, Any]] = {f"discovery/{n}": {"ratio": r} for n, r in stored.items()}
    rows["rewriting/convnext_tiny"] = {"in_place": 2.5}
    assert bench.quick(rows) == worse
    assert asked.count("resnet18") == (2 if worse else 1)  # once more, to be sure


def test_a_program_that_fails_says_why() -> None:
    with pytest.raises(RuntimeError, match="No module named"):
        timing.apart("tools.bench.no_such_module")
