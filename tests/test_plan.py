"""Plans as values: making, composing, printing, comparing and storing them."""

import copy
import json
import math
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fxplastic.edits import Edit
from fxplastic.errors import PlanError
from fxplastic.plan import Plan
from tests.hand_made import Branches, ConvNet, build, group, named, site

LEFT, RIGHT = "left.weight:0", "right.weight:0"
MODEL = build(Branches)
BLOCKS = build(ConvNet)


def wide(size: int, blocks: int = 1) -> Branches:
    """A model with one group of any size."""
    model = Branches()
    model.groups = named(group(size, site("left.weight", 0, "producer", torch.arange(size)),
                               blocks=blocks))  # fmt: skip
    return model


@pytest.mark.parametrize("make", [list, tuple, np.array, torch.tensor], ids=lambda f: f.__name__)
def test_takes_and_shares_may_be_any_sequence(make) -> None:
    plan = Plan.from_takes(
        MODEL, {RIGHT: make([0, 0, 2, 3, 4])}, {RIGHT: make([0.75, 0.25, 1, 1, 1])}
    )
    edit = plan.edits[RIGHT]
    assert edit == Edit((0, 0, 2, 3, 4), (0.75, 0.25, 1.0, 1.0, 1.0), size=5, blocks=1)
    assert all(type(i) is int for i in edit.take)
    assert all(type(s) is float for s in edit.share)


def test_shares_default_to_an_even_split_among_copies() -> None:
    plan = Plan.from_takes(MODEL, {RIGHT: [0, 0, 0, 3, 3]})
    assert plan.edits[RIGHT].share == (1 / 3, 1 / 3, 1 / 3, 0.5, 0.5)


@pytest.mark.parametrize(
    ("take", "preserving"),
    [([0, 1, 2, 3, 4], True), ([4, 3, 2, 1, 0], True), ([0, 0, 2, 3, 4], False),
     ([0, 1, 2, 3, 4, 4, 0], True), ([0, 1], False)],
)  # fmt: skip
def test_preserving_says_whether_nothing_is_lost(take: list[int], preserving: bool) -> None:
    assert Plan.from_takes(MODEL, {RIGHT: take}).preserving is preserving


def test_composed_plan_that_prunes_half_a_copy_is_not_preserving() -> None:
    grown = Plan.from_takes(MODEL, {LEFT: [1, 0, 2, 3, 4, 5]})
    first = Plan.from_takes(MODEL, {LEFT: [0, 0, 2, 3, 4, 5]})
    pruned = Plan.from_takes(MODEL, {LEFT: [0, 2, 2, 3, 4, 5]})
    assert grown.then(grown) == Plan.from_takes(MODEL, {})
    edit = first.then(pruned).edits[LEFT]
    assert edit.take == (0, 2, 2, 3, 4, 5)
    assert edit.share == (0.5, 0.5, 0.5, 1.0, 1.0, 1.0)
    assert not first.then(pruned).preserving


def test_target_is_the_source_at_constant_width_and_foretold_otherwise() -> None:
    kept = Plan.random(MODEL, turnover=0.5)
    grown = Plan.from_takes(MODEL, {LEFT: [*range(6), 0]})
    assert kept.source == kept.target == MODEL.fingerprint
    assert grown.target not in (grown.source, Plan.from_takes(MODEL, {LEFT: range(5)}).target)
    assert not grown.keeps_widths
    assert kept.then(grown).target == grown.target
    with pytest.raises(PlanError, match="the next one was made for"):
        grown.then(kept)
    with pytest.raises(PlanError, match="the next one was made for"):
        kept.then(Plan.random(BLOCKS, turnover=0.5))


def test_equality_hash_and_notes() -> None:
    plan = Plan.random(MODEL, turnover=0.5, seed=1)
    same = Plan.from_takes(
        MODEL,
        {name: edit.take for name, edit in plan.edits.items()},
        {name: edit.share for name, edit in plan.edits.items()},
        notes=["by hand"],
    )
    assert plan == same
    assert hash(plan) == hash(same)
    assert plan != Plan.random(MODEL, turnover=0.5, seed=2)
    assert plan != "plan"
    only = Plan.random(MODEL, turnover=0.5, seed=1, groups=[LEFT])
    identity = {RIGHT: range(5), LEFT: only.edits[LEFT].take}
    assert only == Plan.from_takes(MODEL, identity, {LEFT: only.edits[LEFT].share})


def test_a_plan_cannot_be_changed_and_survives_pickle_and_deepcopy() -> None:
    plan = Plan.random(MODEL, turnover=0.5)
    with pytest.raises(AttributeError):
        plan.source = ""  # type: ignore[misc]
    with pytest.raises(TypeError):
        plan.edits[LEFT] = plan.edits[RIGHT]  # type: ignore[index]
    assert pickle.loads(pickle.dumps(plan)) == copy.deepcopy(plan) == plan


def test_text_shows_sizes_counts_slots_shares_and_notes() -> None:
    plan = Plan.from_takes(
        MODEL, {LEFT: [0, 1, 0, 3, 4, 5], RIGHT: range(5)}, {LEFT: [0.7, 1, 0.3, 1, 1, 1]},
        notes=["right is small"],
    )  # fmt: skip
    head = f"Plan for groups {MODEL.fingerprint[:12]}: 2 named, 1 neurons copied, 1 pruned"
    assert str(plan).splitlines() == [
        f"{head}, not function-preserving",
        "  left.weight:0: 6 neurons, 1 copied, 1 pruned; slot 2 <- 0 (share 0.3, slot 0 has 0.7)",
        "  right.weight:0: 5 neurons, as they are",
        "  note: right is small",
    ]
    many = Plan.random(wide(40, blocks=2), turnover=0.5)
    assert "40 neurons in 2 blocks, 20 copied, 20 pruned; slot" in str(many)
    assert str(many).endswith("and 17 more")


