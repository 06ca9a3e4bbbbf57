"""When neurons turn over."""

from typing import Any

import pytest

from fxplastic.errors import PlanError
from fxplastic.schedule import Adaptive, Schedule, agreement


def turnovers(schedule: Schedule, epochs: int = 20) -> list[int]:
    return [e for e in range(1, epochs + 1) if schedule.due(e, None, {})[0]]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (Schedule(every=5), [5, 10, 15, 20]),
        (Schedule(every=5, first=2), [2, 7, 12, 17]),
        (Schedule(every=5, last=14), [5, 10]),
        (Schedule(every=5, warmup=3), [8, 13, 18]),
        (Schedule(every=7, first=20), [20]),
        (Schedule(every=4, last=8), [4, 8]),
    ],
)
def test_turnovers_come_at_fixed_epochs(schedule: Schedule, expected: list[int]) -> None:
    assert turnovers(schedule) == expected
    assert schedule.first_turnover == expected[0]


@pytest.mark.parametrize(("window", "expected"), [(1, [6, 12]), (2, [5, 6, 11, 12])])
def test_only_epochs_before_a_turnover_are_scored(window: int, expected: list[int]) -> None:
    schedule = Schedule(every=6, last=12, window=window)
    assert [e for e in range(1, 19) if schedule.watches(e)] == expected


def run(schedule: Adaptive, rows: list[list[float]]) -> list[int]:
    memory: dict[str, Any] = {}
    found = []
    for epoch, row in enumerate(rows, 1):
        due, memory = schedule.due(epoch, {"g": row}, memory)
        found += [epoch] * due
    return found


UP, DOWN, MIXED = [1.0, 2.0, 3.0, 4.0], [4.0, 3.0, 2.0, 1.0], [2.0, 1.0, 4.0, 3.0]


def test_a_settled_ranking_turns_over() -> None:
    schedule = Adaptive(stability=0.9, apart=1, first=1)
    assert run(schedule, [UP, DOWN, DOWN, UP, MIXED, MIXED]) == [3, 6]
    assert run(Adaptive(stability=0.5, apart=1, first=1), [UP, MIXED]) == [2]  # it is 0.6


def test_after_a_turnover_the_comparison_starts_anew() -> None:
    schedule = Adaptive(stability=0.9, apart=1, first=1)
    assert run(schedule, [UP, UP, UP, UP, UP]) == [2, 4]


def test_turnovers_keep_apart_and_inside_their_bounds() -> None:
    assert run(Adaptive(apart=3, first=1), [UP] * 10) == [3, 6, 9]
    assert run(Adaptive(apart=1, first=4, last=5), [UP] * 10) == [4]


def test_after_the_last_turnover_no_scores_are_needed() -> None:
    schedule = Adaptive(apart=1, first=1, last=3)
    assert [schedule.watches(epoch) for epoch in (3, 4)] == [True, False]
    assert schedule.due(4, None, {"turned": 2}) == (False, {"turned": 2})


def test_a_turnover_that_is_late_comes_in_any_case() -> None:
    schedule = Adaptive(apart=1, first=1, at_most=3)
    assert run(schedule, [UP, DOWN] * 4) == [3, 6]
    assert run(Adaptive(apart=1, first=1), [UP, DOWN] * 4) == []


def test_agreement_weighs_groups_by_size_and_leaves_out_what_has_no_ranking() -> None:
    before = {"a": UP, "b": [1.0, 2.0], "c": [5.0, 5.0]}
    after = {"a": DOWN, "b": [1.0, 3.0], "c": [1.0, 2.0]}
    assert agreement(before, after) == pytest.approx((4 * -1.0 + 2 * 1.0) / 6)
    assert agreement({"c": [1.0, 1.0]}, {"c": [1.0, 2.0]}) == 1.0


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (Schedule, {"every": 0}, "every=0; give a whole number, at least 1"),
        (Schedule, {"every": 2.5}, "every=2.5"),
        (Schedule, {"first": 0}, "first=0"),
        (Schedule, {"warmup": -1}, "warmup=-1"),
        (Schedule, {"window": True}, "window=True"),
        (Schedule, {"every": None}, "every=None"),
        (Schedule, {"first": 3, "warmup": 10}, "first=3 and warmup=10; give one of them"),
        (Schedule, {"every": 30, "last": 29}, "last=29 comes before the first turnover"),
        (Adaptive, {"stability": 1.5}, "stability=1.5; give a rank correlation"),
        (Adaptive, {"apart": 0}, "apart=0"),
        (Adaptive, {"first": 5, "last": 4}, "last=4 comes before first=5"),
        (Adaptive, {"apart": 5, "at_most": 4}, "at_most=4 is less than apart=5"),
    ],
)
def test_bad_schedules_are_refused(make: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        make(**options)


def test_an_adaptive_schedule_needs_scores() -> None:
    with pytest.raises(PlanError, match="score every epoch"):
        Adaptive().due(3, None, {})
