"""Gradient scores, against the definition written out."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from fxplastic.classes import class_weights
from fxplastic.errors import ScoreError
from fxplastic.plan import Plan
from fxplastic.planner import plan_turnover
from fxplastic.rewrite import rewrite_
from fxplastic.scores import GradientScores
from tests.hand_made import MODELS, Branches, ConvNet, HandMade, Tied, build, images


def backward(model: nn.Module, x: Tensor) -> None:
    model.zero_grad()
    (model(x) ** 2).sum().backward()


def expected(model: HandMade) -> dict[str, list[float]]:
    """Sum of |g| over producer parameters, neuron by neuron and tensor by tensor."""
    named = dict(model.named_parameters(remove_duplicate=False))
    result = {}
    for name, group in model.groups.items():
        scores = []
        for neuron in range(group.size):
            total, seen = 0.0, set()
            for site in group.producers:
                if site.parameter not in named or id(named[site.parameter]) in seen:
                    continue
                seen.add(id(named[site.parameter]))
                grad = named[site.parameter].grad
                if site.rows is not None:
                    grad = grad[site.rows[neuron]]
                total += float(grad.index_select(site.axis, site.positions[neuron]).abs().sum())
            scores.append(total)
        result[name] = scores
    return result


@pytest.mark.parametrize("kind", MODELS)
def test_scores_sum_gradient_magnitude_over_batches_and_producer_parameters(
    kind: type[HandMade],
) -> None:
    model = build(kind)
    scores = GradientScores(model)
    totals = {name: torch.zeros(g.size, dtype=torch.float64) for name, g in model.groups.items()}
    for seed in range(3):
        backward(model, images(kind, seed))
        scores.update()
        for name, values in expected(model).items():
            totals[name] += torch.tensor(values, dtype=torch.float64)
    for name, values in scores.values().items():
        torch.testing.assert_close(values, totals[name], rtol=1e-12, atol=0)
        assert (values > 0).sum() > len(values) / 2  # a unit that ReLU silences scores 0


def test_scoring_does_not_touch_the_model_and_values_are_copies() -> None:
    model = build(ConvNet)
    backward(model, images(ConvNet))
    before = [p.grad.clone() for p in model.parameters()]
    scores = GradientScores(model)
    scores.update()
    first = scores.values()
    kept = copy.deepcopy(first)
    scores.update()
    assert all(torch.equal(p.grad, b) for p, b in zip(model.parameters(), before, strict=True))
    for name, values in first.items():
        assert torch.equal(values, kept[name])
        torch.testing.assert_close(scores.values()[name], 2 * values, rtol=1e-14, atol=0)
        assert not values.requires_grad


def test_values_without_an_update_raise_and_reset_forgets() -> None:
    model = build(Branches)
    scores = GradientScores(model)
    with pytest.raises(ScoreError, match=r"call update\(\) after backward\(\)"):
        scores.values()
    backward(model, images(Branches))
    scores.update()
    once = scores.values()["left.weight:0"]
    scores.reset()
    with pytest.raises(ScoreError):
        scores.values()
    scores.update()
    assert torch.equal(scores.values()["left.weight:0"], once)


def test_parameters_without_a_gradient_add_nothing() -> None:
    model = build(Branches)
    model.left.requires_grad_(False)
    backward(model, images(Branches))
    scores = GradientScores(model)
    scores.update()
    assert scores.values()["left.weight:0"].tolist() == [0.0] * 6
    assert scores.values()["right.weight:0"].max() > 0


def test_low_precision_gradients_are_accumulated_in_float32() -> None:
    model = build(Branches).half()
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 60000.0)
    scores = GradientScores(model)
    scores.update()
    scores.update()
    values = scores.values()["left.weight:0"]
    assert values.dtype == torch.float32
    assert values.tolist() == [2 * 5 * float(torch.tensor(60000.0).half())] * 6


def test_scores_stay_valid_through_a_turnover_in_place() -> None:
    model = build(Tied)
    scores = GradientScores(model)
    rewrite_(model, Plan.random(model, turnover=0.5))
    backward(model, images(Tied))
    scores.update()
    name = "first.weight:0"
    assert scores.values()[name].tolist() == pytest.approx(expected(model)[name], rel=1e-12)


def test_sparse_gradients_count_like_dense_ones() -> None:
    model = build(Branches)
    backward(model, images(Branches))
    dense, sparse = GradientScores(model), GradientScores(model)
    dense.update()
    for parameter in model.parameters():
        parameter.grad = parameter.grad.to_sparse()
    sparse.update()
    for name, values in dense.values().items():
        torch.testing.assert_close(sparse.values()[name], values, rtol=1e-14, atol=0)


def by_hand(model: HandMade, role: str, value) -> dict[str, Tensor]:
    """Sums of `value(name, parameter)` over each neuron's slices of one role."""
    named = dict(model.named_parameters(remove_duplicate=False))
    result = {}
    for name, group in model.groups.items():
        row = torch.zeros(group.size, dtype=torch.float64)
        seen = set()
        for site in group.sites:
            if site.role != role or site.parameter not in named:
                continue
            if (id(named[site.parameter]), site.axis) in seen:
                continue
            seen.add((id(named[site.parameter]), site.axis))
            tensor = value(site.parameter, named[site.parameter])
            for neuron in range(group.size):
                mine = tensor if site.rows is None else tensor[site.rows[neuron]]
                row[neuron] += mine.index_select(site.axis, site.positions[neuron]).sum()
        result[name] = row
    return result


