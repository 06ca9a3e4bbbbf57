"""The benchmarks' own arithmetic, and that the page says what was stored."""

import copy
import itertools
import json
import time
import warnings
from pathlib import Path
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


@pytest.mark.parametrize("better_then", [1.0, 1.7])
def test_the_quick_benchmarks_end_with_an_error_where_a_stored_ratio_was_better(
    better_then: float, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    right = json.loads(bench.STORE.read_text(encoding="utf-8"))
    altered = copy.deepcopy(right)
    altered["discovery/resnet18"]["ratio"] *= better_then
    (tmp_path / "speed.json").write_text(json.dumps(altered), encoding="utf-8")
    monkeypatch.setattr(bench, "STORE", tmp_path / "speed.json")
    monkeypatch.setattr("sys.argv", ["bench", "--quick"])
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(discovery, "measure", lambda name, **_: right[f"discovery/{name}"])
    monkeypatch.setattr(bench, "apart", lambda *_: right["rewriting/convnext_tiny"])
    monkeypatch.setattr(warnings, "simplefilter", lambda *_: None)  # tests have their own
    with pytest.raises(SystemExit) as ended:
        bench.main()
    worse = "worse than stored by 1.5 times or more: discovery/resnet18"
    assert ended.value.code == (worse if better_then > 1 else 0)


def test_a_program_that_fails_says_why() -> None:
    with pytest.raises(RuntimeError, match="No module named"):
        timing.apart("tools.bench.no_such_module")
