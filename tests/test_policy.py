"""What a policy makes of the weights of a turnover; float64, 1e-12 unless said."""

import copy
from collections.abc import Callable

import pytest
import timm
import torch
from torch import Tensor, nn

import fxplastic
from fxplastic import changes
from fxplastic.diversity import copies_of
from fxplastic.errors import OptimizerError, PlanError
from fxplastic.plan import Plan
from fxplastic.planner import plan_turnover
from fxplastic.policy import Policy, split_of
from fxplastic.rewrite import rewrite_
from tests.hand_made import (
    MODELS,
    Branches,
    ConvNet,
    HandMade,
    build,
    images,
    mask_,
    train_step,
)
from tests.randomise import randomise

ONE = "conv1.weight:0"
LEFT = "left.weight:0"


def turnover(model: nn.Module, policy: Policy, ratio: float = 0.34, seed: int = 0) -> Plan:
    draw = torch.Generator().manual_seed(seed)
    scores = {n: torch.rand(g.size, generator=draw) for n, g in model.groups.items()}
    return plan_turnover(model, scores, ratio, shares=policy.split, share=policy.share)


def turned(model: HandMade, policy: Policy, seed: int = 0) -> tuple[HandMade, Plan]:
    plan = turnover(model, policy)
    after = copy.deepcopy(model)
    rewrite_(after, plan, policy=policy, seed=seed)
    return after, plan


# ---------------------------------------------------------------- what keeps the function
@pytest.mark.parametrize(
    "policy",
    [Policy(zero_sum=0.5), Policy(shares="signed", zero_sum=0.1), Policy(fill="fresh")],
    ids=["zero_sum", "signed and zero_sum", "fresh"],
)
@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_the_function_is_that_of_the_masked_model(
    kind: type[HandMade], policy: Policy, training: bool
) -> None:
    model, x = build(kind).train(training), images(kind)
    after, plan = turned(model, policy)
    mask_(model, plan)
    assert sum(len(edit.pruned) for edit in plan.edits.values()) > 0
    torch.testing.assert_close(after(x), model(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext", "test_vit", "test_efficientnet"])
def test_zero_sum_noise_keeps_the_function_of_real_models(name: str) -> None:
    model = randomise(timm.create_model(name, num_classes=5)).eval()
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64) if name != "test_vit" else None
    x = torch.randn(2, *model.default_cfg["input_size"], dtype=torch.float64) if x is None else x
    plastic = fxplastic.plasticize(model, x)
    scores = {n: torch.arange(g.size, dtype=torch.float64) for n, g in plastic.groups.items()}
    plan = plan_turnover(plastic, scores, 0.3)
    expected = copy.deepcopy(model)
    plain = fxplastic.plasticize(expected, x)
    rewrite_(plain, Plan.from_json(plan.to_json()))
    rewrite_(plastic, plan, policy=Policy(zero_sum=0.3), seed=3)
    assert any(
        not torch.equal(a, b)
        for a, b in zip(model.parameters(), expected.parameters(), strict=True)
    )
    torch.testing.assert_close(model(x), expected(x), rtol=1e-10, atol=1e-10)


def test_zero_sum_noise_has_the_size_asked_for() -> None:
    model = build(Branches)
    after, plan = turned(model, Policy(zero_sum=0.25))
    plain = copy.deepcopy(model)
    rewrite_(plain, plan)
    noise = after.fc.weight - plain.fc.weight
    slots, originals = copies_of(plan.edits[LEFT])
    for slot, original in zip(slots, originals, strict=True):
        torch.testing.assert_close(noise[:, slot], -noise[:, original], rtol=0, atol=1e-15)
        ratio = noise[:, slot].norm() / model.fc.weight[:, original].norm()
        assert ratio.item() == pytest.approx(0.25, rel=1e-12)


def test_several_copies_of_one_neuron_take_their_noise_from_it_in_turn() -> None:
    model, x = build(Branches), images(Branches)
    before = model(x)
    plan = Plan.from_takes(model, {LEFT: [0, 0, 2, 0, 4, 5]})
    after = copy.deepcopy(model)
    rewrite_(after, plan, policy=Policy(zero_sum=1.0, shares="even"))
    mask_(model, plan)
    assert not torch.equal(before, model(x))
    torch.testing.assert_close(after(x), model(x), rtol=0, atol=1e-12)


# ---------------------------------------------------------------- scaling
def test_norm_scaling_restores_each_consumers_incoming_norm() -> None:
    model = build(ConvNet)
    after, plan = turned(model, Policy(scaling="norm"))
    rows = list(plan.edits["conv2.weight:0"].take)
    old = model.conv2.weight.flatten(1).norm(dim=1)[rows]
    torch.testing.assert_close(after.conv2.weight.flatten(1).norm(dim=1), old, rtol=0, atol=1e-12)
    torch.testing.assert_close(
        after.fc.weight.norm(dim=1), model.fc.weight.norm(dim=1), rtol=0, atol=1e-12
    )
    slots, originals = copies_of(plan.edits["conv2.weight:0"])
    inner = after.fc.weight.unflatten(1, (8, 4))
    assert torch.equal(inner[:, list(slots)], inner[:, list(originals)])
    assert torch.equal(after.conv1.weight, model.conv1.weight[list(plan.edits[ONE].take)])


def test_without_scaling_copies_have_all_of_the_outgoing_weight() -> None:
    model = build(Branches)
    after, plan = turned(model, Policy(scaling="none"))
    take = [*plan.edits[LEFT].take, *(6 + i for i in plan.edits["right.weight:0"].take)]
    assert torch.equal(after.fc.weight, model.fc.weight[:, take])
    assert not plan.preserving
    assert plan == Plan.from_json(plan.to_json())


def test_a_norm_of_zero_stays() -> None:
    model = build(Branches)
    model.fc.weight.data[1] = 0.0
    after, _ = turned(model, Policy(scaling="norm"))
    assert after.fc.weight[1].abs().max() == 0.0
    assert after.fc.weight.isfinite().all()


# ---------------------------------------------------------------- noise on norms
def wide_norm() -> tuple[nn.Module, fxplastic.PlasticModule]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4000, 1), nn.BatchNorm2d(4000), nn.Conv2d(4000, 2, 1))
    randomise(model)
    return model, fxplastic.plasticize(model, torch.zeros(2, 3, 4, 4, dtype=torch.float64))