def scored(model: HandMade, kind: type[HandMade], criterion: str) -> dict[str, Tensor]:
    scores = GradientScores(model, criterion)
    for seed in range(3):
        backward(model, images(kind, seed))
        scores.update()
    return scores.values()


@pytest.mark.parametrize("kind", MODELS)
def test_each_criterion_is_its_definition(kind: type[HandMade]) -> None:
    model = build(kind)
    grads = []
    for seed in range(3):
        backward(model, images(kind, seed))
        grads.append({n: p.grad.clone()
                      for n, p in model.named_parameters(remove_duplicate=False)})  # fmt: skip
    total = {n: sum(g[n] for g in grads) for n in grads[0]}
    wanted = {
        "net": by_hand(model, "producer", lambda n, p: total[n].abs()),
        "last": by_hand(model, "producer", lambda n, p: grads[-1][n].abs()),
        "l1": by_hand(model, "producer", lambda n, p: p.detach().abs()),
        "taylor": by_hand(model, "consumer", lambda n, p: total[n] * p.detach()),
    }
    for criterion, rows in wanted.items():
        found = scored(model, kind, criterion)
        for name, row in rows.items():
            torch.testing.assert_close(found[name], row.abs(), rtol=1e-10, atol=1e-14)
            assert row.abs().max() > 1e-6


def test_taylor_is_the_slope_of_the_loss_when_a_neuron_is_masked() -> None:
    model = build(ConvNet)
    x = images(ConvNet)
    backward(model, x)
    scores = GradientScores(model, "taylor")
    scores.update()
    for name, group in model.groups.items():
        (site,) = (s for s in group.sites if s.role == "consumer")
        weight = model.get_parameter(site.parameter)
        for neuron in range(group.size):
            losses = []
            for factor in (1 - 1e-6, 1 + 1e-6):
                with torch.no_grad():
                    kept = weight.clone()
                    rows = slice(None) if site.rows is None else site.rows[neuron][:, None]
                    weight[rows, site.positions[neuron]] *= factor
                    losses.append(float((model(x) ** 2).sum()))
                    weight.copy_(kept)
            slope = (losses[1] - losses[0]) / 2e-6
            assert scores.values()[name][neuron] == pytest.approx(abs(slope), rel=1e-4, abs=1e-7)


def test_random_scores_depend_on_seed_and_name_alone() -> None:
    model = build(ConvNet)
    one, same, other = (GradientScores(model, "random", seed=s).values() for s in (1, 1, 2))
    for name, row in one.items():
        assert torch.equal(row, same[name])
        assert not torch.equal(row, other[name])
        assert row.min() >= 0
        assert row.unique().numel() == row.numel()


def test_an_unknown_criterion_is_refused() -> None:
    with pytest.raises(ScoreError, match="criterion='l2'; give one of 'magnitude', 'net'"):
        GradientScores(build(Branches), "l2")


