"""Plans to other widths, what they foretell, and what follows them in training."""

import copy
from typing import Any

import pytest
import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.flop_counter import FlopCounterMode

import fxplastic
from fxplastic import Plan, WidthError
from fxplastic.errors import PlanError, RewriteError, ScoreError
from fxplastic.groups import ChannelGroup
from fxplastic.layouts import options_of, with_layout
from fxplastic.resize import ties_between
from tests.adversarial import CASES
from tests.hand_made import bits
from tests.oracle import MODES, TOLERANCE, distance, outputs, permutation, prepare

WIDE, NARROW = "0.weight:0", "3.weight:0"
IMAGES = torch.randn(4, 3, 8, 8, dtype=torch.float64)


def network() -> nn.Module:
    torch.manual_seed(0)
    return prepare(
        nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
            nn.Conv2d(16, 6, 3, padding=1), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5),
        )
    )  # fmt: skip


@pytest.fixture
def plastic() -> fxplastic.PlasticModule:
    return fxplastic.plasticize(network(), IMAGES)


def case(name: str) -> fxplastic.PlasticModule:
    found = next(case for case in CASES if case.name == name)
    return fxplastic.plasticize(prepare(found.model()), found.inputs())


def sizes(plan: Plan) -> dict[str, int]:
    return {name: len(edit.take) for name, edit in plan.edits.items()}


# --- what is asked for ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("widths", "multiple", "expected"),
    [
        (1.25, 1, {WIDE: 20, NARROW: 8}),
        (0.5, 1, {WIDE: 8, NARROW: 3}),
        (24, 1, {WIDE: 24, NARROW: 24}),
        ({WIDE: 20}, 1, {WIDE: 20}),
        ({"3*": 2.0}, 1, {NARROW: 12}),
        ({"*": 0.5, NARROW: 9}, 1, {WIDE: 8, NARROW: 9}),
        (1.4, 8, {WIDE: 24, NARROW: 8}),
        ({WIDE: 0.55}, 8, {WIDE: 8}),
        (1.0, 1, {}),
        (0.01, 1, {WIDE: 2, NARROW: 2}),
    ],
)
def test_widths_are_those_asked_for(
    plastic: fxplastic.PlasticModule, widths: Any, multiple: int, expected: dict[str, int]
) -> None:
    plan = fxplastic.plan_widths(plastic, widths, multiple_of=multiple)
    assert sizes(plan) == expected
    module = fxplastic.rewrite(plastic, plan).module
    assert {n: module.groups[n].size for n in expected} == expected
    assert module.fingerprint == plan.target


def test_a_width_below_the_multiple_is_left_to_itself(plastic: fxplastic.PlasticModule) -> None:
    plan = fxplastic.plan_widths(plastic, 0.5, multiple_of=64)
    assert sizes(plan) == {WIDE: 8, NARROW: 3}
    assert f"{WIDE} would be narrower than 64: no multiple of it" in plan.notes
    fewest = fxplastic.plan_widths(plastic, 0.01)
    assert any("at least two stay" in note for note in fewest.notes)


def test_scores_decide_who_is_copied_and_who_goes(plastic: fxplastic.PlasticModule) -> None:
    scores = {WIDE: torch.arange(16.0), NARROW: torch.tensor([3.0, 1.0, 5.0, 0.0, 4.0, 2.0])}
    grown = fxplastic.plan_widths(plastic, {WIDE: 18}, scores=scores)
    assert grown.edits[WIDE].take == (*range(16), 15, 14)
    assert grown.preserving
    pruned = fxplastic.plan_widths(plastic, {NARROW: 3}, scores=scores)
    assert pruned.edits[NARROW].take == (0, 2, 4)
    with pytest.raises(ScoreError, match=f"no scores for group '{NARROW}'"):
        fxplastic.plan_widths(plastic, 0.5, scores={WIDE: torch.arange(16.0)})


def test_the_same_seed_gives_the_same_plan(plastic: fxplastic.PlasticModule) -> None:
    one, same = (fxplastic.plan_widths(plastic, 1.5, seed=4) for _ in range(2))
    assert one == same != fxplastic.plan_widths(plastic, 1.5, seed=5)
    assert Plan.from_json(one.to_json()) == one


