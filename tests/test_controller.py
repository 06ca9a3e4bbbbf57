"""The training-loop controller: when it scores, what it turns over, and how it goes on."""

import copy
import io
import warnings
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

import fxplastic
from fxplastic import gradients
from fxplastic.controller import Plasticity
from fxplastic.errors import OptimizerError, PlanError, ScoreError
from fxplastic.planner import plan_turnover
from fxplastic.policy import Policy
from fxplastic.rewrite import rewrite_
from fxplastic.schedule import Adaptive, Schedule
from fxplastic.scores import GradientScores
from fxplastic.turnover import Turnover
from tests.hand_made import MODELS, Branches, ConvNet, HandMade, build, images

LEFT = "left.weight:0"


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=1e-2)


def epoch(model: nn.Module, optimizer: torch.optim.Optimizer, plasticity: Plasticity, seed: int):
    """Three steps on data that depends on `seed`, then the epoch's end."""
    for batch in range(3):
        optimizer.zero_grad()
        x = images(type(model), 10 * seed + batch)
        model(x).square().mean().backward()
        plasticity.after_backward()
        optimizer.step()
    return plasticity.end_epoch()


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("policy", ["exact", "paper"])
def test_a_turnover_is_what_scores_plan_and_rewrite_make_by_hand(
    kind: type[HandMade], policy: str
) -> None:
    model = build(kind)
    optimizer = optimizer_of(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of the paper's policy without a BatchNorm
        plasticity = Plasticity(
            model, optimizer, schedule=Schedule(every=2), policy=policy, ratio=0.34, seed=5
        )
    by_hand = copy.deepcopy(model)
    own = optimizer_of(by_hand)
    assert epoch(model, optimizer, plasticity, 1) is None
    made = epoch(model, optimizer, plasticity, 2)

    scores = GradientScores(by_hand)
    for seed in (1, 2):
        for batch in range(3):
            own.zero_grad()
            by_hand(images(kind, 10 * seed + batch)).square().mean().backward()
            if seed == 2:  # the epoch before the turnover alone
                scores.update()
            own.step()
    chosen = Policy.of(policy)
    plan = plan_turnover(by_hand, scores, 0.34, shares=chosen.split)
    assert made is not None
    assert made.plan == plan
    rewrite_(by_hand, plan, own, policy=chosen, seed=made.seed)
    for (name, one), other in zip(
        model.state_dict().items(), by_hand.state_dict().values(), strict=True
    ):
        assert torch.equal(one, other), name
    for one, other in zip(optimizer.state.values(), own.state.values(), strict=True):
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_epochs_that_no_turnover_looks_at_are_not_scored() -> None:
    model = build(Branches)
    optimizer = optimizer_of(model)
    plasticity = Plasticity(model, optimizer, schedule=Schedule(every=3, last=6))
    seen = []
    for _ in range(8):
        model(images(Branches)).sum().backward()
        plasticity.after_backward()
        seen.append(plasticity.scores.updates)
        plasticity.end_epoch()
    assert seen == [0, 0, 1, 0, 0, 1, 0, 0]
    assert [turnover.epoch for turnover in plasticity.history] == [3, 6]


def test_a_window_adds_epochs_up() -> None:
    model = build(Branches)
    plasticity = Plasticity(model, optimizer_of(model), schedule=Schedule(every=3, window=2))
    seen = []
    for _ in range(6):
        model(images(Branches)).sum().backward()
        plasticity.after_backward()
        seen.append(plasticity.scores.updates)
        plasticity.end_epoch()
    assert seen == [0, 1, 2, 0, 1, 2]


def test_scores_by_a_loss_of_its_own_on_every_kth_batch() -> None:
    model = build(Branches)
    optimizer = optimizer_of(model)
    plasticity = Plasticity(model, optimizer, schedule=Schedule(every=1), score_every=2)
    weighted = GradientScores(build(Branches))
    other = build(Branches)
    expected = GradientScores(other)
    for batch in range(3):
        outputs = model(images(Branches, batch))
        optimizer.zero_grad()
        plasticity.before_backward(outputs.pow(4).sum())
        assert model.left.weight.grad is None
        outputs.sum().backward()
        plain = model.left.weight.grad.clone()
        model.zero_grad()
        model(images(Branches, batch)).sum().backward()
        assert torch.equal(plain, model.left.weight.grad)
        if batch % 2 == 0:
            other.zero_grad()
            other(images(Branches, batch)).pow(4).sum().backward()
            expected.update()
    assert plasticity.scores.updates == 2
    assert weighted.updates == 0
    for name, row in plasticity.scores.values().items():
        torch.testing.assert_close(row, expected.values()[name], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("loss", [torch.ones(2, requires_grad=True), torch.ones(()), 3.0])
def test_a_loss_without_a_graph_cannot_score(loss: Any) -> None:
    with pytest.raises(ScoreError, match="takes a scalar loss before its backward"):
        GradientScores(build(Branches)).update_from(loss)


def test_listeners_hear_of_each_turnover_after_it_was_made() -> None:
    model = build(Branches)
    optimizer = optimizer_of(model)
    plasticity = Plasticity(model, optimizer, schedule=Schedule(every=1))
    heard: list[tuple[Turnover, Tensor]] = []

    @plasticity.on
    def _(turnover: Turnover) -> None:
        heard.append((turnover, model.left.weight.detach().clone()))

    before = build(Branches)
    made = epoch(model, optimizer, plasticity, 1)
    assert heard[0][0] is made
    assert torch.equal(heard[0][1], model.left.weight)
    assert not torch.equal(heard[0][1], before.left.weight)
    assert "neurons of 2 groups turned over" in str(made)
    assert made.neurons == sum(len(e.pruned) for e in made.plan.edits.values())


def test_scores_may_be_adjusted_before_they_are_ranked() -> None:
    def upside_down(scores: Any) -> dict[str, Tensor]:
        return {name: -row for name, row in scores.items()}

    plans = []
    for adjust in (None, upside_down):
        model = build(Branches)
        optimizer = optimizer_of(model)
        plasticity = Plasticity(model, optimizer, schedule=Schedule(every=1), adjust=adjust)
        plans.append(epoch(model, optimizer, plasticity, 1).plan.edits[LEFT])
    assert plans[0].pruned != plans[1].pruned
    (slot,) = plans[1].pruned
    assert plans[1].take[slot] == plans[0].pruned[0]


def test_random_scores_differ_from_turnover_to_turnover_and_repeat_with_the_seed() -> None:
    def takes(seed: int) -> list[tuple[int, ...]]:
        model = build(ConvNet)
        optimizer = optimizer_of(model)
        plasticity = Plasticity(
            model, optimizer, schedule=Schedule(every=1), criterion="random", ratio=0.5, seed=seed
        )
        return [
            epoch(model, optimizer, plasticity, k).plan.edits["conv2.weight:0"].take
            for k in range(4)
        ]

    assert takes(0) == takes(0)
    assert takes(0) != takes(1)
    assert len(set(takes(0))) > 1


# ---------------------------------------------------------------- what must stay the same
def test_a_real_model_keeps_its_shape_keys_scheduler_and_optimizer() -> None:
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", num_classes=5)
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 4)
    plastic = fxplastic.plasticize(model, torch.zeros(2, 3, 64, 64))
    plasticity = Plasticity(plastic, optimizer, schedule=Schedule(every=1), epochs=2)
    addresses = [p.data_ptr() for p in model.parameters()]
    for _ in range(2):
        x = torch.randn(4, 3, 64, 64)
        nn.functional.cross_entropy(model(x), torch.arange(4)).backward()
        plasticity.after_backward()
        optimizer.step()
        rate.step()
        assert plasticity.end_epoch() is not None
    assert {name: value.shape for name, value in model.state_dict().items()} == shapes
    assert [p.data_ptr() for p in model.parameters()] == addresses
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.05)
    timm.create_model("test_resnet", num_classes=5).load_state_dict(model.state_dict())


