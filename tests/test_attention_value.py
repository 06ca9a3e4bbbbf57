"""`attention="value"`: which value channels open, and in which blocks."""

import pytest

from tests.test_adversarial import layout, prepared

OPEN = {
    "attention_with_heads_as_batch": "2x4",
    "attention_with_heads_folded_into_batch": "2x4",
    "attention_by_sdpa": "2x4",
    "attention_with_heads_in_einsum": "2x4",
    "attention_with_interleaved_heads": "2x4",
    "talking_heads": "2x4",
    "grouped_queries_by_expand": "1x4",
    "grouped_queries_by_repeat_interleave": "2x4",
    "linear_attention": "2x4",
    "attention_with_relative_bias": "2x4",
    "attention_with_a_table_of_biases": "2x4",
    "attention_with_a_network_of_biases": "2x4",
    "attention_with_rotary_positions": "2x4",
}
CLOSED = {
    "cross_covariance_attention": "contracts two activations",
    "attention_with_query_as_key": "",
    "attention_with_a_bias_made_of_gains": "",
    "attention_with_a_gate_per_head": "treats every one of its positions differently",
}


@pytest.mark.parametrize("name", OPEN)
def test_value_channels_open_inside_their_head(name: str) -> None:
    _, _, plastic = prepared(name, "value")
    assert layout(plastic, "v.weight:0") == OPEN[name], [str(r) for r in plastic.frozen]
    assert not layout(plastic, "q.weight:0")


@pytest.mark.parametrize("name", CLOSED)
def test_values_that_are_no_free_channels_stay_frozen(name: str) -> None:
    _, _, plastic = prepared(name, "value")
    assert layout(plastic, "v.weight:0") == ""
    reasons = [r.reason for r in plastic.frozen if r.parameter == "v.weight" and r.axis == 0]
    assert any(CLOSED[name] in reason for reason in reasons), reasons


def test_a_bias_per_head_is_frozen_for_what_it_is() -> None:
    _, _, plastic = prepared("attention_with_relative_bias", "value")
    reasons = {r.reason for r in plastic.frozen if r.parameter == "bias" and r.axis == 0}
    assert len(reasons) == 1
    assert "one value for a whole attention head" in reasons.pop()