@pytest.mark.parametrize(
    ("widths", "options", "message"),
    [
        ({"5*": 3}, {}, r"widths name '5\*', which matches no group"),
        (0, {}, "width 0 for"),
        (-0.5, {}, "width -0.5 for"),
        (True, {}, "width True for"),
        (float("nan"), {}, "width nan for"),
        (1.5, {"multiple_of": 0}, "multiple_of=0; give a whole number"),
        (1.5, {"shares": "odd"}, "shares='odd'; give one of"),
    ],
)
def test_bad_widths_are_refused(
    plastic: fxplastic.PlasticModule, widths: Any, options: dict[str, Any], message: str
) -> None:
    before = bits(plastic)
    with pytest.raises(PlanError, match=message):
        fxplastic.plan_widths(plastic, widths, **options)
    assert bits(plastic) == before


# --- ties -------------------------------------------------------------------------------------


def test_halves_of_a_shuffle_are_tied_and_change_together() -> None:
    plastic = case("shuffled_unit")
    tied = {name: group.coupled for name, group in plastic.groups.items() if group.coupled}
    assert tied
    name, others = next(iter(tied.items()))
    assert all(name in plastic.groups[other].coupled for other in others)
    group: ChannelGroup = plastic.groups[name]
    take = [*range(group.size), 0]
    with pytest.raises(WidthError, match=r"new widths of '.*lie side by side|depends on the old"):
        fxplastic.rewrite(plastic, Plan.from_takes(plastic, {name: take}))
    plan = fxplastic.plan_widths(plastic, 2.0)
    assert {name, *others} <= plan.edits.keys()
    assert fxplastic.rewrite(plastic, plan).module.fingerprint == plan.target
    assert ties_between(plastic).equal


def test_a_group_whose_width_cannot_change_is_left_alone_with_the_reason() -> None:
    plastic = case("channels_by_index_buffer")
    plan = fxplastic.plan_widths(plastic, 2.0)
    assert not plan.edits
    assert any("i.weight:0 is left alone: " in n and "getitem" in n for n in plan.notes)


