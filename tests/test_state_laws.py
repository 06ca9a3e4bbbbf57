"""The table of optimizers: every key of every class follows as its law says, measured."""

import types

import pytest
import timm.optim
import torch
from timm.optim import Lookahead
from torch import Tensor, nn
from torch.optim import ASGD, LBFGS, SGD, Optimizer, SparseAdam

import fxplastic
from fxplastic.errors import OptimizerError
from fxplastic.optim import check_optimizer
from fxplastic.plan import Plan
from fxplastic.rewrite import rewrite, rewrite_
from fxplastic.state_laws import REFUSED, STATE_LAWS, Law, laws_of, name_of
from tests.hand_made import Branches, ConvNet, bits, build, images, train_step
from tests.state_laws import CASES, MODELS, Case, errors, inputs, make

TOLERANCE = 1e-11
APART = ("torch.SparseAdam", "torch.ASGD")  # with tests of their own below
pytestmark = pytest.mark.filterwarnings("ignore")


def law_of(case: Case, key: str) -> Law:
    law = (laws_of(case.kind) or {})[key]
    assert law is not None
    return law


@pytest.mark.parametrize("shares", ["uneven", "signed"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.label)
def test_carried_state_is_the_recomputed_one_or_its_law_says_why_not(
    case: Case, shares: str
) -> None:
    for kind in MODELS:
        found = errors(case, kind, shares)
        assert found
        for key, error in found.items():
            if "decay" in case.label:  # of the coupled sort, which the law does not cover
                assert TOLERANCE < error < 2.0
            elif law_of(case, key).caveat:
                assert error < 2.0, key
            else:
                assert error < TOLERANCE, key


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.label)
def test_no_caveat_is_empty_talk(case: Case) -> None:
    """What is called approximate differs somewhere."""
    found = [errors(case, kind) for kind in MODELS]
    for key in {key for one in found for key in one}:
        if law_of(case, key).caveat and "amsgrad" not in case.label:
            assert max(one.get(key, 0.0) for one in found) > 1e-9, key


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.label)
def test_no_other_degree_would_do(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    row = dict(laws_of(case.kind) or {})
    for key in errors(case, Branches):
        law = law_of(case, key)
        if law.kind != "power" or law.caveat or "decay" in case.label:
            continue
        for power in {0, 1, 2} - {law.power}:
            wrong = Law("power", power, law.start, law.fades)
            with monkeypatch.context() as patch:
                patch.setitem(STATE_LAWS, case.kind, {**row, key: wrong})
                assert errors(case, Branches)[key] > 1e-3, (key, power)


def test_every_row_is_tried_with_every_key_that_follows() -> None:
    tried: dict[str, set[str]] = {}
    for case in CASES:
        for kind in MODELS:
            tried.setdefault(name_of(case.kind), set()).update(errors(case, kind))
    for name, row in STATE_LAWS.items():
        if name not in APART:
            wanted = {key for key, law in row.items() if law is not None}
            assert wanted == tried[str(name)], name


def test_every_class_of_torch_is_in_the_table_or_refused() -> None:
    classes = {
        name_of(kind)
        for kind in vars(torch.optim).values()
        if isinstance(kind, type) and issubclass(kind, Optimizer) and kind is not Optimizer
    }
    assert classes <= {*STATE_LAWS, *REFUSED}


def test_the_average_of_asgd_follows_the_weights() -> None:
    model = build(ConvNet)
    optimizer = ASGD(model.parameters(), lr=0.1)
    train_step(model, optimizer, images(ConvNet))
    rewrite_(model, Plan.random(model, turnover=0.4), optimizer)
    for parameter in model.parameters():
        assert torch.equal(optimizer.state[parameter]["ax"], parameter)


def test_slow_weights_of_a_wrapper_follow_the_weights() -> None:
    model = build(ConvNet)
    wrapper = Lookahead(SGD(model.parameters(), lr=0.1, momentum=0.9), k=1)
    for step in range(2):
        train_step(model, wrapper, images(ConvNet, step))
    plan = Plan.random(model, turnover=0.4)
    with pytest.raises(OptimizerError, match="_base_optimizer"):
        rewrite_(model, plan, wrapper)
    rewrite_(model, plan, wrapper._base_optimizer)
    for parameter in model.parameters():
        assert torch.equal(wrapper._base_optimizer.state[parameter]["lookahead_slow_buff"],
                           parameter)  # fmt: skip


class Words(nn.Module):
    """A table with sparse gradients, and what reads it."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.out = nn.Embedding(7, 10, sparse=True), nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.table(x))


def test_sparse_adam_follows() -> None:
    torch.manual_seed(0)
    x = torch.tensor([[0, 2, 3], [5, 2, 1]])
    plastic = fxplastic.plasticize(Words().double(), x)
    name = "table.weight:1"
    take = [0, 1, 2, 3, 4, 5, 6, 7, 8, 0]
    plan = Plan.from_takes(plastic, {name: take}, {name: [0.75, *[1.0] * 8, 0.25]})
    with torch.no_grad():  # the neuron that is pruned is dead
        plastic.get_parameter("out.weight")[:, 9] = 0.0
        plastic.get_parameter("table.weight")[:, 9] = 0.0
    again = rewrite(plastic, plan).module
    made = []
    for module in (plastic, again):
        optimizer = SparseAdam([module.get_parameter("table.weight")], lr=1e-16)
        for _ in range(3):
            optimizer.zero_grad()
            module(x).square().sum().backward()
            optimizer.step()
        optimizer.zero_grad()
        made.append(optimizer)
    rewrite_(plastic, plan, made[0])
    mine, other = (o.state[o.param_groups[0]["params"][0]] for o in made)
    for key in ("exp_avg", "exp_avg_sq"):
        torch.testing.assert_close(mine[key], other[key], rtol=1e-10, atol=1e-12)
        assert mine[key].abs().max() > 1e-8


def test_factored_state_of_another_shape_is_refused() -> None:
    model = build(Branches)
    optimizer = torch.optim.Adafactor(model.parameters())
    train_step(model, optimizer, images(Branches))
    optimizer.state[model.left.weight]["row_var"] = torch.zeros(3, 1, dtype=torch.float64)
    with pytest.raises(OptimizerError, match=r"row_var.* is no mean over one axis .*\(6, 4\)"):
        rewrite_(model, Plan.random(model, turnover=0.5), optimizer)


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_follow_is_refused_with_the_reason(name: str) -> None:
    model = build(Branches)
    stranger = type(name.split(".")[1], (SGD,), {"__module__": name.split(".")[0]})
    with pytest.raises(OptimizerError) as error:
        check_optimizer(stranger(model.parameters(), lr=0.1), model)
    assert REFUSED[name] in str(error.value)
    assert name_of(LBFGS) in REFUSED


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.label)
def test_a_rewritten_copy_steps_like_the_one_in_place(case: Case) -> None:
    model = build(ConvNet)
    optimizer = make(case, model)
    train_step(model, optimizer, inputs(ConvNet, 0))
    plan = Plan.random(model, turnover=0.4)
    result = rewrite(model, plan, optimizer)
    rewrite_(model, plan, optimizer)
    assert bits(model, optimizer) == bits(result.module, result.optimizer)
    for module, its in ((model, optimizer), (result.module, result.optimizer)):
        train_step(module, its, inputs(ConvNet, 1))
    assert bits(model, optimizer) == bits(result.module, result.optimizer)


def widened(case: Case, width: int) -> None:
    """A hidden layer of 20 gets another width, and the optimizer goes on."""
    torch.manual_seed(0)
    mlp = nn.Sequential(nn.Linear(24, 20), nn.ReLU(), nn.Linear(20, 18))
    plastic = fxplastic.plasticize(mlp, torch.zeros(2, 24))
    optimizer = make(case, plastic)
    x = torch.randn(5, 24)
    train_step(plastic, optimizer, x)
    result = rewrite(plastic, fxplastic.plan_widths(plastic, width), optimizer)
    assert result.optimizer is not None
    train_step(result.module, result.optimizer, x)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.label)
def test_every_optimizer_goes_on_at_another_width(case: Case) -> None:
    widened(case, 22)


@pytest.mark.parametrize("width", [12, 30])
@pytest.mark.parametrize(
    "case", [c for c in CASES if c.label.startswith("timm Adafactor")], ids=lambda c: c.label
)
def test_a_width_at_which_other_axes_would_be_factored_is_refused(case: Case, width: int) -> None:
    with pytest.raises(OptimizerError, match=r"min_dim_size_to_factor=16.*its choice could be"):
        widened(case, width)


def test_every_class_of_timm_is_in_the_table_or_refused() -> None:
    classes = {
        name_of(kind)
        for module in vars(timm.optim).values()
        if isinstance(module, types.ModuleType)
        for kind in vars(module).values()
        if isinstance(kind, type) and issubclass(kind, Optimizer)
        and kind.__module__ == module.__name__
    }  # fmt: skip
    assert len(classes) > 20
    assert classes <= {*STATE_LAWS, *REFUSED}
