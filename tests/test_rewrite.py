"""Rewrites at constant width, on models whose groups are written by hand."""

import copy

import pytest
import torch
from torch import Tensor, nn

from fxplastic.errors import RewriteError
from fxplastic.plan import Plan
from fxplastic.rewrite import Rewritten, rewrite, rewrite_
from tests.hand_made import (
    MODELS,
    Branches,
    ConvNet,
    HandMade,
    Tied,
    bits,
    build,
    group,
    images,
    mask_,
    named,
    site,
    train_step,
)

TOLERANCE = 1e-12  # float64, outputs of order 1


def turnover(model: HandMade, shares: str = "uneven", seed: int = 0) -> Plan:
    return Plan.random(model, turnover=0.5, seed=seed, shares=shares)


def outputs(model: nn.Module, kind: type[HandMade], training: bool = False) -> Tensor:
    with torch.no_grad():
        return copy.deepcopy(model).train(training)(images(kind))


def adam(model: nn.Module) -> torch.optim.Adam:
    return torch.optim.Adam(model.parameters(), amsgrad=True)


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("shares", ["even", "uneven", "signed"])
@pytest.mark.parametrize("kind", MODELS)
def test_turnover_equals_masking_the_pruned_neurons(
    kind: type[HandMade], shares: str, training: bool
) -> None:
    model = build(kind)
    plan = turnover(model, shares)
    masked = copy.deepcopy(model)
    mask_(masked, plan)
    before = outputs(model, kind, training)
    rewrite_(model, plan)
    expected = outputs(masked, kind, training)
    assert (outputs(model, kind, training) - expected).abs().max() < TOLERANCE
    assert (before - expected).abs().max() > 1e-3  # the plan does prune something


@pytest.mark.parametrize("kind", MODELS)
def test_permutation_preserves_the_function_and_moves_the_weights(kind: type[HandMade]) -> None:
    model = build(kind)
    takes = {}
    for name, g in model.groups.items():
        takes[name] = [b * g.block_size + i for b in range(g.block_count) for i in
                       reversed(range(g.block_size))]  # fmt: skip
    plan = Plan.from_takes(model, takes)
    before, old = outputs(model, kind, True), bits(model)
    rewrite_(model, plan)
    assert plan.preserving
    assert (outputs(model, kind, True) - before).abs().max() < TOLERANCE
    assert bits(model) != old


@pytest.mark.parametrize("kind", MODELS)
def test_identity_plan_is_bit_equal(kind: type[HandMade]) -> None:
    model = build(kind)
    optimizer = adam(model)
    train_step(model, optimizer, images(kind))
    before = bits(model, optimizer)
    rewrite_(model, Plan.from_takes(model, {n: range(g.size) for n, g in model.groups.items()}))
    rewrite_(model, Plan.from_takes(model, {}), optimizer)
    assert bits(model, optimizer) == before


@pytest.mark.parametrize("kind", MODELS)
def test_two_rewrites_equal_one_of_the_composed_plan(kind: type[HandMade]) -> None:
    twice, once = build(kind), build(kind)
    optimizers = [adam(m) for m in (twice, once)]
    for m, o in zip((twice, once), optimizers, strict=True):
        train_step(m, o, images(kind))
    first, second = turnover(twice, "uneven", 1), turnover(twice, "signed", 2)
    rewrite_(twice, first, optimizers[0])
    rewrite_(twice, second, optimizers[0])
    rewrite_(once, first.then(second), optimizers[1])
    for a, b in zip(tensors(twice, optimizers[0]), tensors(once, optimizers[1]), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-14, atol=1e-15)  # products rounded in other order


def tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[Tensor]:
    states = [v for s in optimizer.state.values() for v in s.values()]
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    return [*model.state_dict().values(), *grads, *states]