@pytest.mark.parametrize("noise", ["absolute", "relative"])
def test_norm_parameters_of_the_copies_alone_are_drawn(noise: str) -> None:
    model, plastic = wide_norm()
    policy = Policy(scaling="exact", noise=noise, sigma=0.1)
    plan = turnover(plastic, policy, ratio=0.5)
    plain = copy.deepcopy(model)
    rewrite_(fxplastic.plasticize(plain, torch.zeros(2, 3, 4, 4, dtype=torch.float64)), plan)
    rewrite_(plastic, plan, policy=policy)
    slots, originals = (list(found) for found in copies_of(plan.edits["0.weight:0"]))
    gamma, beta = model[1].weight.detach(), model[1].bias.detach()
    old_gamma, old_beta = plain[1].weight.detach(), plain[1].bias.detach()
    assert torch.equal(gamma[originals], old_gamma[originals])
    assert torch.equal(beta[originals], old_beta[originals])
    assert torch.equal(model[0].weight, plain[0].weight)
    assert torch.equal(model[1].running_var, plain[1].running_var)
    if noise == "absolute":
        draws = gamma[slots] - 1.0, beta[slots]
    else:
        draws = (
            gamma[slots] / old_gamma[slots] - 1.0,
            (beta[slots] - old_beta[slots]) / old_gamma[slots].abs(),
        )
    for draw in draws:  # 2000 numbers: the mean is within 5 standard errors, the spread in 10 %
        assert abs(draw.mean().item()) < 5 * 0.1 / 2000**0.5
        assert draw.std().item() == pytest.approx(0.1, rel=0.1)
    assert abs(torch.corrcoef(torch.stack(draws))[0, 1].item()) < 0.1


