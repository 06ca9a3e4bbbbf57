"""`explain` names the right op and source line, and the way there."""

import linecache
from functools import cache
from itertools import pairwise

import pytest
import timm
import torch
from torch import Tensor, nn

from fxplastic import DiscoverError, PlasticModule, api, explain, plasticize
from fxplastic.discover import discover
from fxplastic.flow import flow
from fxplastic.layouts import with_layout
from fxplastic.verify import Disagreement


@cache
def model(name: str) -> PlasticModule:
    size = 224 if "224" in name else 64
    return plasticize(timm.create_model(name).eval(), torch.zeros(2, 3, size, size))


def line(source: str) -> str:
    """The text of a ``"file:line in function"``."""
    file, _, number = source.partition(" in ")[0].rpartition(":")
    return linecache.getline(file, int(number)).strip()


FROZEN = [
    # model, parameter, axis, op that froze it, what its source line calls, a part of the reason
    ("resnet18", "conv1.weight", 1, "Conv2d", "self.conv1(x)", "an axis without neurons"),
    ("resnet18", "layer2.0.conv1.weight", 3, "Conv2d", "self.conv1(x)", "kernel axis"),
    ("vit_tiny_patch16_224", "pos_embed", 1, "scaled_dot_product_attention",
     "scaled_dot_product_attention(", "multiplies two activations"),
    ("vit_tiny_patch16_224", "cls_token", 2, "layer_norm", "F.layer_norm(", "averages over it"),
    ("vit_tiny_patch16_224", "blocks.3.mlp.fc1.weight", 1, "layer_norm", "F.layer_norm(",
     "averages over it"),
    ("convnext_atto", "stages.0.blocks.0.gamma", 0, "layer_norm", "F.layer_norm(",
     "averages over it"),
    ("convnext_atto", "stages.0.blocks.0.conv_dw.weight", 2, "Conv2d", "self.conv_dw(x)",
     "kernel axis"),
    ("mixer_s32_224", "blocks.0.mlp_tokens.fc2.weight", 0, "mean", "x.mean(dim=1)",
     "averages over it"),
    ("mixer_s32_224", "blocks.0.mlp_tokens.fc1.weight", 1, "Linear", "self.fc1(x)",
     "an axis without neurons"),
    ("swin_tiny_patch4_window7_224", "layers.0.blocks.0.attn.relative_position_bias_table", 1,
     "matmul", "attn @ v", "attention"),
    ("swin_tiny_patch4_window7_224", "layers.0.blocks.0.attn.relative_position_bias_table", 0,
     "getitem", "self.relative_position_bias_table[", "more than once"),
    ("mambaout_femto", "stem.conv1.weight", 0, "layer_norm", "F.layer_norm(", "averages over it"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "parameter", "axis", "op", "call", "reason"), FROZEN)
def test_a_frozen_axis_has_the_op_and_the_source_line_that_froze_it(
    name: str, parameter: str, axis: int, op: str, call: str, reason: str
):
    plastic = model(name)
    (found,) = explain(plastic, parameter, axis)
    (part,) = found.parts
    assert part.group is None
    assert reason in part.reason
    assert call in line(part.source)
    last = part.way[-1]
    assert (last.does, last.op, last.node, last.source) == ("freezes", op, part.node, part.source)
    first = part.way[0]
    assert f"{parameter}:{axis}" in first.axes


def test_two_fates_on_one_axis_are_told_apart():
    (found,) = explain(model("vit_tiny_patch16_224"), "blocks.0.attn.qkv.weight", 0)
    assert [(p.neurons, "contracts" in p.reason) for p in found.parts] == [
        (192, True),
        (192, False),
    ]
    assert all(line(p.way[0].source) == line(p.way[1].source) for p in found.parts)  # self.qkv(x)


WAYS = [
    ("resnet18", "layer1.0.bn2.weight", 0, ["Conv2d", "BatchNorm2d", "iadd", "ReLU", "Conv2d"]),
    ("vit_tiny_patch16_224", "blocks.0.mlp.fc2.weight", 1,
     ["Linear", "GELU", "Dropout", "Identity", "Linear"]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "parameter", "axis", "ops"), WAYS)