@pytest.mark.parametrize("kind", MODELS)
def test_pure_form_gives_the_bits_of_the_one_in_place_and_leaves_its_input(
    kind: type[HandMade],
) -> None:
    model = build(kind)
    optimizer = adam(model)
    train_step(model, optimizer, images(kind))
    plan, before = turnover(model), bits(model, optimizer)
    result = rewrite(model, plan, optimizer)
    assert bits(model, optimizer) == before
    assert isinstance(result.optimizer, torch.optim.Adam)
    turned = bits(result.module, result.optimizer)
    rewrite_(model, plan, optimizer)
    assert bits(model, optimizer) == turned != before
    mine = {p.data_ptr() for p in model.parameters()}
    assert mine.isdisjoint(p.data_ptr() for p in result.module.parameters())


def test_gather_and_share_land_where_the_plan_says() -> None:
    model = build(Branches)
    left, right, fc = model.left.weight.clone(), model.right.bias.clone(), model.fc.weight.clone()
    plan = Plan.from_takes(
        model,
        {"left.weight:0": [0, 1, 0, 3, 4, 5], "right.weight:0": [0, 4, 2, 3, 4]},
        {"left.weight:0": [1.5, 1, -0.5, 1, 1, 1], "right.weight:0": [1, 0.25, 1, 1, 0.75]},
    )
    rewrite_(model, plan)
    assert torch.equal(model.left.weight, left[[0, 1, 0, 3, 4, 5]])
    assert torch.equal(model.right.bias, right[[0, 4, 2, 3, 4]])
    share = torch.tensor([1.5, 1, -0.5, 1, 1, 1, 1, 0.25, 1, 1, 0.75], dtype=torch.float64)
    assert torch.equal(model.fc.weight, fc[:, [0, 1, 0, 3, 4, 5, 6, 10, 8, 9, 10]] * share)


def test_gradient_is_scaled_on_the_producer_side_only() -> None:
    model = build(Tied)
    train_step(model, adam(model), images(Tied), step=False)
    take, share = [0, 1, 2, 3, 4, 2], torch.tensor([1, 1, 0.7, 1, 1, 0.3], dtype=torch.float64)
    before = {name: p.grad.clone() for name, p in model.named_parameters()}
    rewrite_(model, Plan.from_takes(model, {"first.weight:0": take}, {"first.weight:0": share}))
    assert torch.equal(model.first.weight.grad, before["first.weight"][take] * share[:, None])
    assert torch.equal(model.fc.weight.grad, before["fc.weight"][:, take])
    both = before["shared.weight"][take][:, take] * share[:, None]
    assert torch.equal(model.shared.weight.grad, both)


def test_tied_weights_are_edited_once_and_stay_tied() -> None:
    model = build(Tied)
    result = rewrite(model, turnover(model)).module
    rewrite_(model, turnover(model))
    for m in (model, result):
        assert m.again.weight is m.shared.weight


def test_objects_memory_format_flags_and_hooks_stay() -> None:
    model = build(ConvNet).to(memory_format=torch.channels_last)
    model.bn1.weight.requires_grad_(False)
    model.bn1.eval()
    train_step(model, adam(model), images(ConvNet))
    calls: list[str] = []
    model.fc.weight.register_hook(lambda grad: calls.append("grad"))
    model.fc.register_forward_hook(lambda *_: calls.append("forward"))

    def state(m: nn.Module) -> list[object]:
        return [(p.stride(), p.dtype, p.requires_grad, p.grad is None) for p in m.parameters()] + [
            part.training for part in m.modules()
        ]

    identity = [(id(p), p.data_ptr()) for p in (*model.parameters(), *model.buffers())]
    before = state(model)
    pure = rewrite(model, turnover(model)).module
    rewrite_(model, turnover(model))
    assert [(id(p), p.data_ptr()) for p in (*model.parameters(), *model.buffers())] == identity
    assert state(model) == state(pure) == before
    for m in (model, pure):
        calls.clear()
        m(images(ConvNet)).sum().backward()
        assert sorted(calls) == ["forward", "grad"]


def test_parameter_attributes_and_accumulation_hooks_follow_into_the_copy() -> None:
    model = build(Branches)
    calls: list[int] = []
    model.fc.weight.register_post_accumulate_grad_hook(lambda p: calls.append(id(p)))
    model.fc.weight.no_decay = True
    pure = rewrite(model, turnover(model)).module
    pure(images(Branches)).sum().backward()
    assert calls == [id(pure.fc.weight)]
    assert pure.fc.weight.no_decay


