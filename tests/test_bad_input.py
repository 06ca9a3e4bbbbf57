"""Bad plans raise the project's own error, naming value, place and fix, and change nothing."""

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch

from fxplastic.errors import FxPlasticError, PlanError, RewriteError
from fxplastic.plan import Plan
from fxplastic.rewrite import rewrite, rewrite_
from tests.hand_made import Branches, ConvNet, bits, build, images, train_step

LEFT, RIGHT, BLOCKED = "left.weight:0", "right.weight:0", "conv1.weight:0"
MODEL, BLOCKS = build(Branches), build(ConvNet)

TAKES: dict[str, tuple[Any, dict[str, Any], dict[str, Any] | None, str]] = {
    "unknown group": (MODEL, {"left.wieght:0": [0]}, None, "did you mean 'left.weight:0'"),
    "nothing close": (MODEL, {"?": [0]}, None, r"no group '\?' among 2; see plastic.groups"),
    "out of range": (MODEL, {RIGHT: [0, 1, 2, 3, 5]}, None,
                     r"take\[4\] of group 'right.weight:0' is 5; its neurons are 0 to 4"),
    "negative": (MODEL, {RIGHT: [0, 1, -1, 3, 4]}, None, r"take\[2\] .* is -1; its neurons"),
    "crosses blocks": (BLOCKS, {BLOCKED: [0, 1, 3, 3, 4, 5]}, None,
                       r"take\[2\] .* is 3, a neuron of block 1, .* block 0; take one of 0 to 2"),
    "not divisible": (BLOCKS, {BLOCKED: [0, 1, 2, 3, 4]}, None, "5 entries, .* its 2 blocks"),
    "too few": (MODEL, {RIGHT: [0]}, None, "leaves 1 neurons in each block of 5; keep at least 2"),
    "none": (MODEL, {RIGHT: []}, None, "leaves 0 neurons"),
    "float": (MODEL, {RIGHT: [0, 1.0, 2, 3, 4]}, None, r"take\[1\] .* is 1.0; give a whole number"),
    "bool": (MODEL, {RIGHT: [True, 1, 2, 3, 4]}, None, r"take\[0\] .* is True"),
    "float tensor": (MODEL, {RIGHT: torch.ones(5)}, None, r"take\[0\] .* is 1.0"),
    "matrix": (MODEL, {RIGHT: torch.ones(5, 1).long()}, None, r"take .* shape \(5, 1\)"),
    "number": (MODEL, {RIGHT: 3}, None, "take of group 'right.weight:0' is a int: 3"),
    "text": (MODEL, {RIGHT: "01234"}, None, "is a str: '01234'"),
    "sum": (MODEL, {RIGHT: [0, 0, 2, 3, 4]}, {RIGHT: [0.5, 0.6, 1, 1, 1]},
            r"neuron 0 of group 'right.weight:0' sum to 1.1 \(share\[0\]=0.5, share\[1\]=0.6\)"),
    "sum of one": (MODEL, {RIGHT: range(5)}, {RIGHT: [1, 1, 0.9, 1, 1]}, "neuron 2 .* sum to 0.9"),
    "almost": (MODEL, {RIGHT: range(5)}, {RIGHT: [1, 1, 1, 1, 1 + 1e-8]}, "sum to 1.00000001"),
    "NaN": (MODEL, {RIGHT: range(5)}, {RIGHT: [1, 1, float("nan"), 1, 1]}, r"share\[2\] .* is nan"),
    "short": (MODEL, {RIGHT: range(5)}, {RIGHT: [1, 1]}, "5 new neurons in take and 2 entries"),
    "no take": (MODEL, {RIGHT: range(5)}, {LEFT: [1] * 6}, "'left.weight:0', which has no take"),
    "word": (MODEL, {RIGHT: range(5)}, {RIGHT: ["1", 1, 1, 1, 1]}, r"share\[0\] .* is '1'"),
}  # fmt: skip


