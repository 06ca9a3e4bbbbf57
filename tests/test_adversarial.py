"""No adversarial module ends in a wrong model, and each gets the verdict that it deserves."""

import re
from functools import cache

import pytest
from torch import Tensor, nn

import fxplastic
from fxplastic.module import PlasticModule
from fxplastic.propagate import LOST
from tests.adversarial import CASES, Case
from tests.oracle import (
    assert_identity_is_bit_equal,
    assert_permutation_preserves_outputs,
    assert_turnover_equals_masking,
    distance,
    outputs,
    prepare,
)

RUNNING = [case for case in CASES if not case.raises]
REFUSED = [case for case in CASES if case.raises]
OPTIONS = {"frozen attention": None, "open values": "value"}
Prepared = tuple[nn.Module, tuple[Tensor, ...], PlasticModule]


@cache
def prepared(name: str, attention: str | None = None) -> Prepared:
    case = next(case for case in CASES if case.name == name)
    model, inputs = prepare(case.model()), case.inputs()
    plastic = fxplastic.plasticize(model, inputs, attention=attention)
    assert not [record for record in plastic.frozen if LOST in record.reason]
    return model, inputs, plastic


def layout(plastic: PlasticModule, axis: str) -> str:
    """The exact groups along ``"parameter:axis"``, as ``"blocks x neurons"`` joined by ``+``."""
    found = [
        f"{group.block_count}x{group.block_size}"
        for group in plastic.groups.values()
        if group.exact and any(f"{s.parameter}:{s.axis}" == axis for s in group.sites)
    ]
    return "+".join(sorted(found))


def ids(cases: list[Case]) -> list[str]:
    return [case.name for case in cases]


def test_the_catalogue_names_every_case_once() -> None:
    assert len(set(ids(list(CASES)))) == len(CASES) >= 40


@pytest.mark.parametrize("case", RUNNING, ids=ids(RUNNING))
def test_exact_axes_are_found(case: Case) -> None:
    _, _, plastic = prepared(case.name)
    found = {axis: layout(plastic, axis) for axis in case.exact}
    expected = {
        axis: found[axis] or "any" if want == "any" else want for axis, want in case.exact.items()
    }
    assert found == expected, [str(record) for record in plastic.frozen]


@pytest.mark.parametrize("case", RUNNING, ids=ids(RUNNING))
def test_inexact_axes_are_frozen_with_the_reason(case: Case) -> None:
    _, _, plastic = prepared(case.name)
    assert {axis: layout(plastic, axis) for axis in case.frozen} == dict.fromkeys(case.frozen, "")
    for axis, pattern in case.frozen.items():
        reasons = [r.reason for r in plastic.frozen if f"{r.parameter}:{r.axis}" == axis]
        assert any(re.search(pattern, reason) for reason in reasons), (axis, reasons)


@pytest.mark.parametrize("attention", OPTIONS.values(), ids=OPTIONS.keys())
@pytest.mark.parametrize("shares", ["uneven", "signed"])
@pytest.mark.parametrize("case", RUNNING, ids=ids(RUNNING))
def test_a_turnover_of_all_groups_equals_masking(
    case: Case, shares: str, attention: str | None
) -> None:
    model, inputs, plastic = prepared(case.name, attention)
    for seed in range(3):
        effect = assert_turnover_equals_masking(model, inputs, plastic, shares=shares, seed=seed)
        assert effect > 1e-6 or not plastic.groups


@pytest.mark.parametrize("attention", OPTIONS.values(), ids=OPTIONS.keys())
@pytest.mark.parametrize("case", RUNNING, ids=ids(RUNNING))
def test_permutations_inside_blocks_preserve_outputs(case: Case, attention: str | None) -> None:
    model, inputs, plastic = prepared(case.name, attention)
    for seed in range(3):
        assert_permutation_preserves_outputs(model, inputs, plastic, seed=seed)
    assert_identity_is_bit_equal(plastic)


@pytest.mark.parametrize("case", RUNNING, ids=ids(RUNNING))
def test_the_plastic_module_is_the_model(case: Case) -> None:
    model, inputs, plastic = prepared(case.name)
    for mode in ("eval", "train"):
        assert distance(outputs(plastic, inputs, mode), outputs(model, inputs, mode)) == 0.0


@pytest.mark.parametrize("case", REFUSED, ids=ids(REFUSED))
def test_what_cannot_be_traced_is_refused_by_name(case: Case) -> None:
    model, inputs = prepare(case.model()), case.inputs()
    with pytest.raises(case.raises, match=r"\.py:\d+"):
        fxplastic.plasticize(model, inputs)