def test_the_way_of_a_group_leads_from_its_maker_to_who_takes_it_up(
    name: str, parameter: str, axis: int, ops: list[str]
):
    plastic = model(name)
    (found,) = explain(plastic, parameter, axis)
    way = found.parts[0].way
    assert [link.op for link in way] == ops
    assert [way[0].does, way[-1].does] == ["makes", "takes up"]
    assert f"{parameter}:{axis}" in {text for link in way for text in link.axes}
    steps = {step.node: step for step in flow(plastic).steps}
    for before, after in pairwise(way):  # each link reads the one before, which holds the group
        assert before.node in steps[after.node].inputs
        assert found.parts[0].group in {held.group for held in steps[before.node].holds}


class Branching(nn.Module):
    """Two paths, of which one is in the training graph alone, and a parameter used by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 8)
        self.scale = nn.Parameter(torch.ones(8))
        self.second = nn.Linear(8, 2)
        self.counts = nn.Buffer(torch.zeros(4, dtype=torch.long))
        self.constant = nn.Buffer(torch.zeros(4), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x) * self.scale
        if self.training:
            hidden = hidden - hidden.mean(1, keepdim=True)
        return self.second(hidden) + self.counts.sum() + self.constant.sum()


@cache
def branching() -> PlasticModule:
    return plasticize(Branching(), torch.zeros(4, 3))


def test_what_is_frozen_in_training_alone_is_found_in_that_graph():
    for parameter in ("first.weight", "scale"):
        (found,) = explain(branching(), parameter, 0)
        (part,) = found.parts
        assert part.training
        assert "hidden.mean(1, keepdim=True)" in line(part.source)
        assert part.way[-1].op == "mean"


@pytest.mark.parametrize(
    ("parameter", "text"),
    [("counts", "whole numbers"), ("constant", "a constant of the model's code")],
)
def test_what_holds_no_neurons_says_so(parameter: str, text: str):
    (found,) = explain(branching(), parameter)
    assert (found.role, found.parts[0].neurons) == ("none", 0)
    assert text in found.parts[0].reason


def test_what_the_user_froze_names_the_pattern():
    mlp = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
    plastic = plasticize(mlp, torch.zeros(4, 3), freeze=["0.*"])
    (found,) = explain(plastic, "2.weight", 1)
    assert "freeze='0.*'" in found.parts[0].reason
    assert found.parts[0].way[0].op == "Linear"


def test_tied_weights_are_found_by_any_of_their_names():
    mlp = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    mlp[2].weight = mlp[0].weight
    plastic = plasticize(mlp, torch.zeros(2, 4))
    assert explain(plastic, "2.weight", 0) == explain(plastic, "0.weight", 0)


def test_a_group_that_was_refuted_is_frozen_for_that(monkeypatch: pytest.MonkeyPatch):
    mlp = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
    plastic = plasticize(mlp, torch.zeros(2, 3))
    found = api._without(
        discover(plastic, plastic.traced), [Disagreement("0.weight:0", 0.5, 1.0, "uneven", False)]
    )
    without = with_layout(plastic, plastic.traced, found.groups, found.frozen)
    (one,) = explain(without, "0.weight", 0)
    assert one.parts[0].group is None
    assert one.parts[0].reason == without.frozen[-1].reason


@pytest.mark.parametrize(
    ("parameter", "axis", "text"),
    [
        ("frist.weight", None, "did you mean 'first.weight'"),
        ("nothing at all", None, "no parameter or buffer 'nothing at all'"),
        ("first.weight", 2, "its axes are -2 to 1"),
    ],
)
def test_a_name_or_axis_that_is_not_there_is_refused(parameter: str, axis: int | None, text: str):
    with pytest.raises(DiscoverError, match=text):
        explain(branching(), parameter, axis)


def test_explaining_and_following_leave_the_module_as_it_was():
    torch.manual_seed(0)
    plastic = plasticize(nn.Sequential(nn.Linear(3, 8), nn.Linear(8, 2)), torch.zeros(2, 3))
    before = {name: value.clone() for name, value in plastic.state_dict().items()}
    code = plastic.code
    explain(plastic, "0.weight")
    flow(plastic, training=True)
    assert code == plastic.code
    assert all(torch.equal(value, before[name]) for name, value in plastic.state_dict().items())
