"""Random architectures: a turnover is masking, a permutation nothing, the carried state exact.

`HYPOTHESIS_PROFILE=nightly` (`make nightly`) draws ten times as many.
"""

import copy
from collections import Counter
from collections.abc import Callable, Iterable

import pytest
import torch
from hypothesis import given, seed, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

import fxplastic
from fxplastic.propagate import LOST
from tests.architectures import programs
from tests.oracle import (
    MODES,
    assert_identity_is_bit_equal,
    assert_permutation_preserves_outputs,
    assert_turnover_equals_masking,
    distance,
    mask_consumers,
    outputs,
    permutation,
    prepare,
    pruned,
)
from tests.programs import Program

CHUNKS = 4
STEPS = 3
STATE_TOLERANCE = 1e-9  # of each state tensor's largest entry, in float64

Maker = Callable[[Iterable[Tensor]], Optimizer]
OPTIMIZERS: dict[str, Maker] = {
    "sgd": lambda p: SGD(p, lr=0.01, momentum=0.9),
    "adam": lambda p: Adam(p, lr=0.001, amsgrad=True),
    "adamw": lambda p: AdamW(p, lr=0.001, weight_decay=0.1),
}


def drawn(part: float = 1.0) -> int:
    """Architectures for one chunk: the profile's number, or a part of it, over all chunks."""
    return max(1, int(settings.default.max_examples * part) // CHUNKS)


# --- the function -----------------------------------------------------------------------------


def check_function(program: Program, number: int, seen: Counter[str]) -> None:
    """Every property of one architecture that needs no training."""
    model, inputs = prepare(program.build(), seed=number), program.inputs()
    plastic = fxplastic.plasticize(model, inputs, attention="value" if number % 2 else None)
    assert not [record for record in plastic.frozen if LOST in record.reason]
    for mode in MODES:
        assert distance(outputs(plastic, inputs, mode), outputs(model, inputs, mode)) == 0.0
    assert_identity_is_bit_equal(plastic)
    assert_permutation_preserves_outputs(model, inputs, plastic, seed=number)
    effect = 0.0
    for shares in ("uneven", "signed"):
        for ratio in (0.3, 0.5):
            effect = max(
                effect,
                assert_turnover_equals_masking(
                    model, inputs, plastic, ratio=ratio, seed=number, shares=shares
                ),
            )
    seen["drawn"] += 1
    seen["with groups"] += bool(plastic.groups)
    seen["with blocks"] += any(group.block_count > 1 for group in plastic.groups.values())
    seen["with an effect"] += effect > 1e-6


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_random_architectures_turn_over_exactly(chunk: int) -> None:
    seen: Counter[str] = Counter()

    @seed(chunk)
    @settings(max_examples=drawn())
    @given(programs(), st.integers(0, 999))
    def check(program: Program, number: int) -> None:
        check_function(program, number, seen)

    check()
    print(f"chunk {chunk}: {dict(seen)}")
    assert seen["drawn"] >= drawn()
    assert seen["with groups"] >= 0.7 * seen["drawn"], "most draws must have something to check"
    assert seen["with an effect"] >= 0.95 * seen["with groups"], "and something to see"
    assert seen["with blocks"] >= 0.05 * seen["drawn"]


# --- the optimizer's state --------------------------------------------------------------------


def preserving_plan(plastic: fxplastic.PlasticModule, number: int) -> fxplastic.Plan:
    """A turnover with uneven or signed shares, then a permutation of every block."""
    shares = ("uneven", "signed")[number % 2]
    turned = fxplastic.Plan.random(plastic, turnover=0.4, seed=number, shares=shares)
    return turned.then(permutation(plastic, seed=number))


class Inert:
    """Keeps the neurons that a plan prunes without effect while the model trains.

    Their consumer slices are zero, and so are the gradients of these: then nothing flows back
    into them either, and a plan that copies others over them preserves the function.
    """

    def __init__(self, plastic: fxplastic.PlasticModule, plan: fxplastic.Plan) -> None:
        self.model = plastic
        self.dead = {n: pruned(plastic.groups[n], edit.take) for n, edit in plan.edits.items()}
        ones = copy.deepcopy(plastic)
        with torch.no_grad():
            for tensor in (*ones.parameters(), *ones.buffers()):
                if tensor.is_floating_point():
                    tensor.fill_(1.0)
        masked = mask_consumers(ones, plastic.groups, self.dead)
        self.masks = dict(masked.named_parameters()) | dict(masked.named_buffers())

    def silence_(self) -> None:
        """Zero the consumer slices."""
        with torch.no_grad():
            named = (*self.model.named_parameters(), *self.model.named_buffers())
            for name, tensor in named:
                if tensor.is_floating_point():
                    tensor.mul_(self.masks[name])

    def silence_gradients_(self) -> None:
        """Zero the gradients of the consumer slices."""
        for name, parameter in self.model.named_parameters():
            if parameter.grad is not None:
                parameter.grad.mul_(self.masks[name].detach())


def backward(model: nn.Module, inputs: tuple[Tensor, ...], step: int) -> None:
    """Gradients of a loss, in train mode, from a fixed random state."""
    model.train()
    model.zero_grad(set_to_none=True)
    torch.manual_seed(step)
    output = model(*inputs)
    target = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output)
    (output - target.roll(step)).square().mean().backward()


