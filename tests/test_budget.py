"""Growing and shrinking to a budget."""

import copy
from typing import Any

import pytest
import timm
import torch
from torch import nn

import fxplastic
from fxplastic import forecast, plan_budget
from fxplastic.errors import PlanError
from fxplastic.verify import masked
from tests.randomise import randomise


def plastic_of(name: str = "test_resnet") -> fxplastic.PlasticModule:
    model = randomise(timm.create_model(name, num_classes=5)).eval()
    return fxplastic.plasticize(model, torch.zeros(2, 3, 64, 64, dtype=torch.float64))


def scores_of(plastic: fxplastic.PlasticModule, seed: int = 0) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return {n: torch.rand(g.size, generator=draw) for n, g in plastic.groups.items()}


@pytest.mark.parametrize("what", ["parameters", "macs"])
@pytest.mark.parametrize("part", [0.4, 0.8, 1.3])
def test_the_budget_is_met_and_hardly_missed(what: str, part: float) -> None:
    plastic = plastic_of()
    plan = plan_budget(plastic, scores_of(plastic), **{what: part})
    before, after = getattr(forecast(plastic, plan), what)
    assert after <= part * before
    assert after > (part - 0.03) * before
    assert f"{after:,}, budget {int(part * before + 1e-9):,}" in plan.notes[0]


def test_what_is_shrunk_to_a_budget_is_the_masked_model() -> None:
    plastic = plastic_of()
    plan = plan_budget(plastic, scores_of(plastic), parameters=0.6)
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    expected = masked(plastic, plastic.groups, plan)(x)
    torch.testing.assert_close(
        fxplastic.rewrite(plastic, plan).module(x), expected, rtol=1e-10, atol=1e-10
    )


def test_the_lowest_of_all_groups_go_first() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 4))
    plastic = fxplastic.plasticize(model, torch.zeros(2, 4))
    low = {"0.weight:0": torch.tensor([1.0, 9, 9, 9, 9, 9]), "2.weight:0": torch.ones(6)}
    plan = plan_budget(plastic, low, parameters=sum(p.numel() for p in model.parameters()) - 1)
    assert dict(plan.edits) == {"0.weight:0": plan.edits["0.weight:0"]}
    assert plan.edits["0.weight:0"].take == (1, 2, 3, 4, 5)


def test_width_moves_to_where_scores_are_high() -> None:
    model = nn.Sequential(
        nn.Linear(4, 20), nn.ReLU(), nn.Linear(20, 20), nn.ReLU(), nn.Linear(20, 4)
    )
    plastic = fxplastic.plasticize(model, torch.zeros(2, 4))
    # The first layer has three neurons that matter, the second many that matter about the same.
    scores = {
        "0.weight:0": torch.tensor([0.01] * 17 + [30.0] * 3),
        "2.weight:0": torch.linspace(0.9, 1.1, 20),
    }
    plan = plan_budget(plastic, scores, parameters=1.0, moved=0.3)
    sizes = {name: len(edit.take) for name, edit in plan.edits.items()}
    assert sizes["0.weight:0"] < 20 < sizes["2.weight:0"]
    before, after = forecast(plastic, plan).parameters
    assert 0.9 * before < after <= before


def test_options_hold() -> None:
    plastic = plastic_of()
    some = next(iter(plastic.groups))
    plan = plan_budget(
        plastic, scores_of(plastic), parameters=0.3, min_width=12, multiple_of=4, protect=[some]
    )
    assert some not in plan.edits
    for name, edit in plan.edits.items():
        assert len(edit.take) % 4 == 0, name
        assert len(edit.take) >= min(12, plastic.groups[name].size)


class Shuffled(nn.Module):
    """A first layer whose neurons an index table rearranges: no other width fits the table."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = nn.Linear(4, 16), nn.Linear(16, 16), nn.Linear(16, 3)
        self.register_buffer("order", torch.randperm(16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.three(self.two(self.one(x).relu()[:, self.order]).relu())


def test_what_is_refused_in_one_group_is_made_up_for_by_the_others() -> None:
    torch.manual_seed(0)
    plastic = fxplastic.plasticize(Shuffled(), torch.zeros(2, 4))
    assert set(plastic.groups) == {"one.weight:0", "two.weight:0"}
    low = {
        "one.weight:0": torch.linspace(0.0, 2.0, 16),
        "two.weight:0": torch.linspace(0.5, 1.5, 16),
    }
    plan = plan_budget(plastic, low, parameters=0.7)
    assert set(plan.edits) == {"two.weight:0"}
    before, after = forecast(plastic, plan).parameters
    assert 0.6 * before < after <= 0.7 * before
    assert any("one.weight:0 is left alone" in note for note in plan.notes)
    with pytest.raises(PlanError, match=r"no widths have at most .*one.weight:0 is left alone"):
        plan_budget(plastic, low, parameters=0.3)


def refused() -> list[tuple[dict[str, Any], str]]:
    return [
        ({}, "give one budget"),
        ({"parameters": 0.5, "macs": 0.5}, "give one budget"),
        ({"parameters": -1.0}, r"a budget of -1.0 parameters"),
        ({"macs": float("nan")}, r"a budget of nan MACs"),
        ({"parameters": True}, r"a budget of True"),
        ({"parameters": 10}, r"no widths have at most 10 parameters: .* there are \d"),
        ({"parameters": 50.0}, r"cannot be filled: .* grow in several plans"),
        ({"parameters": 0.5, "moved": 1.0}, "moved=1.0"),
        ({"parameters": 0.5, "min_width": 0}, "min_width=0"),
        ({"parameters": 0.5, "multiple_of": 1.5}, "multiple_of=1.5"),
        ({"parameters": 0.5, "protect": ["no.such"]}, "no group 'no.such'"),
        ({"parameters": 0.5, "shares": "whole"}, "shares='whole'"),
    ]


@pytest.mark.parametrize(("options", "message"), refused())
def test_bad_budgets_are_refused(options: dict[str, Any], message: str) -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 4))
    plastic = fxplastic.plasticize(model, torch.zeros(2, 4))
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(PlanError, match=message):
        plan_budget(plastic, {"0.weight:0": torch.ones(6)}, **options)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
