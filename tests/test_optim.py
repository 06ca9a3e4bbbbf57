"""Optimizer state follows the law: it is what the rewritten model would have gathered itself."""

import copy
from collections.abc import Callable, Iterable

import pytest
import torch
from torch import Tensor, nn
from torch.optim import LBFGS, SGD, Adam, AdamW, Optimizer

from fxplastic.errors import OptimizerError
from fxplastic.plan import Plan
from fxplastic.rewrite import rewrite, rewrite_
from fxplastic.state_laws import STATE_LAWS
from tests.hand_made import (
    MODELS,
    Branches,
    ConvNet,
    HandMade,
    Tied,
    bits,
    build,
    images,
    train_step,
)

TOLERANCE = 1e-10

Maker = Callable[[Iterable[Tensor]], Optimizer]
OPTIMIZERS: dict[str, Maker] = {
    "sgd": lambda p: SGD(p, lr=0.05, momentum=0.9),
    "dampened": lambda p: SGD(p, lr=0.05, momentum=0.9, dampening=0.3),
    "nesterov": lambda p: SGD(p, lr=0.05, momentum=0.9, nesterov=True),
    "adam": lambda p: Adam(p, lr=0.01),
    "amsgrad": lambda p: Adam(p, lr=0.01, amsgrad=True),
    "adamw": lambda p: AdamW(p, lr=0.01, weight_decay=0.1),
    "adamw-amsgrad": lambda p: AdamW(p, lr=0.01, weight_decay=0.1, amsgrad=True),
}
STEPS = 4


def kill_(model: HandMade, plan: Plan) -> None:
    """Let the neurons that `plan` prunes be dead from the start: no signal in, no gradient.

    With zero parameters a unit's output is 0, and so is the slope of ReLU there: its consumers
    never see anything, its producers never hear anything, and it stays so.
    """
    named = dict(model.named_parameters(remove_duplicate=False))
    with torch.no_grad():
        for name, edit in plan.edits.items():
            for site in model.groups[name].producers:
                if site.parameter in named:
                    tensor = named[site.parameter].movedim(site.axis, 0)
                    for neuron in edit.pruned:
                        if site.rows is None:
                            tensor[site.positions[neuron]] = 0
                        else:
                            tensor[site.positions[neuron][:, None], site.rows[neuron]] = 0


class Relu(Tied):
    """The tied model with no unit that can come back to life."""

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.shared(torch.relu(self.first(x))))
        return self.fc(torch.relu(self.again(x)))


KINDS = [Relu if kind is Tied else kind for kind in MODELS]


def data(kind: type[HandMade], step: int) -> Tensor:
    return images(Tied if kind is Relu else kind, seed=10 + step)


def preserving_plan(model: HandMade) -> Plan:
    """A turnover whose pruned neurons are dead, then a permutation of every block."""
    turned = Plan.random(model, turnover=0.4, seed=3, shares="signed")
    kill_(model, turned)
    rolled = {}
    for name, g in model.groups.items():
        starts = range(0, g.size, g.block_size)
        rolled[name] = [s + (i + 1) % g.block_size for s in starts for i in range(g.block_size)]
    return turned.then(Plan.from_takes(model, rolled))


def recomputed(history: list[HandMade], plan: Plan, make: Maker, kind: type[HandMade]) -> Optimizer:
    """State that gathers when every weight snapshot is rewritten and runs its own backward."""
    model = rewrite(history[0], plan).module
    optimizer = make(model.parameters())
    for step, snapshot in enumerate(history):
        model.load_state_dict(rewrite(snapshot, plan).module.state_dict())
        train_step(model, optimizer, data(kind, step))
    return optimizer


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("kind", KINDS)
def test_carried_state_is_what_rewritten_snapshots_would_have_gathered(
    kind: type[HandMade], name: str
) -> None:
    make = OPTIMIZERS[name]
    model = build(kind)
    plan = preserving_plan(model)
    optimizer = make(model.parameters())
    history = []
    for step in range(STEPS):
        history.append(copy.deepcopy(model))
        train_step(model, optimizer, data(kind, step))
    expected = recomputed(history, plan, make, kind)
    with torch.no_grad():
        before = model(data(kind, 99))
    rewrite_(model, plan, optimizer)
    with torch.no_grad():
        assert (model(data(kind, 99)) - before).abs().max() < TOLERANCE  # the plan preserves
    compare(optimizer, expected, model)


def compare(carried: Optimizer, expected: Optimizer, model: nn.Module) -> None:
    """Every state tensor and gradient of two optimizers agree."""
    sizes = []
    pairs = zip(carried.param_groups[0]["params"], expected.param_groups[0]["params"], strict=True)
    for mine, other in pairs:
        torch.testing.assert_close(mine.grad, other.grad, rtol=TOLERANCE, atol=TOLERANCE)
        assert carried.state[mine].keys() == expected.state[other].keys()
        for key, value in carried.state[mine].items():
            wanted = expected.state[other][key]
            torch.testing.assert_close(value, wanted, rtol=TOLERANCE, atol=TOLERANCE)
            sizes.append(float(value.abs().max()))
    assert len(sizes) >= len(list(model.parameters()))
    assert min(sizes) > 1e-8  # nothing was compared that is zero on both sides