@pytest.mark.parametrize("wrap", [AveragedModel, timm.utils.ModelEmaV3, copy.deepcopy])
def test_averages_of_the_weights_follow(wrap: Any) -> None:
    model = build(ConvNet)
    ema = wrap(model)
    optimizer = optimizer_of(model)
    plasticity = Plasticity(model, optimizer, schedule=Schedule(every=1), ema=ema, ratio=0.5)
    made = epoch(model, optimizer, plasticity, 1)
    expected = build(ConvNet)  # the average is still what it was at first
    rewrite_(expected, made.plan, policy=made.policy, seed=made.seed)
    inside = getattr(ema, "module", ema)
    for name, value in expected.state_dict().items():
        assert torch.equal(value, inside.state_dict()[name]), name
    assert not torch.equal(inside.conv1.weight, build(ConvNet).conv1.weight)


def test_averages_of_another_model_are_refused() -> None:
    model = build(ConvNet)
    with pytest.raises(PlanError, match=r"the average has parameter 'conv1.weight' in shape None"):
        Plasticity(model, optimizer_of(model), ema=build(Branches))
    with pytest.raises(PlanError, match="ema is a str"):
        Plasticity(model, optimizer_of(model), ema=["x"])


# ---------------------------------------------------------------- going on after a stop
@pytest.mark.parametrize("criterion", ["magnitude", "net", "last", "taylor", "random"])
@pytest.mark.parametrize("when", [Schedule(every=2, window=2), Adaptive(stability=0.5, apart=1)])
def test_a_run_goes_on_bit_for_bit_in_the_middle_of_an_epoch(criterion: Any, when: Any) -> None:
    def make() -> tuple[nn.Module, torch.optim.Optimizer, Plasticity]:
        model = build(ConvNet)
        optimizer = optimizer_of(model)
        controller = Plasticity(model, optimizer, schedule=when, criterion=criterion, ratio=0.5)
        return model, optimizer, controller

    def steps(run: tuple, first: int, last: int) -> None:
        model, optimizer, plasticity = run
        for number in range(first, last):
            optimizer.zero_grad()
            model(images(ConvNet, number)).square().mean().backward()
            plasticity.after_backward()
            optimizer.step()
            if number % 3 == 2:
                plasticity.end_epoch()

    whole = make()
    steps(whole, 0, 17)
    stopped = make()
    steps(stopped, 0, 7)
    file = io.BytesIO()
    torch.save([part.state_dict() for part in stopped], file)
    file.seek(0)
    resumed = make()
    for part, state in zip(resumed, torch.load(file, weights_only=True), strict=True):
        part.load_state_dict(state)
    assert resumed[2].history == stopped[2].history
    steps(resumed, 7, 17)
    assert len(whole[2].history) >= (1 if criterion == "random" else 2)
    for one, other in zip(
        whole[0].state_dict().values(), resumed[0].state_dict().values(), strict=True
    ):
        assert torch.equal(one, other)
    assert [t.plan for t in whole[2].history] == [t.plan for t in resumed[2].history]


