"""Calls that surround tensors: functions kept whole, autocast by device, hooks, sums of sizes."""

import pytest
import torch
from torch import Tensor, fx, nn

import fxplastic
from fxplastic import TraceError
from tests.oracle import assert_turnover_equals_masking, distance, outputs, prepare


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.i, self.o = nn.Linear(6, 8), nn.Linear(8, 3)


def cut(h: Tensor, sizes: list[int]) -> Tensor:
    sizes[0] = h.shape[1] - 1  # it is its own to write to, each time
    return h[:, : sizes[0]]


fx.wrap("cut")


class CallsWhole(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.o(cut(self.i(x), [0, 1]).relu())


def test_a_function_kept_whole_may_write_into_its_lists() -> None:
    model, x = prepare(CallsWhole()), torch.randn(4, 5, 6, dtype=torch.float64)
    plastic = fxplastic.plasticize(model, x)
    assert [group.size for group in plastic.groups.values()] == [8]
    assert_turnover_equals_masking(model, (x,), plastic)
    assert distance(outputs(plastic, (x,), "eval"), outputs(model, (x,), "eval")) == 0.0


class AutocastByDevice(Base):
    def forward(self, x: Tensor) -> Tensor:
        h = self.i(x)
        with torch.autocast(device_type=h.device.type, enabled=False):
            h = h.relu()
        return self.o(h)


def test_autocast_by_the_device_of_a_tensor_is_searched() -> None:
    model, x = prepare(AutocastByDevice()), torch.randn(4, 6, dtype=torch.float64)
    plastic = fxplastic.plasticize(model, x)
    assert [group.size for group in plastic.groups.values()] == [8]
    assert_turnover_equals_masking(model, (x,), plastic)


class Inner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.m = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.m(x).relu()


class Recorder(Base):
    """Keeps what an inner module returns by a hook that its own forward installs."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Inner()

    def forward(self, x: Tensor) -> Tensor:
        kept: list[Tensor] = []
        handle = self.inner.register_forward_hook(lambda _m, _args, out: kept.append(out))
        h = self.inner(self.i(x))
        handle.remove()
        return self.o(h + kept[0])


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_hooks_that_forward_installs_are_traced(device: str) -> None:
    model = Recorder().to(device)
    plastic = fxplastic.plasticize(model, torch.zeros(4, 6, device=device))
    assert sorted(group.size for group in plastic.groups.values()) == [8, 8]
    assert not model.inner._forward_hooks


def test_a_traced_hook_computes_what_the_model_does() -> None:
    model, x = prepare(Recorder()), torch.randn(4, 6, dtype=torch.float64)
    plastic = fxplastic.plasticize(model, x)
    assert distance(outputs(plastic, (x,), "eval"), outputs(model, (x,), "eval")) == 0.0
    assert_turnover_equals_masking(model, (x,), plastic)


class KeepsByHook(Base):
    """Takes what a hook from outside kept: tracing cannot see how it came about."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.kept = Inner(), {}
        self.inner.register_forward_hook(lambda _m, _args, out: self.kept.update(out=out))

    def forward(self, x: Tensor) -> Tensor:
        return self.o(self.inner(self.i(x)) + self.kept["out"])


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_what_an_outer_hook_kept_is_refused(device: str) -> None:
    model = KeepsByHook().to(device)
    with pytest.raises(TraceError, match="hooks that keep what a module returns"):
        fxplastic.plasticize(model, torch.zeros(4, 6, device=device))


class SumOfSizes(Base):
    """The shape of the input, less its last axis, and a number: as language models do."""

    def forward(self, x: Tensor) -> Tensor:
        h = torch.addmm(self.i.bias, x.view(-1, x.size(-1)), self.i.weight.t())
        h = h.view(x.size()[:-1] + (8,))  # noqa: RUF005, the form that this is about
        return self.o(h.relu())


def test_a_number_added_to_a_shape_follows_the_width() -> None:
    model, x = prepare(SumOfSizes()), torch.randn(2, 5, 6, dtype=torch.float64)
    plastic = fxplastic.plasticize(model, x)
    plan = fxplastic.plan_widths(plastic, 1.5, shares="signed")
    wider = fxplastic.rewrite(plastic, plan).module
    assert wider.get_parameter("i.weight").shape == (12, 6)
    for shape in ((2, 5, 6), (3, 5, 6), (2, 7, 6)):
        other = torch.randn(shape, dtype=torch.float64)
        assert distance(outputs(wider, (other,), "eval"), outputs(model, (other,), "eval")) < 1e-12


class UnequalParts(Base):
    """Queries and keys of four channels beside eight values, cut from one axis."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.p = nn.Linear(8, 16), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        h = self.i(x)
        q, k, v = self.qkv(h).split([4, 4, 8], dim=-1)
        return self.o((h + self.p((q @ k.transpose(1, 2)).softmax(-1) @ v)).tanh())


def test_values_beside_keys_change_their_width_on_any_batch() -> None:
    model, x = prepare(UnequalParts()), torch.randn(2, 5, 6, dtype=torch.float64)
    plastic = fxplastic.plasticize(model, x, attention="value")
    plan = fxplastic.plan_widths(plastic, 1.5, shares="signed")
    wider = fxplastic.rewrite(plastic, plan).module
    assert wider.get_parameter("qkv.weight").shape == (20, 12)
    for shape in ((2, 5, 6), (3, 5, 6), (2, 9, 6)):
        other = torch.randn(shape, dtype=torch.float64)
        assert distance(outputs(wider, (other,), "eval"), outputs(model, (other,), "eval")) < 1e-12


class WithMultihead(Base):
    def __init__(self) -> None:
        super().__init__()
        self.m = nn.MultiheadAttention(8, 2, batch_first=True)
        self.one, self.two = nn.Linear(8, 12), nn.Linear(12, 8)

    def forward(self, x: Tensor) -> Tensor:
        h = self.i(x)
        h = nn.functional.layer_norm(h, (8,))
        h = h + self.m(h, h, h, need_weights=False)[0]
        return self.o(h + self.two(self.one(h).relu()))


def test_a_layer_that_cannot_change_holds_back_its_own_groups_only() -> None:
    model = prepare(WithMultihead())
    plastic = fxplastic.plasticize(model, torch.zeros(2, 5, 6).double(), attention="value")
    plan = fxplastic.plan_widths(plastic, 1.5)
    assert list(plan.edits) == ["one.weight:0"]
    assert any(note.startswith("m.in_proj_weight:0 is left alone") for note in plan.notes)


class HooksItsLayer(Base):
    def forward(self, x: Tensor) -> Tensor:
        handle = self.i.register_forward_hook(lambda _m, _args, out: out * 2)
        h = self.i(x)
        handle.remove()
        return self.o(h.relu())


def test_a_hook_that_forward_adds_to_a_whole_layer_is_refused() -> None:
    with pytest.raises(TraceError, match=r"test_traced_calls.py:\d+ .*adds a hook to 'i'"):
        fxplastic.plasticize(HooksItsLayer(), torch.zeros(4, 6))


class AveragesPadding(Base):
    """Padding as wide as the neurons is averaged: its mean depends on how many there are."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.i(x).relu()
        z = nn.functional.pad(h.new_ones(x.shape[0], h.shape[1]) * x[:, :1], (0, 1))
        return self.o(h + z[:, :-1]) + z.mean(-1, keepdim=True)


class NormsPadding(AveragesPadding):
    def forward(self, x: Tensor) -> Tensor:
        h = self.i(x).relu()
        z = nn.functional.pad(h.new_ones(x.shape[0], h.shape[1]) * x[:, :1], (0, 1))
        return self.o(h + z[:, :-1]) + nn.functional.layer_norm(z, z.shape[-1:])[:, -1:]


@pytest.mark.parametrize("build", [AveragesPadding, NormsPadding])
def test_an_average_over_a_width_refuses_another_width(build: type[nn.Module]) -> None:
    plastic = fxplastic.plasticize(prepare(build()), torch.zeros(4, 6).double())
    assert plastic.groups["i.weight:0"].exact
    plan = fxplastic.Plan.random(plastic, grow=0.5)
    with pytest.raises(fxplastic.WidthError, match="averages over it"):
        fxplastic.rewrite(plastic, plan)


class CountsBesideTokens(nn.Module):
    """A size over which changing neurons lie once only because four tokens become one."""

    def __init__(self) -> None:
        super().__init__()
        self.i, self.j = nn.Linear(6, 8), nn.Linear(6, 5)
        self.o, self.q = nn.Linear(8, 3), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        h, j = self.i(x).relu(), self.j(x).relu()
        n = torch.cat([h[:, ::4].flatten(1), j.flatten(1)], 1).shape[1]
        return (self.o(h) + self.q(j)) / n


class CountsBesideNameless(CountsBesideTokens):
    """The same, with a neighbour whose channels have no names any more."""

    def forward(self, x: Tensor) -> Tensor:
        h, j = self.i(x).relu(), self.j(x).softmax(-1)
        n = torch.cat([h[:, ::4].flatten(1), j.flatten(1)], 1).shape[1]
        return (self.o(h) + self.q(j)) / n


@pytest.mark.parametrize(
    ("build", "said"),
    [(CountsBesideTokens, "several times"), (CountsBesideNameless, "more than one pixel or token")],
)
def test_a_size_that_repeats_with_the_tokens_is_refused(build: type[nn.Module], said: str) -> None:
    plastic = fxplastic.plasticize(prepare(build()), torch.zeros(2, 4, 6).double())
    plan = fxplastic.Plan.random(plastic, grow=0.5, groups=["i.weight:0"])
    with pytest.raises(fxplastic.WidthError, match=said):
        fxplastic.rewrite(plastic, plan)


class WritesParameters(Base):
    """Keeps an average of its own in a parameter, as codebooks do."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            with torch.no_grad():
                self.scale.mul_(0.9)
        return self.o(self.i(x).relu()) * self.scale


def test_verification_bears_parameters_that_forward_writes_to() -> None:
    model = WritesParameters()
    plastic = fxplastic.plasticize(model, torch.randn(4, 6), verify=True)
    assert list(plastic.groups) == ["i.weight:0"]
    assert model.scale.item() == 1.0


class MakesZeros(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.o(self.i(x).relu()) + (x[:, None] @ torch.zeros(4, 6, 6))[:, 0, :3]


def test_another_default_dtype_does_not_meet_what_is_remembered() -> None:
    for dtype in (torch.float32, torch.float64):
        torch.set_default_dtype(dtype)
        try:
            assert fxplastic.plasticize(MakesZeros(), torch.randn(4, 6)).groups
        finally:
            torch.set_default_dtype(torch.float32)