# --- random ---------------------------------------------------------------------------------


@given(
    per_block=st.integers(1, 12),
    blocks=st.integers(1, 3),
    ratios=st.tuples(st.floats(0, 2), st.floats(0, 1), st.floats(0, 1)),
    shares=st.sampled_from(["even", "uneven", "signed"]),
    seed=st.integers(0, 2**40),
)
def test_random_plans_are_valid_and_of_the_promised_size(
    per_block: int, blocks: int, ratios: tuple[float, float, float], shares: str, seed: int
) -> None:
    model = wide(per_block * blocks, blocks)
    grow, prune, turnover = ratios
    (edit,) = Plan.random(model, grow, prune, turnover, seed, shares=shares).edits.values()
    dropped = min(int(prune * per_block + 1e-9), max(per_block - 2, 0))
    turned = min(int(turnover * per_block + 1e-9), (per_block - dropped) // 2)
    grown = int(grow * per_block + 1e-9)
    assert len(edit.take) == blocks * (per_block - dropped + grown)
    assert len(edit.pruned) == blocks * (dropped + turned)
    for source in edit.copies:
        assert math.isclose(edit.total(source), 1.0, abs_tol=1e-9)


@given(size=st.integers(2, 40), ratio=st.floats(0, 1), seed=st.integers(0, 1000))
def test_random_turnover_preserves_the_slots_of_survivors(
    size: int, ratio: float, seed: int
) -> None:
    edit = Plan.random(wide(size), turnover=ratio, seed=seed).edits[LEFT]
    pruned = set(edit.pruned)
    assert all(edit.take[i] == i for i in range(size) if i not in pruned)
    sources = [edit.take[i] for i in pruned]
    assert len(set(sources)) == len(sources)
    assert not pruned & set(sources)


def test_random_shares_are_of_the_kind_asked_for() -> None:
    model = wide(40)
    for kind, low, high in (("uneven", 0.1, 0.4), ("signed", -0.5, -0.1)):
        edit = Plan.random(model, turnover=0.5, shares=kind).edits[LEFT]
        copied = [edit.share[slot] for slot in edit.pruned]
        assert len(copied) == 20
        assert all(low <= share <= high for share in copied)
        assert len(set(copied)) == 20


def test_random_draws_stay_what_they_were() -> None:
    """The figures are those of CPython's own generator, whatever the platform."""
    edit = Plan.random(wide(8), turnover=0.5, seed=3).edits[LEFT]
    assert edit.take == (0, 1, 2, 1, 0, 7, 2, 7)
    assert edit.share[edit.pruned[0]] == 0.10732827378471844


def test_a_groups_draw_does_not_depend_on_the_others() -> None:
    alone = Plan.random(MODEL, turnover=0.5, groups=[RIGHT])
    assert alone.edits[RIGHT] == Plan.random(MODEL, turnover=0.5).edits[RIGHT]
    assert list(alone.edits) == [RIGHT]


# --- composition ----------------------------------------------------------------------------


@given(st.lists(st.integers(0, 10**6), min_size=3, max_size=3), st.sampled_from([MODEL, BLOCKS]))
def test_then_is_associative_and_a_gather_of_gathers(seeds: list[int], model) -> None:
    p, q, r = (Plan.random(model, turnover=0.5, seed=s, shares="signed") for s in seeds)
    left, right = p.then(q).then(r), p.then(q.then(r))
    for name, edit in left.edits.items():
        assert edit.take == right.edits[name].take
        assert edit.share == pytest.approx(right.edits[name].share, rel=1e-14)
        weights = torch.arange(edit.size)
        after = weights[list(p.edits[name].take)][list(q.edits[name].take)]
        assert p.then(q).edits[name].take == tuple(after.tolist())
    assert p.then(Plan.from_takes(model, {})) == p == Plan.from_takes(model, {}).then(p)


# --- JSON -----------------------------------------------------------------------------------


@given(seed=st.integers(0, 10**6), grow=st.floats(0, 1), kind=st.sampled_from(["even", "signed"]))
def test_json_round_trip_is_bit_exact(seed: int, grow: float, kind: str) -> None:
    plan = Plan.random(BLOCKS, grow=grow, turnover=0.4, seed=seed, shares=kind)
    again = Plan.from_json(plan.to_json())
    assert again == plan
    assert again.edits == plan.edits
    assert (again.source, again.target) == (plan.source, plan.target)
    assert again.to_json() == plan.to_json()


def test_json_keeps_composed_shares_notes_and_the_empty_plan() -> None:
    p, q = (Plan.random(MODEL, turnover=0.5, seed=s) for s in (1, 2))
    composed = p.then(q)
    assert Plan.from_json(composed.to_json()) == composed
    noted = Plan.from_takes(MODEL, {}, notes=['left alone: "x"', "ä"])
    assert Plan.from_json(noted.to_json()).notes == noted.notes
    assert str(Plan.from_json(noted.to_json())) == str(noted)


def test_json_is_one_line_per_group() -> None:
    lines = Plan.random(MODEL, turnover=0.5).to_json().splitlines()
    assert sum(line.startswith('    "') for line in lines) == 2
    assert json.loads("\n".join(lines))["version"] == 1