def test_the_state_of_another_model_or_version_is_refused() -> None:
    model, other = build(ConvNet), build(Branches)
    mine, theirs = Plasticity(model, optimizer_of(model)), Plasticity(other, optimizer_of(other))
    with pytest.raises(PlanError, match="load it for the model that it was taken from"):
        mine.load_state_dict(theirs.state_dict())
    with pytest.raises(PlanError, match="version 99"):
        mine.load_state_dict(mine.state_dict() | {"version": 99})
    net = Plasticity(model, optimizer_of(model), criterion="net")
    with pytest.raises(ScoreError, match="the state has scores by 'net'"):
        mine.load_state_dict(net.state_dict())
    assert mine.epoch == 1


# ---------------------------------------------------------------- bad input
def refused() -> list[tuple[dict[str, Any], str]]:
    return [
        ({"ratio": 0.6}, r"ratio=0.6; give a number above 0 and at most 0.5"),
        ({"ratio": 0.0}, r"ratio=0.0"),
        ({"ratio": float("nan")}, r"ratio=nan"),
        ({"scope": "layer"}, r"scope='layer'; give one of 'group', 'network'"),
        ({"policy": "exactly"}, r"policy='exactly'"),
        ({"schedule": Schedule(every=30), "epochs": 29}, r"first turnover is due after epoch 30"),
        ({"schedule": Adaptive(first=9), "epochs": 8}, r"due after epoch 9, and the run ends"),
        ({"protect": ["*"]}, r"no group would ever turn over: .*it is protected"),
        ({"protect": ["rigth*"]}, r"protect names 'rigth\*', which matches no group"),
        ({"overrides": {"left*": 0.7}}, r"overrides\['left\*'\]=0.7"),
        ({"ratio": 0.1}, r"no group would ever turn over: .*less than one neuron"),
        ({"min_width": 9}, r"narrower than 9"),
        ({"score_every": 0}, r"score_every=0"),
        ({"score_every": True}, r"score_every=True"),
        ({"min_width": None}, r"min_width=None; give a whole number"),
        ({"seed": None}, r"seed=None; give a whole number"),
        ({"schedule": 5}, r"schedule=5; give a fxplastic.Schedule"),
        ({"schedule": "adaptive"}, r"schedule='adaptive'; give"),
        ({"epochs": "x"}, r"epochs='x'; give a whole number"),
        ({"policy": []}, r"policy=\[\]; give one of 'exact', 'paper'"),
        ({"overrides": "abc"}, r"overrides='abc'; give a mapping"),
        ({"adjust": 5}, r"adjust=5; give a function"),
        ({"ema": 5}, r"ema is a int"),
    ]


