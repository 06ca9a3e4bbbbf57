"""Tracing: what depends on data is refused; what a model's code keeps is put back."""

import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fxplastic import plasticize
from fxplastic.errors import TraceError
from fxplastic.trace import on_meta, trace
from tests.tracing import Functional, assert_same_bits, images, plastic_of

HERE = __file__


@pytest.mark.parametrize(
    ("function", "question"),
    [
        (lambda m, x: x if x.sum() > 0 else -x, r"bool\(\)"),
        (lambda m, x: x * int(x.sum()), r"int\(\)"),
        (lambda m, x: x * float(x.sum()), r"float\(\)"),
        (lambda m, x: x * x.sum().item(), r"item\(...\)"),
        (lambda m, x: x[x > 0], r"getitem\(...\)"),
        (lambda m, x: x.nonzero(), r"nonzero\(...\)"),
        (lambda m, x: x * m.scale.item(), r"item\(...\)"),
        (lambda m, x: x if torch.rand(1) > 0.5 else -x, r"bool\(\)"),
    ],
)
def test_what_depends_on_values_is_refused_with_line_and_advice(
    function: Any, question: str
) -> None:
    model = Functional(function, scale=nn.Parameter(torch.ones(())))
    with pytest.raises(TraceError, match=rf"{HERE}:\d+ in <lambda>: {question} .*torch\.where"):
        trace(model, (images(),))


def test_values_of_constants_are_known() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        for rate in torch.linspace(0, 1, 3).tolist():
            x = x + rate
        keep = m.keep if m.keep.any() else None
        return x[:, keep] * m.scale.item() + int(m.scale * 2)

    def make() -> nn.Module:
        return Functional(forward, keep=torch.tensor([True, False, True]), scale=torch.tensor(3.0))

    assert_same_bits(make, (images(),), (images(3),))


def test_a_constant_that_was_written_to_is_not_taken_for_what_it_was() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        mask = torch.zeros(3)
        mask[0] = x.sum()
        return x if mask[0] > 0 else -x

    with pytest.raises(TraceError, match=r"bool\(\)"):
        trace(Functional(forward), (images(),))


class Counted(nn.Module):
    """Neurons are added to others that an index names, which changes afterwards or never does."""

    def __init__(self, *, changes: bool) -> None:
        super().__init__()
        self.first, self.second, self.changes = nn.Linear(5, 8), nn.Linear(8, 3), changes
        self.index = nn.Buffer(torch.arange(8).flip(0))

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x)
        result: Tensor = self.second(hidden + hidden.index_select(1, self.index))
        if self.changes:
            self.index.add_(1).remainder_(8)
        return result


def test_an_index_that_is_written_to_after_its_use_was_never_known() -> None:
    still, moving = (plasticize(Counted(changes=c), torch.zeros(2, 5)) for c in (False, True))
    assert [group.size for group in still.groups.values()] == [4]  # pairs of neurons
    assert not moving.groups
    assert any("values that are not known" in axis.reason for axis in moving.frozen)


@pytest.mark.parametrize(
    ("draw", "source"), [(random.random, "Python's random"), (np.random.rand, "numpy.random")]
)
def test_chance_from_outside_torch_is_refused_and_not_used_up(draw: Any, source: str) -> None:
    random.seed(0)
    np.random.seed(0)
    expected = draw()
    random.seed(0)
    np.random.seed(0)
    with pytest.raises(TraceError, match=source):
        trace(Functional(lambda m, x: x * draw()), (images(),))
    assert draw() == expected


def test_random_tensors_are_drawn_anew_in_each_call() -> None:
    from torch import rand

    plastic = plastic_of(Functional(lambda m, x: x + rand(3, 1, 1)), images())
    assert not torch.equal(plastic(images()), plastic(images()))
    assert_same_bits(lambda: Functional(lambda m, x: x + rand(3, 1, 1)), (images(),))


def test_tracing_leaves_the_generator_alone() -> None:
    model = nn.Sequential(
        nn.Dropout(), nn.Conv2d(3, 3, 1), Functional(lambda m, x: x + torch.rand(3, 1, 1))
    )
    state = torch.get_rng_state()
    trace(model, (images(),))
    assert torch.equal(state, torch.get_rng_state())