def test_noise_depends_on_the_seed_alone() -> None:
    model, policy = build(ConvNet), Policy.paper()
    same, other = turned(model, policy, seed=1)[0], turned(model, policy, seed=2)[0]
    again = turned(model, policy, seed=1)[0]
    assert torch.equal(same.bn1.weight, again.bn1.weight)
    assert not torch.equal(same.bn1.weight, other.bn1.weight)


# ---------------------------------------------------------------- slots drawn afresh
def test_fresh_slots_are_as_in_a_new_network() -> None:
    model = build(ConvNet)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    train_step(model, optimizer, images(ConvNet))
    before = copy.deepcopy(model)
    policy = Policy(fill="fresh")
    plan = turnover(model, policy)
    rewrite_(model, plan, optimizer, policy=policy)
    edit = plan.edits[ONE]
    slots = list(edit.pruned)
    kept = [i for i in range(6) if i not in slots]
    assert torch.equal(model.conv1.weight[kept], before.conv1.weight[kept])
    assert (
        not torch.isclose(model.conv1.weight[slots][:, None], before.conv1.weight[None])
        .flatten(2)
        .all(2)
        .any()
    )
    spread = before.conv1.weight.std(correction=0)
    assert 0.5 * spread < model.conv1.weight[slots].std() < 2 * spread
    for tensor, value in (
        (model.bn1.weight, 1.0), (model.bn1.bias, 0.0), (model.bn1.running_mean, 0.0),
        (model.bn1.running_var, 1.0),
    ):  # fmt: skip
        assert tensor[slots].eq(value).all()
    state = optimizer.state[model.conv1.weight]
    assert state["exp_avg"][slots].eq(0).all()
    assert state["exp_avg_sq"][slots].eq(0).all()
    assert state["exp_avg"][kept].ne(0).any()


# ---------------------------------------------------------------- what the optimizer remembers
@pytest.mark.parametrize("carry", ["law", "copy", "zero"])
def test_moments_of_copies_by_law_by_copy_or_zero(carry: str) -> None:
    model = build(Branches)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    train_step(model, optimizer, images(Branches))
    old = {k: v.clone() for k, v in optimizer.state[model.left.weight].items()}
    out = optimizer.state[model.fc.weight]["exp_avg"].clone()
    policy = Policy(carry=carry, share=0.25)
    plan = turnover(model, policy)
    rewrite_(model, plan, optimizer, policy=policy)
    edit, new = plan.edits[LEFT], optimizer.state[model.left.weight]
    slots, take = list(edit.pruned), list(edit.take)
    share = torch.tensor(edit.share, dtype=torch.float64)[:, None]
    for key, degree in (("exp_avg", 1), ("exp_avg_sq", 2)):
        expected = old[key][take] * (share**degree if carry == "law" else 1.0)
        if carry == "zero":
            expected[slots] = 0.0
            kept = [i for i in range(6) if i not in slots]
            expected[kept] *= share[kept] ** degree
        torch.testing.assert_close(new[key], expected, rtol=0, atol=1e-15)
    new_out = optimizer.state[model.fc.weight]["exp_avg"][:, :6]
    assert new_out[:, slots].eq(0).all() == (carry == "zero")
    assert torch.equal(new_out[:, 3], out[:, take[3]]) or 3 in slots
    assert new["step"] == old["step"]


def test_zero_leaves_the_start_of_a_sum() -> None:
    model = build(Branches)
    optimizer = torch.optim.Adagrad(model.parameters(), initial_accumulator_value=0.5)
    train_step(model, optimizer, images(Branches))
    policy = Policy(carry="zero")
    plan = turnover(model, policy)
    rewrite_(model, plan, optimizer, policy=policy)
    slots = list(plan.edits[LEFT].pruned)
    assert optimizer.state[model.left.weight]["sum"][slots].eq(0.5).all()


def test_means_over_axes_cannot_be_zeroed_in_part() -> None:
    model = build(Branches).float()
    optimizer = torch.optim.Adafactor(model.parameters())
    train_step(model, optimizer, images(Branches).float())
    before = copy.deepcopy(model.state_dict())
    policy = Policy(carry="zero")
    with pytest.raises(OptimizerError, match=r"means over axes of 'left.weight'.*carry='law'"):
        rewrite_(model, turnover(model, policy), optimizer, policy=policy)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


