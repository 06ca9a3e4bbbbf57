"""Eight small models, end to end: traced, turned over, masked, replayed and trained on.

The figures of all 31 models are made by `make exact`; these use smaller images.
"""

import pytest
import torch

from tests.exact_checks import failures, measure
from tests.exact_models import SMALL, SPECS, ModelSpec


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("spec", SMALL, ids=lambda spec: spec.model)
def test_a_turnover_of_every_exact_group_equals_masking(spec: ModelSpec):
    assert failures(measure(spec, spec.small)) == []


def test_eight_models_run_in_the_suite_and_31_in_the_table():
    assert len(SMALL) == 8
    assert len({spec.name for spec in SPECS}) == 31


def passing_row() -> dict:
    turned = {"input_untouched": True, "error_eval": 1e-15, "error_train": 1e-15, "effect": 0.1}
    row = {"traced_bits": True, "other_batch": True, "names": True, "floor": 0.5, "coverage": 0.6}
    return row | {"neurons": 9, "uneven": turned, "signed": turned}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"traced_bits": False}, "traced_bits"),
        ({"coverage": 0.4}, "coverage 0.4000 < 0.5"),
        ({"neurons": 0}, "no exact neuron"),
        ({"signed": {"error_train": 1e-9, "effect": 0.1}}, "signed: error_train 1.0e-09 > 1e-10"),
        ({"signed": {"error_eval": float("nan"), "effect": 0.1}}, "signed: error_eval nan > 1e-10"),
        ({"uneven": {"json": False, "effect": 0.1}}, "uneven: json"),
    ],
)
def test_each_shortcoming_of_a_row_is_named(change: dict, problem: str):
    assert failures(passing_row()) == []
    assert failures(passing_row() | change) == [problem]


def test_a_check_that_sees_nothing_is_a_failure():
    row = passing_row() | {"uneven": {"effect": 0.0}}
    assert len(failures(row)) == 1
    assert "sees nothing" in failures(row)[0]