class Counter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros((), dtype=torch.long))
        self.register_buffer("mean", torch.zeros(3))
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.count += 1
            self.mean.mul_(0.9).add_(0.1 * x.mean((0, 2, 3)))
        x = self.norm(x) - self.mean[:, None, None]
        x[:, 0] = 0
        x += self.count
        return x


def test_buffers_are_updated_in_place_by_the_graph() -> None:
    plastic = assert_same_bits(Counter, (images(),), (images(3),))
    assert plastic.count == 2


def test_binding_a_buffer_to_a_new_tensor_is_refused() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        m.inner.mean = m.inner.mean * 0.9
        return x

    with pytest.raises(TraceError, match=r"'inner.mean' to a new tensor.*self.mean.copy_"):
        trace(Functional(forward, inner=Counter()), (images(),))


class SizeCache(nn.Module):
    """Keeps a table by size in a buffer that is not saved, as some attention layers do."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.zeros(1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.table.shape[0] != x.shape[-1]:
            self.table = self.make(x.shape[-1])
        return x + self.table

    def make(self, size: int) -> Tensor:
        table = torch.zeros(size)
        table[:] = torch.arange(size)
        return table


def test_a_cache_made_from_sizes_is_computed_in_the_graph() -> None:
    model = SizeCache()
    plastic = plastic_of(model, images())
    assert model.table.shape == (1,)
    assert torch.equal(plastic(images(size=6)), SizeCache()(images(size=6)))
    model(images(size=4))
    assert torch.equal(plastic(images()), SizeCache()(images()))


class Careless(nn.Module):
    """Leaves what it computed on itself, and may fail afterwards."""

    def __init__(self, fails: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
        self.fails = fails
        self.seen: list[Any] = []
        self.by_name: dict[str, Any] = {"inner": {}}
        self.offset = torch.ones(3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        self.last = self.conv(x)
        self.conv.extra = self.last
        self.seen.append(self.last)
        self.by_name["inner"]["x"] = self.last
        self.offset += 1
        if self.fails:
            raise ValueError("no luck")
        return self.last + self.offset


@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_left_as_it_was(fails: bool) -> None:
    model = Careless(fails).eval()
    model.conv.train()
    before = [(m, dict(vars(m)), dict(m._parameters)) for m in model.modules()]
    if fails:
        with pytest.raises(
            TraceError, match=rf"{HERE}:\d+ in forward, in training mode: .*no luck"
        ):
            trace(model, (images(),))
    else:
        trace(model, (images(),))
    for module, attributes, parameters in before:
        assert list(vars(module)) == list(attributes)
        assert all(vars(module)[k] is v for k, v in attributes.items())
        assert all(module._parameters[k] is v for k, v in parameters.items())
    assert model.seen == []
    assert model.by_name == {"inner": {}}
    assert torch.equal(model.offset, torch.ones(3, 1, 1))
    assert (model.training, model.conv.training) == (False, True)


def test_torch_is_left_as_it_was() -> None:
    class Twice(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x * 2

    owners = (torch, nn.Module, Twice, torch.autocast)
    before = [dict(vars(owner)) for owner in owners]
    with pytest.raises(TraceError):
        trace(Careless(fails=True), (images(),))
    trace(Careless(fails=False), (images(),))
    for owner, attributes in zip(owners, before, strict=True):
        assert all(vars(owner).get(k) is v for k, v in attributes.items())
    assert "training" not in vars(nn.Module)
    assert torch.zeros in torch.utils._device._device_constructors()


def test_on_meta_keeps_ties_and_restores_flags() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 3))
    model[2].weight = model[0].weight
    weight = model[0].weight
    model[1].eval()
    with pytest.raises(KeyError), on_meta(model, training=True):
        assert model[0].weight is model[2].weight
        assert all(t.is_meta for t in (*model.parameters(), *model.buffers()))
        assert all(m.training for m in model.modules())
        raise KeyError
    assert model[0].weight is model[2].weight is weight
    assert [m.training for m in model.modules()] == [True, True, False, True]


def test_constants_of_the_code_are_captured_and_the_model_untouched() -> None:
    table = torch.arange(3.0)
    tensors = [torch.ones(1), torch.full((1,), 2.0)]

    def make() -> nn.Module:
        return Functional(lambda m, x: x + table[:, None, None] + m.listed[1], listed=tensors)

    traced = trace(make(), (images(),))
    assert sorted(id(t) for t in traced.constants.values()) == sorted([id(table), id(tensors[1])])
    assert_same_bits(make, (images(),))
