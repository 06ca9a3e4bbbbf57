"""From scores to a turnover."""

import pytest
import torch
from torch import Tensor

from fxplastic.errors import PlanError, ScoreError
from fxplastic.plan import Plan
from fxplastic.planner import plan_turnover
from fxplastic.scores import GradientScores
from tests.hand_made import Branches, ConvNet, build, images

LEFT, RIGHT = "left.weight:0", "right.weight:0"
MODEL = build(Branches)
SCORES = {LEFT: torch.tensor([5.0, 0.0, 3.0, 9.0, 1.0, 4.0]), RIGHT: torch.arange(5.0)}


def test_best_neurons_fill_the_slots_of_the_worst() -> None:
    plan = plan_turnover(MODEL, SCORES, 0.4, shares="uneven", share=0.3)
    assert plan.edits[LEFT].take == (0, 3, 2, 3, 0, 5)
    assert plan.edits[LEFT].share == (0.7, 0.3, 1.0, 0.7, 0.3, 1.0)
    assert plan.edits[RIGHT].take == (4, 3, 2, 3, 4)
    assert plan.notes == ()


@pytest.mark.parametrize(
    ("kind", "share", "expected"),
    [("even", None, (0.5, 0.5)), ("uneven", None, (0.75, 0.25)), ("signed", None, (1.25, -0.25)),
     ("signed", 0.1, (1.1, -0.1)), ("uneven", 0.6, (0.4, 0.6))],
)  # fmt: skip
def test_shares_of_original_and_copy(kind: str, share: float | None, expected) -> None:
    edit = plan_turnover(MODEL, SCORES, 0.2, shares=kind, share=share).edits[LEFT]
    assert (edit.share[3], edit.share[1]) == expected


def test_each_block_turns_over_by_itself() -> None:
    model = build(ConvNet)
    scores = {"conv1.weight:0": torch.tensor([9.0, 8, 7, 3, 1, 2]), "conv2.weight:0": torch.ones(8)}
    plan = plan_turnover(model, scores, 0.34)
    assert plan.edits["conv1.weight:0"].take == (0, 1, 0, 3, 3, 5)


def test_ties_are_broken_by_index() -> None:
    scores = {LEFT: torch.ones(6), RIGHT: torch.full((5,), -2.0)}
    plan = plan_turnover(MODEL, scores, 0.4)
    assert plan.edits[LEFT].take == (0, 1, 2, 3, 1, 0)
    assert plan.edits[RIGHT].take == (0, 1, 2, 1, 0)


@pytest.mark.parametrize(("ratio", "moved"), [(0.3, 1), (1 / 3, 2), (0.5, 3), (0.17, 1)])
def test_count_is_the_floor_of_the_part(ratio: float, moved: int) -> None:
    plan = plan_turnover(MODEL, SCORES, ratio)
    assert len(plan.edits[LEFT].pruned) == moved
    assert plan.keeps_widths


def test_groups_left_alone_are_reported() -> None:
    plan = plan_turnover(MODEL, SCORES, 0.19)
    note = "right.weight:0 is left alone: 0.19 of a block of 5 is less than one neuron"
    assert plan.notes == (note,)
    assert list(plan.edits) == [LEFT]
    assert f"note: {note}" in str(plan)
    assert plan == Plan.from_json(plan.to_json())
    assert len(plan_turnover(MODEL, SCORES, 0.01).notes) == 2


def test_accepts_the_scorer_itself_and_a_choice_of_groups() -> None:
    model = build(Branches)
    scores = GradientScores(model)
    model(images(Branches)).square().sum().backward()
    scores.update()
    assert plan_turnover(model, scores) == plan_turnover(model, scores.values())
    only = plan_turnover(model, {LEFT: SCORES[LEFT]}, groups=[LEFT])
    assert list(only.edits) == [LEFT]