@pytest.mark.parametrize(("options", "message"), refused())
def test_bad_input_is_refused_before_training(options: dict[str, Any], message: str) -> None:
    model = build(Branches)
    with pytest.raises(PlanError, match=message):
        Plasticity(model, optimizer_of(model), **options)


def test_a_model_whose_every_group_is_frozen_is_refused() -> None:
    model = nn.Sequential(nn.Linear(4, 3))
    plastic = fxplastic.plasticize(model, torch.zeros(2, 4))
    with pytest.raises(PlanError, match=r"no channel group.*plastic.frozen says where and why"):
        Plasticity(plastic, torch.optim.SGD(model.parameters(), lr=0.1))


def test_an_optimizer_of_another_model_is_refused() -> None:
    with pytest.raises(OptimizerError, match="shares no parameter with the model"):
        Plasticity(build(Branches), optimizer_of(build(Branches)))


def test_an_epoch_without_a_finite_gradient_is_an_error_and_changes_nothing() -> None:
    model = build(Branches)
    optimizer = optimizer_of(model)
    plasticity = Plasticity(model, optimizer, schedule=Schedule(every=1))
    before = copy.deepcopy(model.state_dict())
    (model(images(Branches)).sum() * float("inf")).backward()
    plasticity.after_backward()
    with pytest.raises(ScoreError, match="not finite"):
        plasticity.end_epoch()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert plasticity.history == ()
    with pytest.raises(ScoreError, match=r"call update\(\) after backward\(\)"):
        plasticity.end_epoch()  # a whole epoch without a batch


def test_a_failing_average_leaves_the_model_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(ConvNet)
    ema = copy.deepcopy(model)
    plasticity = Plasticity(model, optimizer_of(model), schedule=Schedule(every=1), ema=ema)
    model(images(ConvNet)).sum().backward()
    plasticity.after_backward()
    before = copy.deepcopy(model.state_dict())
    ema.fc.weight = nn.Parameter(torch.zeros(5, 3, dtype=torch.float64))
    with pytest.raises(fxplastic.RewriteError, match=r"does not fit 'fc.weight'"):
        plasticity.end_epoch()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


# ---------------------------------------------------------------- what has no gradient
def test_groups_that_no_gradient_reaches_are_left_alone_by_name() -> None:
    model = build(Branches)
    model.right.requires_grad_(False)
    optimizer = optimizer_of(model)
    made = epoch(model, optimizer, Plasticity(model, optimizer, schedule=Schedule(every=1)), 1)
    assert list(made.plan.edits) == [LEFT]
    assert any("right.weight:0 is left alone: all its scores are 0" in n for n in made.plan.notes)


def test_scoring_after_zero_grad_is_an_error() -> None:
    model = build(Branches)
    plasticity = Plasticity(model, optimizer_of(model), schedule=Schedule(every=1))
    before = copy.deepcopy(model.state_dict())
    model(images(Branches)).sum().backward()
    for parameter in model.parameters():
        parameter.grad.zero_()
    plasticity.after_backward()
    with pytest.raises(ScoreError, match="no gradient was there when it was scored"):
        plasticity.end_epoch()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_a_model_that_is_frozen_throughout_cannot_score_by_a_loss() -> None:
    model = build(Branches)
    for part in (model.left, model.right):
        part.requires_grad_(False)
    loss = model(images(Branches)).sum()
    with pytest.raises(ScoreError, match="none of the parameters that are scored requires"):
        GradientScores(model).update_from(loss)


def test_a_loss_of_ones_own_is_not_scored_where_processes_train_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gradients, "one_of_many", lambda: True)
    with pytest.raises(ScoreError, match="the gradients of this process alone"):
        GradientScores(build(Branches)).update_from(build(Branches)(images(Branches)).sum())


# ---------------------------------------------------------------- turn by turn
def test_every_epoch_scores_its_first_batch_by_a_loss_of_its_own() -> None:
    model = build(Branches)
    plasticity = Plasticity(model, optimizer_of(model), schedule=Schedule(every=1), score_every=4)
    for number in range(3):
        for batch in range(2):
            plasticity.before_backward(model(images(Branches, batch)).square().sum())
        assert plasticity.scores.updates == 1
        assert plasticity.end_epoch().epoch == number + 1


