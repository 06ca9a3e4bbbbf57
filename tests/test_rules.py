"""The table of rules: what is in it, what is pointwise, and what has none."""

import pytest
import torch
from torch import Tensor
from torch._ops import OpOverload

import fxplastic
from fxplastic import propagate
from fxplastic.rules import RULES, find, is_pointwise, refused
from fxplastic.rules.pointwise import NOT_POINTWISE, TAGGED_LATER, UNTAGGED
from tests.adversarial import CASES
from tests.adversarial.case import Rows

LATER = tuple(int(part) for part in torch.__version__.split(".")[:2]) > (2, 11)


def overloads(name: str) -> list[OpOverload]:
    """Overloads that return a new tensor or change one in place."""
    packet = getattr(torch.ops.aten, name)
    return [getattr(packet, o) for o in packet.overloads() if "out" not in o]


def tagged(name: str) -> bool:
    return all(torch.Tag.pointwise in overload.tags for overload in overloads(name))


@pytest.mark.parametrize("name", sorted(UNTAGGED))
def test_ops_listed_as_untagged_still_are(name: str) -> None:
    assert not tagged(name), "remove it from UNTAGGED: every release from now on tags it"
    assert all(is_pointwise(overload) for overload in overloads(name))


@pytest.mark.parametrize("name", sorted(TAGGED_LATER))
def test_ops_listed_as_tagged_later_are(name: str) -> None:
    assert tagged(name) == LATER
    assert all(is_pointwise(overload) for overload in overloads(name))


def test_comparison_as_a_whole_is_not_pointwise() -> None:
    assert not any(is_pointwise(o) for name in NOT_POINTWISE for o in overloads(name))


def test_every_rule_says_what_it_does() -> None:
    assert len(RULES) > 100
    assert all(rule.__doc__ for rule in RULES.values())


def test_every_op_with_a_rule_is_reached_by_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    reached: set[str] = set()

    def noted(func: OpOverload):
        name = func.overloadpacket.__name__
        reached.update((name, f"{name}.{func._overloadname}"))
        return find(func)

    monkeypatch.setattr(propagate, "find", noted)
    for case in CASES:
        if not case.raises:
            fxplastic.plasticize(case.model().double(), case.inputs())
    assert sorted(set(RULES) - reached) == []
    assert sorted((UNTAGGED | TAGGED_LATER) - reached) == []


@pytest.fixture
def library():
    library = torch.library.Library("fxplastic_test", "DEF")
    yield library
    library._destroy()


@pytest.mark.parametrize("name", ["mul", "view", "clone"])
def test_an_op_of_another_library_has_no_rule(name: str, library: torch.library.Library) -> None:
    library.define(f"{name}(Tensor x) -> Tensor")
    for key in ("CPU", "Meta"):
        library.impl(name, lambda x: x - x.mean(-1, keepdim=True), key)
    op = getattr(torch.ops.fxplastic_test, name)
    assert find(op.default) is refused

    class Foreign(Rows):
        def forward(self, x: Tensor) -> Tensor:
            return self.o(op(self.i(x)))

    plastic = fxplastic.plasticize(Foreign(), torch.zeros(4, 6))
    assert not plastic.groups
    assert any(f"no rule for fxplastic_test.{name}" in r.reason for r in plastic.frozen)


def test_what_a_rule_loses_is_frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RULES, "flip", lambda call: fxplastic.identity.Names())

    class Flipped(Rows):
        def forward(self, x: Tensor) -> Tensor:
            h = self.i(x)
            return self.o(h) + h.flip(1).mean()

    plastic = fxplastic.plasticize(Flipped(), torch.zeros(4, 6))
    assert not plastic.groups
    lost = [r for r in plastic.frozen if propagate.LOST in r.reason]
    assert {(r.parameter, r.axis, r.node) for r in lost} >= {("i.weight", 0, "flip")}


def test_one_name_for_one_rule() -> None:
    from fxplastic.rules.base import rule

    with pytest.raises(ValueError, match=r"two rules for aten\.relu_twice"):
        for _ in range(2):
            rule("relu_twice")(refused)
    del RULES["relu_twice"]
