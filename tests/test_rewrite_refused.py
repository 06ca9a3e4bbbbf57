"""A rewrite that fails or is refused leaves model and optimizer bit for bit as they were."""

import pytest
import torch
from torch import Tensor, nn

from fxplastic import changes, slices
from fxplastic.errors import RewriteError
from fxplastic.groups import Site
from fxplastic.plan import Plan
from fxplastic.rewrite import rewrite, rewrite_
from tests.hand_made import (
    Branches,
    ConvNet,
    HandMade,
    Tied,
    bits,
    build,
    group,
    images,
    named,
    train_step,
)


def turnover(model: HandMade) -> Plan:
    return Plan.random(model, turnover=0.5)


def adam(model: nn.Module) -> torch.optim.Adam:
    return torch.optim.Adam(model.parameters(), amsgrad=True)


def steps_of(model: HandMade, plan: Plan, optimizer: torch.optim.Optimizer, monkeypatch) -> list:
    """Names of the steps that a rewrite goes through."""
    seen: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(changes, "step", seen.append)
        rewrite(model, plan, optimizer)
    return seen[1:]  # the copy checks, then rewrites


def test_an_exception_at_any_step_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(ConvNet)
    optimizer = adam(model)
    train_step(model, optimizer, images(ConvNet))
    plan, before = turnover(model), bits(model, optimizer)
    steps = steps_of(model, plan, optimizer, monkeypatch)
    assert {s.split()[0] for s in steps} == {"check", "lay", "make", "write", "finish"}
    assert len(steps) > 50
    for last in range(len(steps)):
        count = iter(range(len(steps)))

        def fail(name: str, count=count, last=last) -> None:
            if next(count) == last:
                raise ZeroDivisionError(name)

        with monkeypatch.context() as patch:
            patch.setattr(changes, "step", fail)
            with pytest.raises(ZeroDivisionError):
                rewrite_(model, plan, optimizer)
        assert bits(model, optimizer) == before, steps[last]
    rewrite_(model, plan, optimizer)
    assert bits(model, optimizer) != before