# ---------------------------------------------------------------- all or nothing
def test_a_turnover_with_noise_is_atomic(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(ConvNet)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    train_step(model, optimizer, images(ConvNet))
    before = copy.deepcopy(model.state_dict())
    plan = turnover(model, Policy.paper())
    steps: list[str] = []
    monkeypatch.setattr(changes, "step", steps.append)
    rewrite_(copy.deepcopy(model), plan, policy=Policy.paper())

    def fail(name: str) -> None:
        if name == steps[-3]:
            raise MemoryError(name)

    monkeypatch.setattr(changes, "step", fail)
    with pytest.raises(MemoryError):
        rewrite_(model, plan, optimizer, policy=Policy.paper())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


# ---------------------------------------------------------------- bad input
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Policy(scaling="half"), r"scaling='half'; give one of 'exact', 'norm', 'none'"),
        (lambda: Policy(noise="loud"), r"noise='loud'"),
        (lambda: Policy(carry="all"), r"carry='all'"),
        (lambda: Policy(fill="water"), r"fill='water'"),
        (lambda: Policy(shares="whole"), r"shares='whole'"),
        (lambda: Policy(sigma=-0.1), r"sigma=-0.1; give a number that is not negative"),
        (lambda: Policy(zero_sum=float("nan")), r"zero_sum=nan"),
        (lambda: Policy(share=1.5), r"share=1.5"),
        (lambda: Policy(scaling="norm", shares="signed"), r"have no effect with scaling='norm'"),
        (lambda: Policy(scaling="none", share=0.1), r"have no effect with scaling='none'"),
        (lambda: Policy(scaling="norm", zero_sum=0.1), r"needs scaling='exact'"),
        (lambda: Policy(scaling="none", fill="fresh"), r"use it with scaling='exact'"),
        (lambda: Policy.of("papr"), r"policy='papr'; give one of 'exact', 'paper'"),
        (lambda: split_of("whole", 0.3), r"share=0.3 with shares='whole'"),
    ],
)  # fmt: skip
def test_bad_policies_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        make()


@pytest.mark.parametrize(
    ("made_for", "used"),
    [
        (Policy(), Policy.paper()),
        (Policy.paper(), Policy()),
        (Policy(fill="fresh"), Policy.paper()),
    ],
)
def test_a_plan_with_other_shares_than_the_policys_is_refused(
    made_for: Policy, used: Policy
) -> None:
    model = build(Branches)
    with pytest.raises(PlanError, match=rf"make the plan with .*shares='{used.split}'"):
        rewrite_(model, turnover(model, made_for), policy=used)


def test_a_policy_is_for_plans_that_keep_widths() -> None:
    model = build(Branches)
    with pytest.raises((PlanError, fxplastic.RewriteError), match="in place no tensor can change"):
        rewrite_(model, Plan.from_takes(model, {LEFT: [0, 1, 2]}), policy=Policy())


def test_whole_copies_need_to_be_asked_for() -> None:
    model = build(Branches)
    takes, shares = {LEFT: [0, 0, 2, 3, 4, 5]}, {LEFT: [1.0] * 6}
    with pytest.raises(PlanError, match="sum to 2"):
        Plan.from_takes(model, takes, shares)
    assert Plan.from_takes(model, takes, shares, any_sum=True).edits[LEFT].share == (1.0,) * 6


# ---------------------------------------------------------------- consumers of other layouts
def test_norms_of_grouped_transposed_convolutions_are_restored_in_every_group() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.ReLU(), nn.ConvTranspose2d(8, 6, 2, groups=2), nn.ReLU(),
        nn.Conv2d(6, 2, 1),
    ).double()  # fmt: skip
    plastic = fxplastic.plasticize(model, torch.zeros(2, 3, 4, 4, dtype=torch.float64))
    policy = Policy(scaling="norm")
    plan = turnover(plastic, policy)
    before = model[2].weight.detach().clone()
    rewrite_(plastic, plan, policy=policy)
    take = plan.edits["2.weight:1"].take  # block by block: three outputs of each group
    assert plan.edits["0.weight:0"].pruned
    for group in range(2):
        old = before[4 * group : 4 * group + 4].square().sum((0, 2, 3))
        new = model[2].weight[4 * group : 4 * group + 4].square().sum((0, 2, 3))
        rows = [j - 3 * group for j in take[3 * group : 3 * group + 3]]
        torch.testing.assert_close(new, old[rows], rtol=0, atol=1e-12)