@pytest.mark.parametrize("case", TAKES)
def test_bad_takes_and_shares(case: str) -> None:
    model, takes, shares, message = TAKES[case]
    before = bits(model)
    with pytest.raises(PlanError, match=message):
        Plan.from_takes(model, takes, shares)
    assert bits(model) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"turnover": 1.5}, r"turnover=1.5; give a number from 0 to 1.0"),
        ({"prune": -0.1}, r"prune=-0.1"),
        ({"grow": float("inf")}, r"grow=inf"),
        ({"grow": float("nan")}, r"grow=nan"),
        ({"grow": "all"}, r"grow='all'"),
        ({"shares": "fair"}, r"shares='fair'; give one of 'even', 'uneven', 'signed'"),
        ({"groups": ["left"]}, r"no group 'left' among 2; did you mean 'left.weight:0'"),
    ],
)
def test_bad_random_plans(options: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        Plan.random(MODEL, **options)


def changed(**keys: Any) -> str:
    """A good plan's JSON with some keys changed; `...` removes one."""
    top = json.loads(Plan.random(MODEL, turnover=0.5).to_json()) | keys
    return json.dumps({key: value for key, value in top.items() if value is not ...})


def changed_group(**keys: Any) -> str:
    found = json.loads(Plan.random(MODEL, turnover=0.5).to_json())["groups"][RIGHT] | keys
    return changed(groups={RIGHT: {k: v for k, v in found.items() if v is not ...}})


JSON: dict[str, tuple[Callable[[], Any], str]] = {
    "empty": (lambda: "", "cannot be read: Expecting value"),
    "cut off": (lambda: changed()[:-20], "cannot be read"),
    "deep": (lambda: "[" * 100_000, "cannot be read"),
    "list": (lambda: "[]", "holds a list; it must be an object"),
    "bytes": (lambda: b"{}", "must be a str, not bytes"),
    "foreign": (lambda: '{"format": "png"}', "key 'format' is 'png'"),
    "newer": (lambda: changed(version=2), "key 'version' is 2, newer than 1, .*upgrade fxplastic"),
    "no version": (lambda: changed(version=...), "key 'version' is None"),
    "odd version": (lambda: changed(version=True), "key 'version' is True"),
    "missing": (lambda: changed(source=...), "key 'source' of the plan is missing; add it"),
    "unknown": (lambda: changed(extra=1), "key 'extra' of the plan is unknown; remove it"),
    "source": (lambda: changed(source=3), "key 'source' of the plan is 3; it must be a str"),
    "target": (lambda: changed(target=3), "key 'target' of the plan is 3"),
    "other target": (lambda: changed(target="x"), "key 'target' is 'x'; it must be the same"),
    "no target": (lambda: changed(target=None), "key 'target' of the plan is None; it must be a"),
    "notes": (lambda: changed(notes=[1]), r"key 'notes' is \[1\]"),
    "groups": (lambda: changed(groups=[]), r"key 'groups' of the plan is \[\]; it must be a dict"),
    "group": (lambda: changed(groups={"a": 1}), "group 'a' is 1; it must be an object"),
    "no take": (lambda: changed_group(take=...), "key 'take' of group 'right.weight:0' is missing"),
    "take": (lambda: changed_group(take="0"), "key 'take' of group 'right.weight:0' is '0'"),
    "entry": (lambda: changed_group(take=[0, 1, 2, 3, None]), r"take\[4\] .* is None"),
    "range": (lambda: changed_group(take=[0, 1, 2, 3, 9]), r"take\[4\] .* is 9"),
    "size": (lambda: changed_group(size=True), "key 'size' of group 'right.weight:0' is True"),
    "zero": (lambda: changed_group(size=0), "size 0 cannot have 1 equal blocks"),
    "blocks": (lambda: changed_group(blocks=2), "size 5 cannot have 2 equal blocks"),
    "share": (lambda: changed_group(share=[1]), "5 new neurons in take and 1 entries in share"),
    "NaN": (lambda: changed_group(share=[1, 1, 1, 1, float("nan")]), "NaN is not a number"),
    "huge": (lambda: changed_group(share=[1, 1, 1, 1, 7]).replace("7]", "1e999]"),
             r"share\[4\] .* is inf"),
    "twice": (lambda: '{"format": 1, "format": 2}', "key 'format' is given twice"),
}  # fmt: skip


@pytest.mark.parametrize("case", JSON)
def test_bad_json(case: str) -> None:
    text, message = JSON[case]
    with pytest.raises(PlanError, match=message):
        Plan.from_json(text())


def forged() -> Plan:
    """A file that claims to be for another model than it was made for."""
    text = Plan.random(BLOCKS, turnover=0.5).to_json()
    return Plan.from_json(text.replace(BLOCKS.fingerprint, MODEL.fingerprint))


def resized() -> Plan:
    other = build(Branches)
    text = Plan.from_takes(other, {RIGHT: range(5)}).to_json()
    text = text.replace('"size": 5', '"size": 6').replace(" 4]", " 4, 5]")
    return Plan.from_json(text.replace("1.0]", "1.0, 1.0]"))


REWRITES: dict[str, tuple[Callable[[], Any], type[FxPlasticError], str]] = {
    "another model": (lambda: Plan.random(BLOCKS, turnover=0.5), PlanError,
                      r"made for groups \w{12}, this model's are \w{12}; make the plan from this"),
    "forged": (forged, PlanError, "no group 'conv1.weight:0' among 2"),
    "resized": (resized, PlanError, "has 6 neurons in 1 blocks, the model's 5 in 1"),
    "no plan": (lambda: {RIGHT: [0]}, PlanError, "expected a Plan, got a dict"),
}  # fmt: skip


@pytest.mark.parametrize("call", [rewrite, rewrite_])
@pytest.mark.parametrize("case", REWRITES)
def test_plans_that_do_not_fit_change_nothing(case: str, call: Any) -> None:
    make, error, message = REWRITES[case]
    model = build(Branches)
    optimizer = torch.optim.AdamW(model.parameters())
    train_step(model, optimizer, images(Branches))
    plan, before = make(), bits(model, optimizer)
    with pytest.raises(error, match=message) as caught:
        call(model, plan, optimizer)
    assert bits(model, optimizer) == before
    assert re.search(r"; \w+", str(caught.value)) or "expected" in str(caught.value)  # the fix


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (rewrite, "Branches has no graph to change widths in; pass what fxplastic.plasticize"),
        (rewrite_, r"'right.weight:0' from 5 to 7 neurons, and in place .*; use rewrite, .* 5 ent"),
    ],
)
def test_new_widths_change_nothing_where_they_cannot_be(call: Any, message: str) -> None:
    model = build(Branches)
    optimizer = torch.optim.AdamW(model.parameters())
    train_step(model, optimizer, images(Branches))
    before = bits(model, optimizer)
    with pytest.raises(RewriteError, match=message):
        call(model, Plan.random(MODEL, grow=0.5, groups=[RIGHT]), optimizer)
    assert bits(model, optimizer) == before


def test_composing_with_something_else_is_refused() -> None:
    with pytest.raises(PlanError, match=r"then\(\) takes a Plan, not a list"):
        Plan.random(MODEL).then([])  # type: ignore[arg-type]