@pytest.mark.parametrize("rows", [None, 1])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failing_write_is_taken_back(
    error: type[BaseException], rows: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if rows is not None:  # tensors are exchanged a few rows at a time, these all in one
        monkeypatch.setattr(slices, "_AT_A_TIME", rows)
    model = build(Tied)
    optimizer = adam(model)
    train_step(model, optimizer, images(Tied))
    plan, before = turnover(model), bits(model, optimizer)
    plain = Tensor.copy_
    for last in range(1000):
        count = iter(range(last + 1000))

        def copy_(self: Tensor, other: Tensor, count=count, last=last) -> Tensor:
            if next(count) == last:
                raise error
            return plain(self, other)

        with monkeypatch.context() as patch:
            patch.setattr(Tensor, "copy_", copy_)
            try:
                rewrite_(model, plan, optimizer)
            except error:
                failed = True
            else:
                failed = False
        if not failed:
            break
        assert bits(model, optimizer) == before
    # Five tensors, their gradients and three moments of each; two writes a swap, of rows or of all.
    named = dict(model.named_parameters())
    touched = [named[n] for n in named if n != "fc.bias"]
    assert last == 2 * 5 * sum(1 if rows is None else len(tensor) for tensor in touched)
    assert bits(model, optimizer) != before


@pytest.mark.parametrize("wrap", [nn.DataParallel, lambda m: torch.compile(m, backend="eager")])
@pytest.mark.parametrize("call", [rewrite, rewrite_])
def test_a_wrapped_model_is_refused_with_the_way_to_do_it(wrap, call) -> None:
    model = build(Branches)
    plan = turnover(model)
    with pytest.raises(RewriteError, match=r"wrapped in \w+; pass what it wraps \(module\.\w+\)"):
        call(wrap(model), plan)


def test_another_width_is_refused_in_place() -> None:
    model = build(Branches)
    optimizer = adam(model)
    train_step(model, optimizer, images(Branches))
    before = bits(model, optimizer)
    plan = Plan.from_takes(model, {"left.weight:0": [0, 1, 2, 3, 4, 5, 5]})
    with pytest.raises(RewriteError, match=r"'left.weight:0' from 6 to 7 .* give a take of 6"):
        rewrite_(model, plan, optimizer)
    assert bits(model, optimizer) == before


def test_a_plain_module_is_refused() -> None:
    with pytest.raises(RewriteError, match="Linear has no channel groups; pass what fxplastic"):
        rewrite_(nn.Linear(2, 2), turnover(build(Branches)))


def test_parameters_that_share_memory_without_being_tied_are_refused() -> None:
    model = build(Branches)
    model.left.weight.data = model.fc.weight.data.flatten()[:24].view(6, 4)
    before = bits(model)
    with pytest.raises(
        RewriteError, match=r"'left.weight' and 'fc.weight' share memory|'fc.weight'"
    ):
        rewrite_(model, turnover(model))
    assert bits(model) == before


@pytest.mark.parametrize(
    ("first", "left_take", "right_take", "left_share"),
    [
        (5, [0, 1, 2, 3, 4, 4], [1, 1, 2, 3, 4], [1, 1, 1, 1, 0.5, 0.5]),
        (0, [1, 1, 2, 3, 4, 5], [1, 1, 2, 3, 4], [0.7, 0.3, 1, 1, 1, 1]),  # other shares alone
    ],
)
def test_groups_that_overlap_are_refused(
    first: int, left_take: list[int], right_take: list[int], left_share: list[float]
) -> None:
    model = build(Branches)
    left, right = model.groups.values()
    clash = Site("fc.weight", 1, "consumer", torch.arange(5)[:, None] + first)
    model.groups = named(left, group(5, *right.producers, clash))
    before = bits(model)
    plan = Plan.from_takes(
        model,
        {"left.weight:0": left_take, "right.weight:0": right_take},
        {"left.weight:0": left_share},
    )
    with pytest.raises(RewriteError, match=r"edit the same positions of 'fc.weight'"):
        rewrite_(model, plan)
    assert bits(model) == before


@pytest.mark.parametrize("norm_first", [False, True])
def test_copies_that_leave_their_convolution_group_are_refused(norm_first: bool) -> None:
    """Groups whose blocks are wrong: the rewrite looks at the rows, not at the blocks alone."""
    model = build(ConvNet)
    one, two = model.groups.values()
    sites = [*two.sites[1:], two.sites[0]] if norm_first else two.sites
    model.groups = named(group(6, *one.sites), group(8, *sites))  # a single block each
    one, two = model.groups.values()
    before = bits(model)
    across = Plan.from_takes(model, {one.name: [0, 1, 2, 3, 4, 0]})
    with pytest.raises(RewriteError, match=r"axis 1 of 'conv2.weight' lie on other rows"):
        rewrite_(model, across)
    both = Plan.from_takes(
        model, {one.name: [0, 1, 1, 3, 4, 5], two.name: [0, 1, 2, 3, 4, 5, 6, 0]}
    )
    with pytest.raises(
        RewriteError, match=r"neurons on axis 1 of 'conv2.weight' lie on other rows"
    ):
        rewrite_(model, both)
    assert bits(model) == before


def test_a_model_that_lost_a_parameter_is_refused() -> None:
    model = build(Branches)
    plan = turnover(model)
    model.left.bias = None
    with pytest.raises(RewriteError, match=r"runs through 'left.bias', which the model no longer"):
        rewrite_(model, plan)


def test_a_model_that_changed_its_shape_is_refused() -> None:
    model = build(Branches)
    plan = turnover(model)
    model.fc = nn.Linear(4, 3)
    with pytest.raises(RewriteError, match=r"does not fit 'fc.weight' of shape \(3, 4\)"):
        rewrite_(model, plan)


def test_a_sparse_gradient_is_refused() -> None:
    model = build(Branches)
    model.left.weight.grad = torch.ones(6, 4, dtype=torch.float64).to_sparse()
    with pytest.raises(RewriteError, match=r"gradient of 'left.weight' is sparse"):
        rewrite_(model, turnover(model))


def test_a_graph_made_before_the_rewrite_cannot_go_backward_wrongly() -> None:
    model = build(Branches)
    loss = model(images(Branches)).sum()
    rewrite_(model, turnover(model))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
