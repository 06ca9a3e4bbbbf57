"""What it means that a rewrite is right, written down a second time and as plainly as possible.

Nothing of the pass is used to say what the answer is: the reference is always the original module
(never the traced one), with slices set to zero by loops over single positions.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

import fxplastic
from fxplastic.groups import ChannelGroup
from fxplastic.module import PlasticModule
from tests.randomise import randomise, without_dropout

TOLERANCE = 1e-10
"""Relative to each output's largest absolute value, in float64."""

MODES = ("eval", "train", "train then eval")

Inputs = tuple[Any, ...]


def prepare(model: nn.Module, seed: int = 0) -> nn.Module:
    """`model` in float64 and eval mode, randomised, without element-wise dropout."""
    return without_dropout(randomise(model, seed)).eval()


# --- outputs ----------------------------------------------------------------------------------


def leaves(output: Any) -> list[Tensor]:
    """The tensors of an output: a tensor, or a tuple, named tuple, mapping or dataclass of them."""
    if isinstance(output, Tensor):
        return [output]
    if isinstance(output, Mapping):
        return [leaf for value in output.values() for leaf in leaves(value)]
    if isinstance(output, Sequence) and not isinstance(output, str):
        return [leaf for value in output for leaf in leaves(value)]
    if is_dataclass(output):
        return [leaf for field in fields(output) for leaf in leaves(getattr(output, field.name))]
    return []


@contextmanager
def untouched(module: nn.Module) -> Iterator[None]:
    """Puts every buffer object, all values and every training flag back afterwards."""
    owners = [(m, m.training, dict(m._buffers)) for m in module.modules()]
    values = [(t, t.detach().clone()) for t in (*module.parameters(), *module.buffers())]
    try:
        yield
    finally:
        for owner, training, buffers in owners:
            owner.training = training
            owner._buffers.update(buffers)
        for tensor, value in values:
            tensor.copy_(value)


def outputs(module: nn.Module, inputs: Inputs, mode: str, seed: int = 0) -> list[Tensor]:
    """Outputs of `module` from a fixed random state; the module is left as it was.

    ``"train then eval"`` shows what the train-mode run left in the buffers.
    """
    with torch.no_grad(), untouched(module):
        module.train(mode != "eval")
        torch.manual_seed(seed)
        result = leaves(module(*inputs))
        if mode == "train then eval":
            result = leaves(module.eval()(*inputs))
        return [leaf.clone() for leaf in result]


def distance(ours: Sequence[Tensor], reference: Sequence[Tensor]) -> float:
    """Largest difference over the largest absolute value of the output, over all outputs."""
    assert len(ours) == len(reference) > 0
    worst = torch.zeros((), dtype=torch.float64)
    for one, other in zip(ours, reference, strict=True):
        assert one.shape == other.shape
        scale = other.double().abs().max().clamp_min(1e-30)
        worst = torch.maximum(worst, (one.double() - other.double()).abs().max() / scale)
    return float(worst)


# --- masking ----------------------------------------------------------------------------------


def pruned(group: ChannelGroup, take: Sequence[int]) -> list[int]:
    """Neurons that no new neuron copies."""
    return sorted(set(range(group.size)) - {int(source) for source in take})


def mask_consumers(
    model: nn.Module, groups: Mapping[str, ChannelGroup], neurons: Mapping[str, Sequence[int]]
) -> nn.Module:
    """A copy of `model`; the consumer slices of the given neurons of each group are zero."""
    model = copy.deepcopy(model)
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    with torch.no_grad():
        for name, dead in neurons.items():
            for site in groups[name].consumers:
                tensor = tensors[site.parameter]
                for neuron in dead:
                    for position in site.positions[neuron].tolist():
                        if site.rows is None:
                            tensor.select(site.axis, position).zero_()
                        else:
                            for row in site.rows[neuron].tolist():
                                tensor[row].select(site.axis - 1, position).zero_()
    return model


# --- what must hold ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """Error of a turnover against masking, and what the masking changed, over all modes."""

    error: float
    effect: float


def turnover_outcome(
    model: nn.Module, inputs: Inputs, plastic: PlasticModule, plan: fxplastic.Plan
) -> Outcome:
    """Compares `plastic` turned over by `plan` with `model` masked, in every mode."""
    dead = {name: pruned(plastic.groups[name], edit.take) for name, edit in plan.edits.items()}
    reference = mask_consumers(model, plastic.groups, dead)
    turned = copy.deepcopy(plastic)
    fxplastic.rewrite_(turned, plan)
    error = effect = 0.0
    for mode in MODES:
        expected = outputs(reference, inputs, mode)
        error = max(error, distance(outputs(turned, inputs, mode), expected))
        effect = max(effect, distance(outputs(model, inputs, mode), expected))
    return Outcome(error, effect)


def assert_turnover_equals_masking(
    model: nn.Module,
    inputs: Inputs,
    plastic: PlasticModule,
    *,
    ratio: float = 0.5,
    seed: int = 0,
    shares: str = "uneven",
    tolerance: float = TOLERANCE,
) -> float:
    """Turns over every block of every group at once; returns what the masking changed."""
    plan = fxplastic.Plan.random(plastic, turnover=ratio, seed=seed, shares=shares)
    outcome = turnover_outcome(model, inputs, plastic, plan)
    assert outcome.error <= tolerance, (
        f"turnover with {shares} shares is off by {outcome.error:.2e} (masking changes the output "
        f"by {outcome.effect:.2e}); groups: {list(plan.edits)}"
    )
    return outcome.effect


def permutation(plastic: PlasticModule, seed: int = 0) -> fxplastic.Plan:
    """A plan that shuffles the neurons inside every block of every exact group."""
    draw = torch.Generator().manual_seed(seed)
    takes = {}
    for name, group in plastic.groups.items():
        if group.exact:
            size = group.block_size
            order = [torch.randperm(size, generator=draw) for _ in range(group.block_count)]
            takes[name] = torch.cat([size * block + one for block, one in enumerate(order)])
    return fxplastic.Plan.from_takes(plastic, takes)


def assert_permutation_preserves_outputs(
    model: nn.Module,
    inputs: Inputs,
    plastic: PlasticModule,
    *,
    seed: int = 0,
    tolerance: float = TOLERANCE,
) -> None:
    """Shuffles the neurons of every block and compares with the original in every mode."""
    turned = copy.deepcopy(plastic)
    fxplastic.rewrite_(turned, permutation(plastic, seed))
    for mode in MODES:
        error = distance(outputs(turned, inputs, mode), outputs(model, inputs, mode))
        assert error <= tolerance, f"a permutation changes the output by {error:.2e} in {mode} mode"


def assert_identity_is_bit_equal(plastic: PlasticModule) -> None:
    """The plan that takes every neuron from itself changes no bit of any parameter or buffer."""
    takes = {name: list(range(group.size)) for name, group in plastic.groups.items()}
    turned = copy.deepcopy(plastic)
    fxplastic.rewrite_(turned, fxplastic.Plan.from_takes(plastic, takes))
    before, after = plastic.state_dict(), turned.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