def test_a_count_of_batches_goes_on_where_it_was_stored() -> None:
    runs = []
    for _ in range(2):
        model = build(Branches)
        runs.append(
            (model, Plasticity(model, optimizer_of(model), schedule=Schedule(9), score_every=2))
        )
        runs[-1][1]._watching = True
    for model, plasticity in runs[:1]:
        plasticity.before_backward(model(images(Branches)).sum())
    state = runs[0][1].state_dict()
    runs[1][1].load_state_dict(state)
    assert runs[1][1].state_dict()["calls"] == 1


def test_each_turnover_draws_noise_of_its_own() -> None:
    model = build(ConvNet)
    optimizer = optimizer_of(model)
    plasticity = Plasticity(model, optimizer, schedule=Schedule(every=1), policy="paper", ratio=0.5)
    seeds = [epoch(model, optimizer, plasticity, 1).seed for _ in range(3)]
    assert len(set(seeds)) == 3


def test_an_adaptive_schedule_ends_quietly_after_its_last_turnover() -> None:
    model = build(Branches)
    optimizer = optimizer_of(model)
    when = Adaptive(stability=-1.0, apart=1, first=1, last=3)
    plasticity = Plasticity(model, optimizer, schedule=when)
    made = [epoch(model, optimizer, plasticity, number) for number in range(6)]
    assert [turnover is not None for turnover in made] == [False, True, False, False, False, False]
    assert plasticity.epoch == 7


def test_a_policy_that_parts_no_copy_warns() -> None:
    model = build(Branches)  # without a BatchNorm
    with pytest.warns(UserWarning, match="no copy will ever part from its original"):
        Plasticity(model, optimizer_of(model), policy="paper")
    with pytest.warns(UserWarning, match="no copy will ever part"):
        Plasticity(model, optimizer_of(model), policy=Policy(shares="even"))
    convolutions = build(ConvNet)
    Plasticity(convolutions, optimizer_of(convolutions), policy="paper", ratio=0.5)


def test_what_an_optimizer_cannot_forget_is_refused_before_training() -> None:
    model = build(Branches).float()
    optimizer = torch.optim.Adafactor(model.parameters())
    for policy in (Policy(carry="zero"), Policy(fill="fresh")):
        with pytest.raises(OptimizerError, match=r"keeps means over axes \(row_var, col_var\)"):
            Plasticity(model, optimizer, policy=policy)
    Plasticity(model, optimizer)


# ---------------------------------------------------------------- states
def test_a_stored_state_is_not_changed_by_what_comes_after() -> None:
    model = build(Branches)
    optimizer = optimizer_of(model)
    plasticity = Plasticity(model, optimizer, schedule=Schedule(every=1), criterion="net")
    model(images(Branches)).sum().backward()
    plasticity.after_backward()
    state = plasticity.state_dict()
    before = copy.deepcopy(state["scores"]["nets"])
    plasticity.load_state_dict(state)
    plasticity.after_backward()
    assert all(torch.equal(net, before[n]) for n, net in state["scores"]["nets"].items())


def test_states_that_are_malformed_are_refused_by_name() -> None:
    model = build(Branches)
    optimizer = optimizer_of(model)
    plasticity = Plasticity(model, optimizer, schedule=Schedule(every=1), criterion="net")
    with pytest.raises(PlanError, match="lacks 'fingerprint'"):
        plasticity.load_state_dict({"version": 1})
    state = plasticity.state_dict()
    nets = {"left.weight": torch.zeros(2, 2)}
    with pytest.raises(ScoreError, match=r"gradients of 'left.weight' in shape \(2, 2\)"):
        plasticity.load_state_dict(state | {"scores": state["scores"] | {"nets": nets}})
    epoch(model, optimizer, plasticity, 1)
    entry = plasticity.state_dict()["history"][0]
    with pytest.raises(PlanError, match="a stored turnover cannot be read"):
        plasticity.load_state_dict(state | {"history": [entry | {"policy": {"colour": 1}}]})
    assert len(plasticity.history) == 1


def test_an_average_of_other_widths_is_refused() -> None:
    model, wide = build(Branches), build(Branches)
    wide.left.weight = nn.Parameter(torch.zeros(7, 4, dtype=torch.float64))
    with pytest.raises(PlanError, match=r"'left.weight' in shape \(7, 4\), the model in \(6, 4\)"):
        Plasticity(model, optimizer_of(model), ema=wide)
