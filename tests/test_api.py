"""`plasticize`: inputs, options, refusals; and `verify`, which believes nobody."""

import copy
import dataclasses
import importlib
import re
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

import fxplastic
from fxplastic.discover import Discovery
from fxplastic.errors import DiscoverError, FxPlasticError, TraceError
from fxplastic.groups import ChannelGroup
from fxplastic.trial import Trial, distance
from tests.adversarial.case import HIDDEN, Rows
from tests.hand_made import bits

api = importlib.import_module("fxplastic.api")


def mlp() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(4, 6)).square().mean().backward()
    optimizer.step()
    return optimizer


# --- inputs and options -----------------------------------------------------------------------


def test_inputs_may_be_a_tensor_a_tuple_or_keywords() -> None:
    model, x = mlp(), torch.randn(2, 6)
    found = [fxplastic.plasticize(model, given).fingerprint for given in (x, (x,), [x])]
    found.append(fxplastic.plasticize(model, {"input": x}).fingerprint)
    assert len(set(found)) == 1


def test_the_input_size_is_inferred_from_the_models_own_configuration() -> None:
    model = timm.create_model("test_resnet")
    plastic = fxplastic.plasticize(model)
    assert plastic.traced.args[0].shape == (2, *model.pretrained_cfg["input_size"])
    assert plastic.groups


REFUSED: dict[str, tuple[Any, dict[str, Any], type[FxPlasticError], str]] = {
    "no inputs": (lambda m: m, {"example_inputs": None}, TraceError,
                  r"no input size can be inferred for Sequential: .*; pass example_inputs, such"),
    "wrong shape": (lambda m: m, {"example_inputs": torch.zeros(2, 5)}, TraceError,
                    "in training mode: RuntimeError"),
    "too many inputs": (lambda m: m, {"example_inputs": (torch.zeros(2, 6),) * 2}, TraceError,
                        r"the example inputs don't fit Sequential.forward"),
    "attention": (lambda m: m, {"attention": "all"}, DiscoverError,
                  "attention='all' is not known: give None or 'value'"),
    "freeze": (lambda m: m, {"freeze": ["head.*"]}, DiscoverError,
               r"freeze='head\.\*' matches no parameter and no buffer: give names as in"),
    "compiled": (lambda m: torch.compile(m, backend="eager"), {}, TraceError,
                 "is compiled: pass model._orig_mod, which shares its tensors; the compiled model"),
    "wrapped": (nn.DataParallel, {}, TraceError,
                "wrapped in DataParallel: pass model.module, which it shares"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_made_plastic_is_refused_and_left_as_it_was(case: str) -> None:
    wrap, options, error, message = REFUSED[case]
    model = mlp()
    optimizer = optimizer_of(model)
    before = bits(model, optimizer)
    with pytest.raises(error, match=message):
        fxplastic.plasticize(wrap(model), **{"example_inputs": torch.zeros(2, 6)} | options)
    assert bits(model, optimizer) == before


def test_frozen_names_are_left_alone_and_say_so() -> None:
    plastic = fxplastic.plasticize(mlp(), torch.zeros(2, 6), freeze=["2.*"])
    assert not plastic.groups  # both hidden layers run through layer 2
    asked = {(r.parameter, r.axis) for r in plastic.frozen if "you asked for it" in r.reason}
    assert {("2.weight", 0), ("2.weight", 1), ("2.bias", 0), ("0.weight", 0)} <= asked


def test_a_norm_over_the_channels_gives_approximate_groups_on_demand() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 3))
    assert not fxplastic.plasticize(model, torch.zeros(2, 6)).groups
    groups = fxplastic.plasticize(model, torch.zeros(2, 6), approximate=True).groups.values()
    assert [(g.size, g.exact) for g in groups] == [(8, False)]


def test_every_frozen_record_names_the_place_and_the_reason() -> None:
    class Unknown(Rows):
        def forward(self, x: Tensor) -> Tensor:
            return self.o(torch.special.gammaln(self.i(x).abs() + 1).renorm(2, 0, 1.0))

    plastic = fxplastic.plasticize(Unknown(), torch.zeros(2, 6))
    record = next(r for r in plastic.frozen if (r.parameter, r.axis) == ("i.weight", 0))
    assert "there is no rule for aten.renorm" in record.reason
    assert "add a rule" in record.reason
    assert record.node == "renorm"
    assert re.search(r"test_api\.py:\d+ in forward", record.source)
    assert record.positions == 8


def test_groups_and_sites_are_a_graph() -> None:
    graph = fxplastic.group_graph(fxplastic.plasticize(mlp(), torch.zeros(2, 6)))
    edges = {
        (one[1], other[1]): data
        for one, other, data in graph.edges(data=True)
        if other[1] != one[1]
    }
    assert edges["0.weight:0", "2.weight"] == {"axis": 1, "role": "consumer", "slots": 1}
    assert graph.nodes["group", "2.weight:0"] == {"size": 8, "blocks": 1, "exact": True}