def assert_same_state(
    carried: Optimizer, expected: Optimizer, model: nn.Module, recomputed: nn.Module
) -> int:
    """Every state tensor of two optimizers agrees; returns how many were compared."""
    compared = 0
    others = dict(recomputed.named_parameters())
    for name, parameter in model.named_parameters():
        mine, other = carried.state[parameter], expected.state[others[name]]
        assert mine.keys() == other.keys()
        for key, value in mine.items():
            if isinstance(value, Tensor) and value.ndim:
                scale = max(float(other[key].abs().max()), 1e-30)
                # What is zero by symmetry (a bias in front of a norm) is rounding noise.
                error = float((value - other[key]).abs().max())
                assert error <= STATE_TOLERANCE * scale or scale < 1e-12, (name, key, error, scale)
                compared += scale >= 1e-12
    return compared


def check_state(program: Program, number: int, make: Maker, seen: Counter[str]) -> None:
    """Carried state equals the state recomputed on rewritten snapshots of the weights."""
    model, inputs = prepare(program.build(), seed=number), program.inputs()
    plastic = fxplastic.plasticize(model, inputs)
    seen["drawn"] += 1
    if not plastic.groups:
        return
    plan = preserving_plan(plastic, number)
    inert, optimizer = Inert(plastic, plan), make(plastic.parameters())
    inert.silence_()
    recomputed = copy.deepcopy(plastic)
    expected = make(recomputed.parameters())
    for step in range(STEPS):
        snapshot = fxplastic.rewrite(plastic, plan).module
        recomputed.load_state_dict(snapshot.state_dict())
        backward(recomputed, program.inputs(step), step)
        expected.step()
        backward(plastic, program.inputs(step), step)
        inert.silence_gradients_()
        optimizer.step()
    before = outputs(plastic, inputs, "eval")
    fxplastic.rewrite_(plastic, plan, optimizer)
    assert distance(outputs(plastic, inputs, "eval"), before) <= STATE_TOLERANCE
    seen["compared"] += assert_same_state(optimizer, expected, plastic, recomputed)
    seen["with groups"] += 1


@pytest.mark.parametrize("chunk", range(CHUNKS))
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_carried_state_is_the_state_recomputed(name: str, chunk: int) -> None:
    seen: Counter[str] = Counter()

    @seed(100 + chunk)
    @settings(max_examples=drawn(0.3))
    @given(programs(), st.integers(0, 999))
    def check(program: Program, number: int) -> None:
        check_state(program, number, OPTIMIZERS[name], seen)

    check()
    print(f"{name}, chunk {chunk}: {dict(seen)}")
    assert seen["with groups"] >= 0.5 * seen["drawn"]
    assert seen["compared"] >= 4 * seen["with groups"]