def test_taps_of_a_kernel_keep_their_ratios() -> None:
    model = build(ConvNet)
    plain, plan = turned(model, Policy(scaling="none"))
    scaled, _ = turned(model, Policy(scaling="norm"))
    assert plan.edits[ONE].pruned
    ratio = (scaled.conv2.weight / plain.conv2.weight).flatten(1)
    torch.testing.assert_close(ratio, ratio[:, :1].expand_as(ratio), rtol=1e-12, atol=0)
    assert not torch.allclose(ratio, torch.ones_like(ratio))


class Experts(nn.Module):
    """Weights as experts x inputs x outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.act = nn.Linear(4, 6), nn.ReLU()
        self.down = nn.Parameter(torch.randn(2, 6, 3))

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("bi,eio->beo", self.act(self.up(x)), self.down)


def test_norms_of_other_layouts_are_restored_for_every_output() -> None:
    torch.manual_seed(0)
    model = Experts().double()
    plastic = fxplastic.plasticize(model, torch.zeros(2, 4, dtype=torch.float64))
    policy = Policy(scaling="norm")
    plan = turnover(plastic, policy)
    before = model.down.detach().clone()
    rewrite_(plastic, plan, policy=policy)
    assert plan.edits["up.weight:0"].pruned
    torch.testing.assert_close(model.down.norm(dim=1), before.norm(dim=1), rtol=0, atol=1e-12)


def test_noise_is_measured_by_the_original_wherever_it_is_moved_to() -> None:
    model = build(Branches)
    model.fc.weight.data[:, 0] *= 1e-3
    plan = Plan.from_takes(model, {LEFT: [1, 0, 1, 3, 4, 5]}, {LEFT: [0.5, 1, 0.5, 1, 1, 1]})
    plain, after = copy.deepcopy(model), copy.deepcopy(model)
    rewrite_(plain, plan)
    rewrite_(after, plan, policy=Policy(shares="even", zero_sum=0.1))
    noise = (after.fc.weight - plain.fc.weight)[:, 2].norm()
    assert (noise / model.fc.weight[:, 1].norm()).item() == pytest.approx(0.1, rel=1e-9)


# ---------------------------------------------------------------- state that is no moment
@pytest.mark.parametrize("policy", [Policy(carry="zero"), Policy(carry="copy"), Policy.paper()])
def test_averages_inside_an_optimizer_become_what_the_weights_do(policy: Policy) -> None:
    model = build(ConvNet)
    optimizer = torch.optim.ASGD(model.parameters(), lr=0.1, t0=0)
    train_step(model, optimizer, images(ConvNet))
    for parameter in model.parameters():
        optimizer.state[parameter]["ax"].copy_(parameter.detach())
    rewrite_(model, turnover(model, policy), optimizer, policy=policy)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(
            optimizer.state[parameter]["ax"], parameter.detach(), rtol=0, atol=1e-12, msg=name
        )


def test_step_sizes_of_copies_begin_at_the_learning_rate() -> None:
    model = build(Branches)
    optimizer = torch.optim.Rprop(model.parameters(), lr=0.03)
    for step in range(3):
        train_step(model, optimizer, images(Branches, step))
    policy = Policy(carry="zero")
    plan = turnover(model, policy)
    rewrite_(model, plan, optimizer, policy=policy)
    sizes = optimizer.state[model.left.weight]["step_size"]
    slots = list(plan.edits[LEFT].pruned)
    assert sizes[slots].eq(0.03).all()
    assert not sizes.eq(0.03).all()


def test_which_policies_keep_the_function() -> None:
    kept = (Policy(), Policy(noise="relative", sigma=0.0), Policy(zero_sum=0.1, shares="signed"))
    lost = (Policy.paper(), Policy(noise="absolute", sigma=0.0), Policy(noise="relative"))
    assert all(policy.preserving for policy in kept)
    assert not any(policy.preserving for policy in lost)