def test_untouched_tensors_are_not_written() -> None:
    model = build(Branches)
    versions = [p._version for p in model.parameters()]
    rewrite_(model, Plan.random(model, turnover=0.5, groups=["left.weight:0"]))
    changed = [p._version != v for p, v in zip(model.parameters(), versions, strict=True)]
    assert changed == [True, True, False, False, True, False]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_shares_are_rounded_once_in_low_precision(dtype: torch.dtype) -> None:
    model = build(Branches).to(dtype)
    weight = model.fc.weight.detach().clone()
    plan = Plan.from_takes(
        model, {"left.weight:0": [0, 0, 2, 3, 4, 5]}, {"left.weight:0": [0.7, 0.3, 1, 1, 1, 1]}
    )
    rewrite_(model, plan)
    wide = torch.float32 if dtype == torch.float32 else torch.float64
    column = weight[:, 0].to(wide)
    factor = torch.tensor([0.7, 0.3], dtype=torch.float32).to(wide)
    assert torch.equal(model.fc.weight[:, :2], (column[:, None] * factor).to(dtype))
    assert torch.equal(model.fc.weight[:, 2:], weight[:, 2:])


def test_integer_buffer_is_gathered_as_a_producer_and_refused_as_a_consumer() -> None:
    model = build(Branches)
    model.register_buffer("tags", torch.arange(5))
    right = model.groups["right.weight:0"]
    i = torch.arange(5)
    model.groups = named(group(5, *right.sites, site("tags", 0, "producer", i)))
    plan = Plan.from_takes(model, {"right.weight:0": [1, 1, 2, 3, 4]})
    rewrite_(model, plan)
    assert model.tags.tolist() == [1, 1, 2, 3, 4]
    model.groups = named(group(5, *right.sites, site("tags", 0, "consumer", i)))
    before = bits(model)
    with pytest.raises(RewriteError, match=r"'tags' holds torch.int64"):
        rewrite_(model, Plan.from_takes(model, {"right.weight:0": [1, 1, 2, 3, 4]}))
    assert bits(model) == before


def test_rebind_makes_schedulers_step_the_new_optimizer() -> None:
    model = build(Branches)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.9)
    schedulers = torch.optim.lr_scheduler
    scheduler = schedulers.SequentialLR(
        optimizer,
        [schedulers.ConstantLR(optimizer, 0.5, 2), schedulers.StepLR(optimizer, 1, 0.1)],
        [2],
    )
    rates = []
    for epoch in range(6):
        if epoch == 2:
            result = rewrite(model, turnover(model), optimizer)
            result.rebind(scheduler)
            model, optimizer = result.module, result.optimizer
        rates.append(optimizer.param_groups[0]["lr"])
        train_step(model, optimizer, images(Branches))
        scheduler.step()
    assert rates == pytest.approx([0.5, 0.5, 1.0, 0.1, 0.01, 0.001])


def test_rebind_without_an_optimizer_is_refused() -> None:
    with pytest.raises(RewriteError, match="there is no optimizer to bind to"):
        Rewritten(build(Branches), None).rebind(
            torch.optim.lr_scheduler.StepLR(torch.optim.SGD(build(Branches).parameters()), 1)
        )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kind", MODELS)
def test_cuda_gives_the_bits_of_the_cpu(kind: type[HandMade]) -> None:
    model = build(kind)
    optimizer = adam(model)
    train_step(model, optimizer, images(kind))
    there = copy.deepcopy(model).cuda()
    moved = torch.optim.Adam(there.parameters(), amsgrad=True)
    moved.load_state_dict(optimizer.state_dict())
    for parameter, source in zip(there.parameters(), model.parameters(), strict=True):
        parameter.grad = source.grad.cuda()
    rewrite_(model, turnover(model), optimizer)
    rewrite_(there, turnover(there), moved)
    for a, b in zip(tensors(model, optimizer), tensors(there, moved), strict=True):
        assert torch.equal(a, b.cpu())
