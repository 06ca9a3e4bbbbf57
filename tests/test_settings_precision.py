"""Precision and memory: what a turnover keeps of dtypes, loss scales, layouts and recomputation."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.optim import AdamW
from torch.utils.checkpoint import checkpoint

import fxplastic
from fxplastic import Plan, Plasticity, PlasticModule, Schedule, plasticize
from fxplastic.errors import TraceError
from tests.around import (
    CLASSES,
    EXACT,
    images,
    loss_of,
    masked,
    seen,
    sgd,
    small,
    turn_over,
)
from tests.exact_parts import distance, snapshot

AREA = "Precision and memory"
NET, VIT = "test_efficientnet", {"depth": 2}
shows = pytest.mark.setting
FLOAT32 = 1e-5  # products with shares are rounded once, to 2**-24 of the weight


def narrow(name: str = NET, dtype: torch.dtype = torch.float32, **options: Any) -> nn.Module:
    return small(name, **options).to(dtype)


# ---------------------------------------------------------------- autocast
@pytest.mark.parametrize(
    "dtype",
    [
        pytest.param(torch.bfloat16, marks=shows(AREA, "`torch.autocast`, bfloat16", "supported")),
        pytest.param(torch.float16, marks=shows(AREA, "`torch.autocast`, float16", "supported")),
    ],
)
def test_a_turnover_in_training_under_autocast_is_that_of_the_real_weights(
    dtype: torch.dtype,
) -> None:
    def lowered() -> torch.autocast:
        return torch.autocast("cpu", dtype=dtype)

    model = narrow()
    plastic = plasticize(model, images(2, dtype=torch.float32))
    with lowered():
        inside = plasticize(model, images(2, dtype=torch.float32))
        assert model(images(2, dtype=torch.float32)).dtype == dtype
    assert inside.fingerprint == plastic.fingerprint
    made = turn_over(model, plastic, during=lowered)
    assert made.error < FLOAT32 < 1e-3 < made.effect
    assert all(p.dtype == torch.float32 for p in model.parameters())

    plan = Plan.random(plastic, grow=0.5, seed=1, shares="uneven")
    plastic.eval()
    with lowered(), torch.no_grad():
        plain = [model.eval()(images(2, dtype=torch.float32))]
        wider = [fxplastic.rewrite(plastic, plan).module(images(2, dtype=torch.float32))]
    print(f"weights {made.error:.1e}; outputs under autocast {distance(wider, plain):.1e}")
    assert distance(wider, plain) < 8 * torch.finfo(dtype).eps


# ---------------------------------------------------------------- loss scales
def scaled_run(
    scale: float | None, broken: int | None = None, *, unscale: bool = False
) -> tuple[Plasticity, dict[str, Tensor], dict[str, Tensor]]:
    """Three steps (and, at `broken`, one more whose gradient overflows), scores and weights."""
    model = narrow()
    model.requires_grad_().eval()  # statistics that a skipped step updates would tell runs apart
    optimizer = sgd(model)
    plastic = plasticize(model, images(2, dtype=torch.float32))
    plasticity = Plasticity(plastic, optimizer, schedule=Schedule(every=1))
    scaler = torch.amp.GradScaler("cpu", init_scale=scale or 1.0, enabled=scale is not None)
    for seed in range(4):
        if seed == 3 and broken is None:
            break
        optimizer.zero_grad()
        value = loss_of(model, seed if broken is None or seed < broken else seed - 1)
        scaler.scale(value * torch.inf if seed == broken else value).backward()
        if unscale:
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), 1e9)
        plasticity.after_backward(None if unscale else scaler)
        scaler.step(optimizer)
        scaler.update(new_scale=scale)
    scores = plasticity.scores.values()
    assert plasticity.scores.left_out == (broken is not None)
    plasticity.end_epoch()
    return plasticity, scores, snapshot(model)


@shows(AREA, "`torch.amp.GradScaler`: scaled gradients", "supported")
@pytest.mark.parametrize("unscale", [False, True])
def test_a_loss_scale_changes_no_score_and_no_plan(unscale: bool) -> None:
    plain, scores, weights = scaled_run(None)
    other, same, others = scaled_run(2.0**10, unscale=unscale)
    assert all(torch.equal(scores[name], same[name]) for name in scores)
    assert plain.history[0].plan == other.history[0].plan
    assert all(torch.equal(weights[name], others[name]) for name in weights)


@shows(AREA, "`torch.amp.GradScaler`: a step that overflows and is skipped", "supported")
@pytest.mark.parametrize("unscale", [False, True])
@pytest.mark.parametrize("broken", [0, 2])
def test_a_skipped_step_leaves_no_trace_in_the_scores(broken: int, unscale: bool) -> None:
    plain, scores, weights = scaled_run(2.0**10)
    other, same, others = scaled_run(2.0**10, broken, unscale=unscale)
    assert all(torch.equal(scores[name], same[name]) for name in scores)
    assert plain.history[0].plan == other.history[0].plan
    assert all(torch.equal(weights[name], others[name]) for name in weights)


# ---------------------------------------------------------------- weights of low precision
@shows(AREA, "weights in bfloat16", "supported")
def test_bfloat16_weights_turn_over_with_one_rounding() -> None:
    model = narrow(dtype=torch.bfloat16)
    plastic = plasticize(model, images(2, dtype=torch.bfloat16))
    made = turn_over(model, plastic)
    print(f"turnover of bfloat16 weights: error {made.error:.1e}, effect {made.effect:.1e}")
    assert made.error < 2.0**-5 < made.effect  # each weight is off by 2**-8 of itself at most
    assert {t.dtype for t in snapshot(model).values()} == {torch.bfloat16, torch.int64}
    assert {s["momentum_buffer"].dtype for s in made.optimizer.state.values()} == {torch.bfloat16}


@shows(AREA, "weights in bfloat16", "supported")
@pytest.mark.parametrize("shares", ["uneven", "even"])
def test_bfloat16_weights_are_the_rounded_float64_ones(shares: str) -> None:
    model = narrow(dtype=torch.bfloat16)
    wide = copy.deepcopy(model).double()
    plastics = [plasticize(m, images(2, dtype=d)) for m, d in
                ((model, torch.bfloat16), (wide, torch.float64))]  # fmt: skip
    plan = Plan.random(plastics[0], turnover=0.3, seed=1, shares=shares)
    expected = masked(wide, plastics[1], plan, images(2))
    for plastic in plastics:
        fxplastic.rewrite_(plastic, plan)
    exact = snapshot(wide)
    for name, value in snapshot(model).items():
        assert (value.double() - exact[name]).abs().le(2.0**-8 * exact[name].abs()).all(), name
    if shares == "even":  # a power of two rounds nothing
        error = distance(seen(copy.deepcopy(model).double(), images(2)), expected)
        print(f"even shares: error {error:.1e}")
        assert error < EXACT


# ---------------------------------------------------------------- channels last
def laid(tensors: Iterator[Tensor] | list[Tensor]) -> list[bool]:
    """Of each map of several channels, whether it lies channels last."""
    maps = [t for t in tensors if t.ndim == 4 and t.shape[1] > 1]
    assert maps
    return [t.stride() == torch.empty_like(t, memory_format=torch.channels_last).stride()
            for t in maps]  # fmt: skip


def everything(model: nn.Module, optimizer: Any) -> list[Tensor]:
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    state = [v for s in optimizer.state.values() for v in s.values()]
    assert grads
    assert state
    return [*snapshot(model).values(), *grads, *state]


@shows(AREA, "`torch.channels_last`: weights, gradients, optimizer state, averages", "supported")
@pytest.mark.parametrize("name", [NET, "test_resnet"])
def test_channels_last_stays_in_place_and_at_other_widths(name: str) -> None:
    model = small(name).to(memory_format=torch.channels_last)
    plastic = plasticize(model, images(2))
    ema = timm.utils.ModelEmaV3(model)
    optimizer = AdamW(model.parameters(), lr=1e-3)
    plasticity = Plasticity(plastic, optimizer, schedule=Schedule(every=1), ema=ema)
    loss_of(model.train(), 0).backward()
    plasticity.after_backward()
    optimizer.step()
    before = [t.stride() for t in everything(model, optimizer)]
    plasticity.end_epoch()
    assert [t.stride() for t in everything(model, optimizer)] == before
    assert all(laid(everything(model, optimizer)))
    assert all(laid([*snapshot(ema.module).values()]))
    for plan in (Plan.random(plastic, turnover=0.3), Plan.random(plastic, grow=0.5)):
        result = fxplastic.rewrite(plastic, plan, optimizer)
        assert all(laid(everything(result.module, result.optimizer)))
        assert all(laid([*snapshot(result.average(ema.module)).values()]))


# ---------------------------------------------------------------- activation checkpointing
class Within(nn.Module):
    """A model whose forward checkpoints a part of itself."""

    def __init__(self, part: nn.Module, *, reentrant: bool = False) -> None:
        super().__init__()
        self.part, self.reentrant = part, reentrant

    def forward(self, x: Tensor) -> Any:
        return checkpoint(self.part, x, use_reentrant=self.reentrant)


def by_timm() -> nn.Module:
    model: Any = small("test_vit", **VIT)
    model.set_grad_checkpointing()
    return model


def by_hand() -> nn.Module:
    return Within(small("test_vit", **VIT))


def runs_of(model: nn.Module) -> list[str]:
    """Grows by one entry with every run of a block of the model."""
    runs: list[str] = []
    block = next(m for n, m in model.named_modules() if n.endswith("blocks.0"))
    forward = block.forward
    block.forward = lambda x: runs.append("ran") or forward(x)  # type: ignore[assignment]
    return runs


RECOMPUTED = r"checkpoints activations \(.*\.py:\d+ in .*\), and its traced forward keeps them"


@shows(AREA, "activation checkpointing, where the model itself trains", "supported")
@pytest.mark.parametrize("build", [by_timm, by_hand])
def test_a_model_that_checkpoints_turns_over_and_goes_on_checkpointing(
    build: Callable[[], nn.Module],
) -> None:
    model = build()
    plastic = plasticize(model, images(2))
    plain = plasticize(small("test_vit", **VIT), images(2))
    assert [g.size for g in plastic.groups.values()] == [g.size for g in plain.groups.values()]
    made = turn_over(model, plastic)
    print(f"error {made.error:.1e}, effect of masking {made.effect:.1e}")
    assert made.error < EXACT < 1e-3 < made.effect
    runs = runs_of(model)
    loss_of(model.train(), 1).backward()
    assert len(runs) == 2


@shows(AREA, "activation checkpointing, where the traced module trains: a warning", "supported")
@pytest.mark.parametrize("build", [by_timm, by_hand])
def test_a_traced_forward_that_keeps_activations_says_so(build: Callable[[], nn.Module]) -> None:
    model = build()
    plastic = plasticize(model, images(2))
    wider = fxplastic.rewrite(plastic, Plan.random(plastic, grow=0.5)).module
    for module in (plastic, copy.deepcopy(plastic), wider):
        with pytest.warns(UserWarning, match=RECOMPUTED):
            module.train()(images(2))
        with torch.no_grad():
            module(images(2))
        module.eval()(images(2))
    plain = [p.detach() for p in grads_of(model)]
    with pytest.warns(UserWarning, match=RECOMPUTED):
        traced = grads_of(plastic)
    assert all(torch.equal(a, b) for a, b in zip(plain, traced, strict=True))


def grads_of(module: nn.Module) -> list[Tensor]:
    module.train().zero_grad()
    loss_of(module, 0).backward()
    return [p.grad.clone() for p in module.parameters() if p.grad is not None]


@shows(AREA, "activation checkpointing with `use_reentrant=True`", "refused")
def test_reentrant_checkpointing_is_refused_with_what_to_do() -> None:
    model = Within(small("test_vit", **VIT), reentrant=True)
    before = snapshot(model)
    with pytest.raises(TraceError, match=r"precision\.py:\d+ .*give it use_reentrant=False"):
        plasticize(model, images(2))
    assert all(torch.equal(v, before[n]) for n, v in snapshot(model).items())


# ---------------------------------------------------------------- gradient accumulation
def plan_of(parts: int, plastic: PlasticModule, model: nn.Module) -> tuple[Plan, dict[str, Tensor]]:
    """What one epoch of two steps plans, with every batch in several parts."""
    optimizer = sgd(model.train())
    plasticity = Plasticity(plastic, optimizer, schedule=Schedule(every=1))
    labels = torch.arange(4) % CLASSES
    for seed in range(2):
        optimizer.zero_grad()
        for x, y in zip(images(4, seed).chunk(parts), labels.chunk(parts), strict=True):
            (nn.functional.cross_entropy(model(x), y) / parts).backward()
        plasticity.after_backward()
        optimizer.step()
    scores = plasticity.scores.values()
    turnover = plasticity.end_epoch()
    assert turnover is not None
    return turnover.plan, scores


@shows(AREA, "gradient accumulation over parts of a batch", "supported")
def test_a_batch_in_parts_makes_the_plan_of_the_whole() -> None:
    plans, found = [], []
    for parts in (1, 2, 4):
        model = small("test_vit", **VIT)  # norms over channels alone: parts do not see each other
        plan, scores = plan_of(parts, plasticize(model, images(2)), model)
        plans.append(plan)
        found.append(scores)
    assert plans[0] == plans[1] == plans[2]
    for scores in found[1:]:
        for name, row in scores.items():
            torch.testing.assert_close(row, found[0][name], rtol=1e-10, atol=1e-12)