def test_scores_reach_the_host_in_one_transfer(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    for name in ("cpu", "tolist", "item", "__float__", "__bool__"):
        plain = getattr(Tensor, name)

        def counted(self: Tensor, *args: object, name: str = name, plain=plain) -> object:
            calls.append(name)
            return plain(self, *args)

        monkeypatch.setattr(Tensor, name, counted)
    plan_turnover(MODEL, SCORES)
    assert calls == ["cpu", "tolist"]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_score_that_is_not_finite_is_refused(bad: float) -> None:
    scores = {**SCORES, RIGHT: torch.tensor([0.0, 1, bad, 3, 4])}
    with pytest.raises(ScoreError, match=rf"neuron 2 of group 'right.weight:0' is {bad}"):
        plan_turnover(MODEL, scores)


@pytest.mark.parametrize("ratio", [0, -0.1, 0.51, float("nan"), "a", 1])
def test_ratio_must_leave_half(ratio: object) -> None:
    with pytest.raises(PlanError, match=r"ratio=.*; give a number above 0 and at most 0.5"):
        plan_turnover(MODEL, SCORES, ratio)


def test_missing_unknown_and_misshapen_scores_are_refused() -> None:
    with pytest.raises(ScoreError, match=r"no scores for group 'right.weight:0'"):
        plan_turnover(MODEL, {LEFT: SCORES[LEFT]})
    with pytest.raises(ScoreError, match=r"'left.weight:1', .* did you mean 'left.weight:0'"):
        plan_turnover(MODEL, {**SCORES, "left.weight:1": SCORES[LEFT]})
    with pytest.raises(ScoreError, match=r"have shape \(4,\); give one number for each of its 5"):
        plan_turnover(MODEL, {**SCORES, RIGHT: torch.ones(4)})


@pytest.mark.parametrize(
    ("kind", "share"), [("even", 0.4), ("uneven", 1.0), ("uneven", 0), ("signed", -0.2),
                        ("signed", float("inf")), ("uneven", float("nan")), ("odd", None)]
)  # fmt: skip
def test_shares_out_of_range_are_refused(kind: str, share: float | None) -> None:
    with pytest.raises(PlanError, match="share"):
        plan_turnover(MODEL, SCORES, shares=kind, share=share)


# ---------------------------------------------------------------- who takes part
def test_a_ranking_over_the_network_turns_over_where_scores_are_low() -> None:
    # Relative to the group's mean, five of six neurons of the left are low and none of the right.
    scores = {LEFT: torch.tensor([60.0, 0, 0, 0, 0, 0]), RIGHT: torch.tensor([1.0, 1, 1, 1, 2])}
    plan = plan_turnover(MODEL, scores, 0.28, scope="network")
    assert plan.edits[LEFT].take == (0, 1, 2, 2, 1, 0)
    assert RIGHT not in plan.edits
    assert plan.notes == (
        "right.weight:0 is left alone: none of its neurons is among the lowest 0.28",
    )


@pytest.mark.parametrize("factor", [1000.0, -1.0])
def test_groups_of_all_sizes_compete_in_the_network_on_equal_terms(factor: float) -> None:
    scores = {LEFT: factor * SCORES[LEFT], RIGHT: factor * SCORES[RIGHT] / 100}
    same = {LEFT: factor / abs(factor) * SCORES[LEFT], RIGHT: factor / abs(factor) * SCORES[RIGHT]}
    plan = plan_turnover(MODEL, scores, 0.3, scope="network")
    assert plan == plan_turnover(MODEL, same, 0.3, scope="network")
    assert len(plan.edits) == 2


def test_a_group_of_which_nothing_is_known_is_left_alone() -> None:
    plan = plan_turnover(MODEL, {LEFT: SCORES[LEFT], RIGHT: torch.zeros(5)}, 0.4)
    assert list(plan.edits) == [LEFT]
    assert plan.notes == (
        "right.weight:0 is left alone: all its scores are 0, nothing is known of it",
    )


def test_at_most_half_of_a_block_turns_over_by_the_network() -> None:
    scores = {LEFT: torch.tensor([60.0, 0, 0, 0, 0, 0]), RIGHT: torch.tensor([1.0, 1, 1, 1, 2])}
    plan = plan_turnover(MODEL, scores, 0.5, scope="network")  # five of eleven
    assert len(plan.edits[LEFT].pruned) == 3
    assert len(plan.edits[RIGHT].pruned) == 2


def test_blocks_of_a_group_turn_over_by_different_numbers_in_the_network() -> None:
    model = build(ConvNet)
    scores = {
        "conv1.weight:0": torch.tensor([9.0, 9, 9, 9, 9, 0]),
        "conv2.weight:0": torch.tensor([0.1, 0.1, 9, 9, 9, 9, 9, 9]),
    }
    plan = plan_turnover(model, scores, 3 / 14, scope="network")
    assert plan.edits["conv1.weight:0"].take == (0, 1, 2, 3, 4, 3)
    assert plan.edits["conv2.weight:0"].take == (3, 2, 2, 3, 4, 5, 6, 7)
    assert plan.keeps_widths


def test_groups_may_have_ratios_of_their_own() -> None:
    plan = plan_turnover(MODEL, SCORES, 0.5, overrides={"*": 0.2, "right*": 0.4})
    assert len(plan.edits[LEFT].pruned) == 1
    assert len(plan.edits[RIGHT].pruned) == 2
    off = plan_turnover(MODEL, SCORES, 0.5, overrides={"right*": 0})
    assert list(off.edits) == [LEFT]
    assert off.notes == ("right.weight:0 is left alone: its own ratio is 0",)
    mixed = plan_turnover(MODEL, SCORES, 0.17, scope="network", overrides={"right*": 0.4})
    assert len(mixed.edits[RIGHT].pruned) == 2
    assert len(mixed.edits[LEFT].pruned) == 1


def test_protected_and_narrow_groups_are_left_alone_and_need_no_scores() -> None:
    plan = plan_turnover(MODEL, {LEFT: SCORES[LEFT]}, 0.4, protect=["right*"])
    assert list(plan.edits) == [LEFT]
    assert plan.notes == ("right.weight:0 is left alone: it is protected",)
    narrow = plan_turnover(MODEL, SCORES, 0.4, min_width=6)
    assert list(narrow.edits) == [LEFT]
    assert narrow.notes == ("right.weight:0 is left alone: a block of 5 is narrower than 6",)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scope": "model"}, r"scope='model'; give one of 'group', 'network'"),
        ({"overrides": {"left*": 0.7}}, r"overrides\['left\*'\]=0.7; give a number at least 0"),
        ({"overrides": {"left*": -0.1}}, r"overrides\['left\*'\]=-0.1"),
        ({"overrides": {"lef.weight:0": 0.1}}, r"no group 'lef.weight:0'.*'left.weight:0'"),
        ({"protect": ["up*"]}, r"protect names 'up\*', which matches no group"),
    ],
)
def test_bad_choices_are_refused(options: dict, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        plan_turnover(MODEL, SCORES, **options)


@pytest.mark.parametrize(("kind", "expected"), [("whole", (1.0, 1.0)), ("zero", (1.0, 0.0))])
def test_copies_may_have_all_of_the_weight_or_none(kind: str, expected: tuple) -> None:
    edit = plan_turnover(MODEL, SCORES, 0.2, shares=kind).edits[LEFT]
    assert (edit.share[3], edit.share[1]) == expected