@pytest.mark.parametrize("degree", [0, 2, None])
def test_the_law_holds_for_no_other_degree(
    degree: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(STATE_LAWS, SGD, {"momentum_buffer": degree})
    with pytest.raises(AssertionError):
        test_carried_state_is_what_rewritten_snapshots_would_have_gathered(ConvNet, "sgd")


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_twin_optimizer_steps_like_the_one_in_place(name: str) -> None:
    model = build(ConvNet)
    make = OPTIMIZERS[name]
    parameters = list(model.parameters())
    optimizer = make([{"params": parameters[:3], "lr": 0.2, "tag": "first"},
                      {"params": parameters[3:]}])  # fmt: skip
    optimizer.param_groups[1]["initial_lr"] = 0.7
    calls: list[str] = []
    optimizer.register_step_pre_hook(lambda *_: calls.append("pre"))
    optimizer.register_step_post_hook(lambda *_: calls.append("post"))
    train_step(model, optimizer, images(ConvNet))
    plan = Plan.random(model, turnover=0.5)
    result = rewrite(model, plan, optimizer)
    rewrite_(model, plan, optimizer)
    assert type(result.optimizer) is type(optimizer)
    assert result.optimizer.defaults == optimizer.defaults
    for mine, other in zip(optimizer.param_groups, result.optimizer.param_groups, strict=True):
        assert {k: v for k, v in mine.items() if k != "params"} == {
            k: v for k, v in other.items() if k != "params"
        }
    assert bits(model, optimizer) == bits(result.module, result.optimizer)
    for m, o in ((model, optimizer), (result.module, result.optimizer)):
        calls.clear()
        train_step(m, o, images(ConvNet, 5))
        assert calls == ["pre", "post"]
    assert bits(model, optimizer) == bits(result.module, result.optimizer)


def test_a_tensor_learning_rate_is_not_shared_with_the_twin() -> None:
    model = build(Branches)
    optimizer = Adam(model.named_parameters(), lr=torch.tensor(0.1), foreach=False)
    train_step(model, optimizer, images(Branches))
    twin = rewrite(model, Plan.random(model, turnover=0.5), optimizer).optimizer
    twin.param_groups[0]["lr"].fill_(0.5)
    assert optimizer.param_groups[0]["lr"] == torch.tensor(0.1)
    assert twin.param_groups[0]["param_names"] == [name for name, _ in model.named_parameters()]


def test_parameters_without_state_or_outside_either_are_left_alone() -> None:
    model = build(Branches)
    model.left.weight.requires_grad_(False)
    temperature = nn.Parameter(torch.ones(3, dtype=torch.float64))
    optimizer = SGD([model.left.weight, model.right.weight, temperature], lr=0.1, momentum=0.9)
    temperature.grad = torch.ones_like(temperature)
    train_step(model, optimizer, images(Branches))
    plan = Plan.random(model, turnover=0.5)
    twin = rewrite(model, plan, optimizer).optimizer
    rewrite_(model, plan, optimizer)
    assert len(optimizer.state) == len(twin.state)
    assert model.left.weight not in optimizer.state
    assert twin.param_groups[0]["params"][2] is temperature


def test_an_optimizer_that_never_stepped_is_carried_too() -> None:
    model = build(Branches)
    optimizer = SGD(model.parameters(), lr=0.1)
    train_step(model, optimizer, images(Branches))
    rewrite_(model, Plan.random(model, turnover=0.5), optimizer)
    rewrite_(model, Plan.random(model, turnover=0.5), Adam(model.parameters()))
    assert not any(value is not None for s in optimizer.state.values() for value in s.values())


class MySGD(SGD):
    """Not known, though it overrides nothing."""


def refusals(model: HandMade) -> dict[str, tuple[object, str]]:
    """Optimizers that cannot be carried over, and what the error says."""
    strange, misfit = (SGD(model.parameters(), lr=0.1, momentum=0.9) for _ in range(2))
    for optimizer in (strange, misfit):
        train_step(model, optimizer, images(Branches))
    strange.state[model.left.weight]["shadow"] = torch.zeros(6, 4)
    misfit.state[model.left.weight]["momentum_buffer"] = torch.zeros(4, 6)
    return {
        "stranger": (SGD(build(Branches).parameters(), lr=0.1), "shares no parameter with the"),
        "subclass": (MySGD(model.parameters(), lr=0.1), r"MySGD .*add a row to .*STATE_LAWS"),
        "refused": (LBFGS(model.parameters()), r"torch.LBFGS cannot follow .*vectors over all"),
        "key": (
            strange,
            r"SGD state 'shadow' of 'left.weight' is not known .*STATE_LAWS\['torch.SGD'\]",
        ),
        "shape": (misfit, r"SGD state 'momentum_buffer' of 'left.weight' is \(4, 6\)"),
        "type": ("adam", r"optimizer is a str, not a torch.optim.Optimizer"),
    }


@pytest.mark.parametrize("case", ["stranger", "subclass", "refused", "key", "shape", "type"])
@pytest.mark.parametrize("call", [rewrite, rewrite_])
def test_what_cannot_be_carried_is_refused_before_anything_changes(case: str, call) -> None:
    model = build(Branches)
    optimizer, message = refusals(model)[case]
    real = optimizer if isinstance(optimizer, Optimizer) else None
    before = bits(model, real)
    with pytest.raises(OptimizerError, match=message):
        call(model, Plan.random(model, turnover=0.5), optimizer)
    assert bits(model, real) == before
