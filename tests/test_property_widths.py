"""Random architectures at other widths: growth keeps, pruning masks, plans compose, state follows.

`HYPOTHESIS_PROFILE=nightly` (`make nightly`) draws ten times as many.
"""

import copy
from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given, seed
from hypothesis import settings as drawing
from hypothesis import strategies as st
from torch import Tensor, nn

import fxplastic
from fxplastic.errors import WidthError
from tests.architectures import programs
from tests.hand_made import bits
from tests.oracle import MODES, TOLERANCE, distance, mask_consumers, outputs, prepare, pruned
from tests.programs import Program
from tests.test_property import (
    CHUNKS,
    OPTIMIZERS,
    STATE_TOLERANCE,
    STEPS,
    Maker,
    assert_same_state,
    backward,
    drawn,
)

COMPOSED = 1e-12  # of each tensor's largest entry: two roundings in place of one


def rewritten(
    plastic: fxplastic.PlasticModule, plan: fxplastic.Plan, seen: Counter[str]
) -> fxplastic.PlasticModule | None:
    """The result of a rewrite that leaves its input as it was; `None` if it is refused."""
    before = bits(plastic)
    try:
        module = fxplastic.rewrite(plastic, plan).module
    except WidthError:
        seen["refused"] += 1
        return None
    finally:
        assert bits(plastic) == before
    seen["rewritten"] += 1
    assert module.fingerprint == plan.target
    return module


def check_against(
    module: nn.Module, reference: nn.Module, inputs: tuple[Tensor, ...], what: str
) -> None:
    for mode in MODES:
        error = distance(outputs(module, inputs, mode), outputs(reference, inputs, mode))
        assert error <= TOLERANCE, f"{what} is off by {error:.1e} in {mode} mode"


def copies_without_a_share(plastic: fxplastic.PlasticModule) -> tuple[dict[str, Any], ...]:
    """Takes and shares that double every neuron to no effect, and takes that undo it."""
    takes, shares, back = {}, {}, {}
    for name, group in plastic.groups.items():
        size, count = group.block_size, group.block_count
        doubled = [[b * size + i for i in range(size)] * 2 for b in range(count)]
        takes[name] = [i for block in doubled for i in block]
        shares[name] = ([1.0] * size + [0.0] * size) * count
        back[name] = [2 * b * size + i for b in range(count) for i in range(size)]
    return takes, shares, back


def check_function(program: Program, number: int, seen: Counter[str]) -> None:
    model, inputs = prepare(program.build(), seed=number), program.inputs()
    plastic = fxplastic.plasticize(model, inputs, attention="value" if number % 2 else None)
    seen["drawn"] += 1
    if not plastic.groups:
        return
    seen["with groups"] += 1
    shares = ("uneven", "signed")[number % 2]
    times = (0.5, 1.0, 2.0)[number % 3]
    grown = fxplastic.Plan.random(plastic, grow=times, shares=shares, seed=number)
    if (module := rewritten(plastic, grown, seen)) is not None:
        check_against(module, model, inputs, f"growth by {times}")
    less = fxplastic.Plan.random(plastic, prune=0.4, seed=number)
    dead = {name: pruned(plastic.groups[name], edit.take) for name, edit in less.edits.items()}
    if (module := rewritten(plastic, less, seen)) is not None:
        check_against(
            module, mask_consumers(model, plastic.groups, dead), inputs, "pruning by 40 %"
        )
    check_composition(plastic, inputs, number, seen)
    takes, parts, back = copies_without_a_share(plastic)
    doubled = fxplastic.Plan.from_takes(plastic, takes, parts)
    if (module := rewritten(plastic, doubled, seen)) is not None:
        undo = fxplastic.Plan.from_takes(module, back)
        again = rewritten(module, undo, seen)
        assert again is not None
        check_against(again, model, inputs, "growing and pruning the copies")
        assert doubled.then(undo) == fxplastic.Plan.from_takes(plastic, {})