@pytest.mark.parametrize("approximate", [False, True])
def test_options_of_the_search_hold_for_the_result(approximate: bool) -> None:
    model = prepare(
        nn.Sequential(
            nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 10), nn.ReLU(), nn.Linear(10, 12),
            nn.ReLU(), nn.Linear(12, 3),
        )
    )  # fmt: skip
    x = torch.randn(4, 6, dtype=torch.float64)
    plastic = fxplastic.plasticize(model, x, freeze=["4.*"], approximate=approximate)
    plan = fxplastic.plan_widths(plastic, 1.5)
    module = fxplastic.rewrite(plastic, plan).module
    assert options_of(module) == options_of(plastic)
    assert {n: (g.size, g.exact) for n, g in module.groups.items()} == {
        n: (g.size * 3 // 2, g.exact) for n, g in plastic.groups.items()
    }
    assert ("0.weight:0" in module.groups) == approximate
    assert module(x).shape == (4, 3)
    assert any("you asked for it" in record.reason for record in module.frozen)


def test_a_group_that_verification_refuted_stays_away() -> None:
    full = fxplastic.plasticize(network(), IMAGES)
    record = fxplastic.FrozenAxis(NARROW[:-2], 0, "refuted", "", "", 6)
    kept = {name: group for name, group in full.groups.items() if name != NARROW}
    plastic = with_layout(full, full.traced, kept, (*full.frozen, record))
    module = fxplastic.rewrite(plastic, fxplastic.plan_widths(plastic, 1.5)).module
    assert module.groups.keys() == {WIDE}
    assert record in module.frozen


# --- what is foretold -------------------------------------------------------------------------


@pytest.mark.parametrize("widths", [1.5, 0.5, {WIDE: 8, NARROW: 12}])
def test_a_forecast_is_what_comes_out(plastic: fxplastic.PlasticModule, widths: Any) -> None:
    plan = fxplastic.plan_widths(plastic, widths)
    foretold = fxplastic.forecast(plastic, plan)
    module = fxplastic.rewrite(plastic, plan).module
    assert foretold.parameters == tuple(
        sum(p.numel() for p in m.parameters()) for m in (plastic, module)
    )
    counted = []
    for m in (plastic, module):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            m(IMAGES)
        counted.append(counter.get_total_flops() // 2)
    assert foretold.macs == tuple(counted)
    assert {n: after for n, (_, after) in foretold.widths.items()} == sizes(plan)
    assert f"{WIDE}: 16 -> " in str(foretold)


def test_a_turnover_changes_no_figure(plastic: fxplastic.PlasticModule) -> None:
    foretold = fxplastic.forecast(plastic, Plan.random(plastic, turnover=0.5))
    assert foretold.parameters[0] == foretold.parameters[1]
    assert foretold.macs[0] == foretold.macs[1] > 0
    assert not foretold.widths


# --- plans ------------------------------------------------------------------------------------


def test_the_inverse_of_a_permutation_undoes_it(plastic: fxplastic.PlasticModule) -> None:
    plan = permutation(plastic, seed=3)
    assert plan.then(plan.inverse()) == plan.inverse().then(plan) == Plan.from_takes(plastic, {})
    turned = fxplastic.rewrite(plastic, plan).module
    back = fxplastic.rewrite(turned, plan.inverse()).module
    assert bits(back) == bits(plastic) != bits(turned)
    with pytest.raises(PlanError, match="is not only permuted: .*only a plan that permutes"):
        Plan.random(plastic, turnover=0.5).inverse()


def test_a_plan_with_a_forged_target_is_refused(plastic: fxplastic.PlasticModule) -> None:
    plan = fxplastic.plan_widths(plastic, 1.5)
    forged = Plan.from_json(plan.to_json().replace(plan.target, "0" * 64))
    before = bits(plastic)
    with pytest.raises(PlanError, match="says that it leaves groups 0{12}, and it leaves"):
        fxplastic.rewrite(plastic, forged)
    assert bits(plastic) == before


# --- what follows -----------------------------------------------------------------------------


def trained(module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    module.train()(IMAGES).square().mean().backward()
    optimizer.step()


@pytest.mark.parametrize("kind", ["timm", "torch", "torch on the plain model"])
@pytest.mark.parametrize("change", [{"grow": 0.5}, {"turnover": 0.5}])
def test_averages_are_rewritten_alike(kind: str, change: dict[str, float]) -> None:
    model = network()
    plastic = fxplastic.plasticize(model, IMAGES)
    optimizer = torch.optim.AdamW(plastic.parameters())
    average: Any = (
        ModelEmaV3(plastic, decay=0.5)
        if kind == "timm"
        else AveragedModel(model if "plain" in kind else plastic, use_buffers=True)
    )
    trained(plastic, optimizer)
    if kind == "timm":
        average.update(plastic)
    else:
        average.update_parameters(model if "plain" in kind else plastic)
    trained(plastic, optimizer)
    held, old = copy.deepcopy(average), average.module
    before = bits(average.module)
    result = fxplastic.rewrite(plastic, Plan.random(plastic, shares="signed", **change), optimizer)
    result.rebind(average)
    assert bits(old) == before
    assert {n: t.shape for n, t in average.module.state_dict().items()} == {
        n: t.shape for n, t in result.module.state_dict().items()
    }
    if "grow" in change:
        for mode in MODES:
            error = distance(
                outputs(average.module, (IMAGES,), mode), outputs(held.module, (IMAGES,), mode)
            )
            assert error <= TOLERANCE
    if kind == "timm":
        average.update(result.module)
    elif "plain" not in kind:
        average.update_parameters(result.module)


def test_what_cannot_follow_is_refused_and_nothing_is_bound(
    plastic: fxplastic.PlasticModule,
) -> None:
    optimizer = torch.optim.SGD(plastic.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    result = fxplastic.rewrite(plastic, fxplastic.plan_widths(plastic, 1.5), optimizer)
    for stranger, message in (
        (AveragedModel(result.module), "of the average has shape"),
        (AveragedModel(nn.Linear(2, 2)), "the average has no '0.weight'"),
        ("scheduler", "a str cannot be bound"),
        (nn.DataParallel(result.module), "holds the model itself and no average of it; wrap"),
    ):
        with pytest.raises(RewriteError, match=message):
            result.rebind(scheduler, stranger)
        assert scheduler.optimizer is optimizer


def test_a_gradient_scaler_knows_the_new_optimizer(plastic: fxplastic.PlasticModule) -> None:
    optimizer = torch.optim.SGD(plastic.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    scaler.scale(plastic.train()(IMAGES).square().mean()).backward()
    scaler.unscale_(optimizer)
    result = fxplastic.rewrite(plastic, fxplastic.plan_widths(plastic, 1.5), optimizer)
    result.rebind(scaler)
    assert result.optimizer is not None
    with pytest.raises(RuntimeError, match="already been called on this optimizer"):
        scaler.unscale_(result.optimizer)  # so gradients are not unscaled twice
    scaler.step(result.optimizer)
    scaler.update()


def test_gradients_and_memory_format_are_carried(plastic: fxplastic.PlasticModule) -> None:
    plastic.to(memory_format=torch.channels_last)
    plastic.train()(IMAGES).square().mean().backward()
    plan = fxplastic.plan_widths(plastic, 1.5, shares="signed")
    module = fxplastic.rewrite(plastic, plan).module
    carried = {n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}
    module.zero_grad()
    module.train()(IMAGES).square().mean().backward()
    for name, parameter in module.named_parameters():
        scale = float(parameter.grad.abs().max())
        assert float((carried[name] - parameter.grad).abs().max()) <= max(1e-9 * scale, 1e-14)
    weight: Tensor = module.get_submodule("3").weight
    assert weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("whose", ["plastic", "model"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_widths_change_in_another_dtype_than_traced(whose: str, dtype: torch.dtype) -> None:
    model = network()
    plastic = fxplastic.plasticize(model, IMAGES)
    fxplastic.forecast(plastic, fxplastic.plan_widths(plastic, 1.5))
    (plastic if whose == "plastic" else model).to(dtype)
    plan = fxplastic.plan_widths(plastic, 1.5)
    assert fxplastic.forecast(plastic, plan).macs[1] > 0
    module = fxplastic.rewrite(plastic, plan).module
    images, near = IMAGES.to(dtype), 1e-5 if dtype is torch.float32 else 0.1
    assert distance([module(images).detach()], [plastic(images).detach()]) <= near
    assert fxplastic.plasticize(module).fingerprint == plan.target
    assert all(p.dtype == dtype for p in module.parameters())


def test_a_model_on_meta_is_resized_without_values() -> None:
    plastic = fxplastic.plasticize(network().to("meta"), IMAGES)
    module = fxplastic.rewrite(plastic, fxplastic.plan_widths(plastic, 1.5)).module
    assert module.get_submodule("0").weight.shape == (24, 3, 3, 3)
    assert all(p.is_meta for p in module.parameters())


def test_a_hook_that_comes_later_is_seen(plastic: fxplastic.PlasticModule) -> None:
    plan = fxplastic.plan_widths(plastic, 1.5)
    assert fxplastic.rewrite(plastic, plan)
    plastic.get_submodule("2").register_forward_hook(lambda _, __, out: out / out.shape[1])
    with pytest.raises(WidthError, match="would work on other numbers"):
        fxplastic.rewrite(plastic, plan)


def test_what_is_no_plastic_module_has_no_forecast(plastic: fxplastic.PlasticModule) -> None:
    plan = fxplastic.plan_widths(plastic, 1.5)
    with pytest.raises(PlanError, match="pass what fxplastic.plasticize returns"):
        fxplastic.forecast(network(), plan)
    with pytest.raises(RewriteError, match="the average is a dict; give a module"):
        fxplastic.rewrite(plastic, plan).average({})  # type: ignore[arg-type]


# --- the label check --------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["constants_across_a_roll", "inputs_rolled_by_-9"])
def test_without_the_label_check_right_shapes_are_wrong(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = next(case for case in CASES if case.name == name)
    model, inputs = prepare(found.model()), found.inputs()
    plastic = fxplastic.plasticize(model, inputs)
    plan = Plan.random(plastic, grow=2.0, shares="signed", seed=3)
    with pytest.raises(WidthError, match="is not what it met before|in another order"):
        fxplastic.rewrite(plastic, plan)
    monkeypatch.setattr("fxplastic.widths.check_labels", lambda *_: None)
    module = fxplastic.rewrite(plastic, plan).module
    error = distance(outputs(module, inputs, "eval"), outputs(model, inputs, "eval"))
    assert error > 0.01, "nothing else sees it"