# --- verify -----------------------------------------------------------------------------------


def swapped(group: ChannelGroup) -> ChannelGroup:
    """The group with its consumers taken for producers."""
    sites = tuple(dataclasses.replace(s, role="producer") for s in group.sites)
    return dataclasses.replace(group, sites=sites)


def shifted(group: ChannelGroup) -> ChannelGroup:
    """The group with the slots of its first consumer moved by one neuron."""
    first = group.consumers[0]
    moved = dataclasses.replace(first, positions=first.positions.roll(1, 0))
    sites = tuple(moved if s is first else s for s in group.sites)
    return dataclasses.replace(group, sites=sites)


def forgetful(group: ChannelGroup) -> ChannelGroup:
    """The group without its bias."""
    return dataclasses.replace(
        group, sites=tuple(s for s in group.sites if not s.parameter.endswith("bias"))
    )


@pytest.mark.parametrize("mistake", [swapped, shifted, forgetful])
def test_verify_freezes_the_group_that_is_wrong_and_no_other(
    mistake: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = api.discover

    def wrong(*args: Any, **kwargs: Any) -> Discovery:
        result = found(*args, **kwargs)
        groups = dict(result.groups)
        groups["0.weight:0"] = mistake(groups["0.weight:0"])
        return dataclasses.replace(result, groups=groups)

    monkeypatch.setattr(api, "discover", wrong)
    model, x = mlp(), torch.randn(4, 6)
    assert set(fxplastic.plasticize(model, x).groups) == {"0.weight:0", "2.weight:0"}
    before = copy.deepcopy(model.state_dict())
    plastic = fxplastic.plasticize(model, x, verify=True)
    assert set(plastic.groups) == {"2.weight:0"}
    reasons = [r.reason for r in plastic.frozen if (r.parameter, r.axis) == ("0.weight", 0)]
    assert any(
        "verification refuted it: a turnover with uneven shares differs" in r for r in reasons
    )
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_verify_keeps_what_is_exact_and_leaves_the_model_alone() -> None:
    model = timm.create_model("test_resnet", drop_rate=0.1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = bits(model, optimizer)
    state = torch.get_rng_state()
    plain = fxplastic.plasticize(model, torch.randn(2, 3, 64, 64))
    proved = fxplastic.plasticize(model, torch.randn(2, 3, 64, 64), verify=True)
    assert proved.fingerprint == plain.fingerprint
    assert bits(model, optimizer) == before
    assert state.shape == torch.get_rng_state().shape


class Casts(nn.Module):
    """Names float32 wherever it can."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.conv, self.b = nn.Linear(6, 16), nn.Conv1d(1, 8, 1), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.a(x)).to(torch.float32)
        steps = self.conv(torch.arange(16, device=x.device)[None, None].float())
        h = h + steps.mean().to(dtype=torch.float32)
        return torch.softmax(self.b(h), -1, dtype=torch.float32) * torch.ones(4, dtype=torch.float)


def test_verify_works_in_float64_where_the_code_says_float32() -> None:
    model = Casts()
    plastic = fxplastic.plasticize(model, torch.randn(4, 6), verify=True)
    assert set(plastic.groups) == {"a.weight:0"}
    trial = Trial.of(plastic, (torch.randn(4, 6),), {}, seed=0)
    (output,) = trial.outputs(trial.module, training=False)
    assert output.dtype == torch.float64
    assert not torch.equal(output, output.float().double())
    turned = fxplastic.rewrite(trial.module, fxplastic.Plan.random(trial.module, turnover=0.4))
    assert distance(trial.outputs(turned.module, False), [output]) > 1e-3
    assert model(torch.randn(4, 6)).dtype == torch.float32


def test_verify_says_when_it_could_not_test() -> None:
    class Silent(Rows):
        def forward(self, x: Tensor) -> Tensor:
            return self.o(self.i(x)) * 0

    plastic = fxplastic.plasticize(Silent(), torch.randn(4, 6), verify=True)
    assert not plastic.groups
    assert any("could not test this group" in r.reason for r in plastic.frozen)
    assert set(HIDDEN) <= {f"{r.parameter}:{r.axis}" for r in plastic.frozen}


def test_verify_says_when_the_model_does_not_run() -> None:
    class Infinite(Rows):
        def forward(self, x: Tensor) -> Tensor:
            return self.o(self.i(x)) / 0

    with pytest.raises(FxPlasticError, match=r"not finite in float64 .* or verify=False"):
        fxplastic.plasticize(Infinite(), torch.randn(4, 6), verify=True)