def check_composition(
    plastic: fxplastic.PlasticModule, inputs: tuple[Tensor, ...], number: int, seen: Counter[str]
) -> None:
    """Two rewrites are the rewrite by both plans as one."""
    first = fxplastic.Plan.random(plastic, grow=0.5, turnover=0.3, shares="signed", seed=number)
    middle = rewritten(plastic, first, seen)
    if middle is None:
        return
    second = fxplastic.Plan.random(middle, prune=0.4, grow=0.25, seed=number + 1)
    last, at_once = rewritten(middle, second, seen), None
    if last is not None:
        at_once = rewritten(plastic, first.then(second), seen)
        assert at_once is not None, "what two steps can do, one can do"
        seen["composed"] += 1
        ours, theirs = at_once.state_dict(), last.state_dict()
        assert ours.keys() == theirs.keys()
        for key, tensor in ours.items():
            scale = float(tensor.double().abs().max().clamp_min(1e-30))
            assert float((tensor - theirs[key]).double().abs().max()) <= COMPOSED * scale


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_random_architectures_change_their_widths_exactly(chunk: int) -> None:
    seen: Counter[str] = Counter()

    @seed(200 + chunk)
    @drawing(max_examples=drawn(0.5))
    @given(programs(), st.integers(0, 999))
    def check(program: Program, number: int) -> None:
        check_function(program, number, seen)

    check()
    print(f"chunk {chunk}: {dict(seen)}")
    assert seen["with groups"] >= 0.7 * seen["drawn"], "most draws must have something to check"
    assert seen["rewritten"] >= 2 * seen["refused"], "and must not be refused"
    assert seen["composed"] >= 0.4 * seen["with groups"]


def check_state(program: Program, number: int, make: Maker, seen: Counter[str]) -> None:
    """State carried through growth is the state recomputed on grown snapshots of the weights."""
    model, inputs = prepare(program.build(), seed=number), program.inputs()
    plastic = fxplastic.plasticize(model, inputs)
    seen["drawn"] += 1
    shares = ("uneven", "signed")[number % 2]
    plan = fxplastic.Plan.random(plastic, grow=0.5, shares=shares, seed=number)
    if plan.keeps_widths or (recomputed := rewritten(plastic, plan, seen)) is None:
        return
    optimizer, expected = make(plastic.parameters()), make(recomputed.parameters())
    for step in range(STEPS):
        recomputed.load_state_dict(fxplastic.rewrite(plastic, plan).module.state_dict())
        backward(recomputed, program.inputs(step), step)
        expected.step()
        backward(plastic, program.inputs(step), step)
        optimizer.step()
    held = copy.deepcopy(optimizer.state_dict())
    result = fxplastic.rewrite(plastic, plan, optimizer)
    assert str(held) == str(optimizer.state_dict())
    error = distance(outputs(result.module, inputs, "eval"), outputs(plastic, inputs, "eval"))
    assert error <= STATE_TOLERANCE
    seen["compared"] += assert_same_state(result.optimizer, expected, result.module, recomputed)
    for name, parameter in result.module.named_parameters():
        other = dict(recomputed.named_parameters())[name].grad
        assert (parameter.grad is None) == (other is None)
        if other is not None:
            scale = float(other.abs().max())
            error = float((parameter.grad - other).abs().max())
            # What is zero by symmetry (a bias in front of a norm) is rounding noise.
            assert error <= STATE_TOLERANCE * scale or scale < 1e-12, (name, error, scale)
    seen["with groups"] += 1


@pytest.mark.parametrize("chunk", range(CHUNKS))
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_state_carried_through_growth_is_the_state_recomputed(name: str, chunk: int) -> None:
    seen: Counter[str] = Counter()

    @seed(300 + chunk)
    @drawing(max_examples=drawn(0.2))
    @given(programs(), st.integers(0, 999))
    def check(program: Program, number: int) -> None:
        torch.manual_seed(number)
        check_state(program, number, OPTIMIZERS[name], seen)

    check()
    print(f"{name}, chunk {chunk}: {dict(seen)}")
    assert seen["with groups"] >= 0.4 * seen["drawn"]
    assert seen["compared"] >= 4 * seen["with groups"]