@pytest.mark.parametrize("criterion", ["magnitude", "net", "last", "taylor"])
@pytest.mark.parametrize("where", ["left.weight", "fc.bias"])
def test_a_batch_that_is_not_finite_is_left_out_and_counted(criterion: str, where: str) -> None:
    model = build(Branches)
    assert where in dict(model.named_parameters())
    scores, alone = GradientScores(model, criterion), GradientScores(model, criterion)
    backward(model, images(Branches))
    scores.update()
    alone.update()
    model.get_parameter(where).grad.view(-1)[0] = float("nan")
    scores.update()
    assert (scores.updates, scores.left_out) == (2, 1)
    for name, row in alone.values().items():
        assert torch.equal(scores.values()[name], row)
    scores.reset()
    scores.update()
    assert all(row.isnan().all() for row in scores.values().values())
    with pytest.raises(ScoreError, match="NaN where no batch is left"):
        plan_turnover(model, scores)
    backward(model, images(Branches))
    scores.update()
    assert all(row.isfinite().all() for row in scores.values().values())


@pytest.mark.parametrize("criterion", ["magnitude", "net", "taylor"])
def test_a_loss_scaler_that_changes_its_mind_changes_no_score(criterion: str) -> None:
    model = build(Branches)
    plain, scaled = GradientScores(model, criterion), GradientScores(model, criterion)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for seed, scale in enumerate((1024.0, 2.0)):
        backward(model, images(Branches, seed))
        plain.update()
        scaler.scale(torch.zeros(()))  # makes the scale where there is none yet
        scaler.update(scale)
        for parameter in model.parameters():
            parameter.grad *= scale
        scaled.update(scaler)
    for name, row in plain.values().items():
        torch.testing.assert_close(scaled.values()[name], row, rtol=1e-6, atol=0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_update_never_waits_for_the_device() -> None:
    model = build(ConvNet).cuda()
    backward(model, images(ConvNet).cuda())
    scores = GradientScores(model)
    scores.update()  # indices move to the device once
    torch.cuda.set_sync_debug_mode("error")
    try:
        scores.update()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(v.is_cuda for v in scores.values().values())


@pytest.mark.parametrize("scheme", ["inverse", "effective"])
def test_class_weights_have_mean_one_over_samples(scheme: str) -> None:
    counts = torch.tensor([500, 50, 5])
    weights = class_weights(counts, scheme)
    assert float((weights * counts).sum() / counts.sum()) == pytest.approx(1.0, abs=1e-6)
    assert weights[2] > weights[1] > weights[0] > 0


def test_inverse_weights_give_every_class_the_same_part() -> None:
    weights = class_weights([99, 1])
    assert (weights * torch.tensor([99, 1])).tolist() == pytest.approx([50, 50], rel=1e-6)


def test_class_weights_refuse_what_has_no_weight() -> None:
    with pytest.raises(ScoreError, match="class 1 has 0 samples"):
        class_weights([3, 0])
    with pytest.raises(ScoreError, match="'inverse', 'effective'"):
        class_weights([3, 1], "root")
    with pytest.raises(ScoreError, match=r"shape \(\)"):
        class_weights(torch.tensor(3))


def test_the_taylor_product_of_half_precision_is_neither_infinite_nor_nothing() -> None:
    model = build(Branches).half()
    for factor in (3e4, 1e-5):
        for parameter in model.parameters():
            parameter.data.fill_(factor)
            parameter.grad = torch.full_like(parameter, factor)
        scores = GradientScores(model, "taylor")
        scores.update()
        assert scores.left_out == 0
        value = float(torch.tensor(factor).half()) ** 2
        assert scores.values()["left.weight:0"].tolist() == pytest.approx([3 * value] * 6, rel=1e-5)


@pytest.mark.parametrize("criterion", ["magnitude", "net", "last", "taylor"])
def test_a_step_reads_no_value_on_the_host(criterion: str) -> None:
    model = build(ConvNet)
    scores = GradientScores(model, criterion)
    backward(model, images(ConvNet))
    scores.update()
    backward(model, images(ConvNet))

    def reads(work: Callable[[], object]) -> set[str]:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
            work()
        names = {event.name for event in seen.events()}
        assert names
        return names & {"aten::item", "aten::_local_scalar_dense", "aten::is_nonzero"}

    assert reads(scores.update) == set()
    assert reads(lambda: scores.update() or float(torch.ones(1).sum())) != set()
