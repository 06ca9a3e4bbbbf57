"""Every adversarial module at other widths: exact, or refused by name; never wrong."""

import re
from collections.abc import Iterator
from functools import cache

import pytest
from torch import Tensor, nn

import fxplastic
from fxplastic.errors import WidthError
from fxplastic.module import PlasticModule
from tests.adversarial import CASES, Case, widths
from tests.oracle import MODES, TOLERANCE, distance, mask_consumers, outputs, prepare, pruned

RUNNING = [case for case in CASES if not case.raises]
PLANS = {
    "grown": {"grow": 1.0},
    "trebled": {"grow": 2.0},
    "pruned": {"prune": 0.5},
    "mixed": {"prune": 0.25, "grow": 0.5},
}

FIXED_INDEX = r"(getitem|index_select).* it gives shape"
TWO_ACTIVATIONS = "contracts two activations"
REFUSED = {
    # A permutation, or a shuffle, that is fixed by the code and added to what it permutes.
    "half_roll_added": r"it would have \d+ neurons, not",
    "two_reshapes_added": "not what it was|do not fill its axes evenly",
    "channel_shuffle_added": "not what it was|do not fill its axes evenly",
    # Widths that a fixed number does not divide.
    "channel_shuffle_of_maps": "divisible by groups",
    "zero_padded_shortcut": "pad.* it gives shape",
    # Index tensors of the old width.
    "channels_by_index_buffer": FIXED_INDEX,
    "channels_by_index_select": FIXED_INDEX,
    "index_that_stays": FIXED_INDEX,
    "lines_that_turn_half_way": FIXED_INDEX,
    # Layers that hold sizes no rule sets.
    "recurrent_layer": r"call_module\[target=m\].*input_size",
    "multihead_attention_module": "embedding dimension of 8",
    "multihead_attention_returns_weights": "embedding dimension of 8",
    "transformer_encoder_layer": "unflatten",
    # Value channels whose head count is tied to a frozen one, or made by repetition.
    "attention_with_fused_qkv": "do not fill its axes evenly",
    "attention_in_windows_with_biases": "do not fill its axes evenly",
    "grouped_queries_by_expand": f"{TWO_ACTIVATIONS}|gives shape",
    "grouped_queries_by_repeat_interleave": f"{TWO_ACTIVATIONS}|do not fill its axes evenly",
    # Constants and inputs as wide as the neurons.
    "layer_normed_input_along_the_channels": "broadcast a dimension",
    "border_of_one_axis_beside_another": "do not fill its axes evenly",
    # Counting what has the width.
    "channels_counted": "sum.* reduces over it: copies would count twice",
    "expanded_and_summed": "sum.* reduces over it: copies would count twice",
    # Right shapes, wrong pairs.
    "constants_across_a_roll": "not what it (was|met before)",
    "inputs_rolled_by_-9": "meets in the program is not what it met before|in another order",
}
"""Cases that some change of width is refused for, with what the message says."""

Prepared = tuple[nn.Module, tuple[Tensor, ...], PlasticModule]


@cache
def prepared(name: str, attention: str | None) -> Prepared:
    case = next(case for case in CASES if case.name == name)
    model, inputs = prepare(case.model()), case.inputs()
    return model, inputs, fxplastic.plasticize(model, inputs, attention=attention)


def rewritten(case: Case, kind: str, attention: str | None) -> str | None:
    """Asserts that a rewrite to other widths is exact; returns the message of a refusal."""
    model, inputs, plastic = prepared(case.name, attention)
    plan = fxplastic.Plan.random(plastic, shares="signed", seed=3, **PLANS[kind])
    try:
        module = fxplastic.rewrite(plastic, plan).module
    except WidthError as error:
        return str(error)
    dead = {name: pruned(plastic.groups[name], edit.take) for name, edit in plan.edits.items()}
    reference = mask_consumers(model, plastic.groups, dead)
    for mode in MODES:
        error = distance(outputs(module, inputs, mode), outputs(reference, inputs, mode))
        assert error <= TOLERANCE, f"{kind} is off by {error:.1e} in {mode} mode"
    for name, group in module.groups.items():
        edit = plan.edits.get(name)
        assert group.size == (plastic.groups[name].size if edit is None else len(edit.take))
    return None


def variants() -> Iterator[tuple[Case, str, str | None]]:
    for case in RUNNING:
        own = case in widths.CASES
        for kind in PLANS if own else ("trebled", "mixed"):
            yield case, kind, None
        yield case, "pruned", "value"


VARIANTS = list(variants())


@pytest.mark.parametrize(
    ("case", "kind", "attention"), VARIANTS, ids=[f"{c.name}-{k}-{a}" for c, k, a in VARIANTS]
)
def test_other_widths_are_exact_or_refused(case: Case, kind: str, attention: str | None) -> None:
    message = rewritten(case, kind, attention)
    if message is not None:
        assert case.name in REFUSED, message
        assert re.search(REFUSED[case.name], message)
        assert re.search(r"'[\w.]+:\d", message), "a refusal names the group"


def test_every_case_that_is_listed_as_refused_is_refused() -> None:
    refused = set()
    for name in REFUSED:
        case = next(case for case in CASES if case.name == name)
        if any(rewritten(case, kind, a) for kind in PLANS for a in (None, "value")):
            refused.add(name)
    assert refused == set(REFUSED)


@pytest.mark.parametrize("batch", [1, 7])
@pytest.mark.parametrize("name", ["flattened_blocks", "layers_with_sizes", "groups_of_literals"])
def test_a_rewritten_module_takes_other_batch_sizes(name: str, batch: int) -> None:
    model, inputs, plastic = prepared(name, None)
    module = fxplastic.rewrite(plastic, fxplastic.Plan.random(plastic, grow=0.5)).module
    other = tuple(x[:1].expand(batch, *x.shape[1:]).contiguous() for x in inputs)
    error = distance(outputs(module, other, "eval"), outputs(model, other, "eval"))
    assert error <= TOLERANCE
