"""Models that no graph can hold: one error, with the source line and what the user can do."""

import inspect
import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import fxplastic
from fxplastic import TraceError


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(4, 8), nn.Linear(8, 2)


class BranchesOnValues(Base):
    def forward(self, x: Tensor) -> Tensor:
        h = self.one(x)
        if h.mean() > 0:  # here
            h = -h
        return self.two(h)


class LoopsUntilSmall(Base):
    def forward(self, x: Tensor) -> Tensor:
        h = self.one(x)
        while h.norm() > 1:  # here
            h = h / 2
        return self.two(h)


class CountsByValue(Base):
    def forward(self, x: Tensor) -> Tensor:
        h = self.one(x)
        for _ in range(int(x[0, 0])):  # here
            h = h.relu()
        return self.two(h)


class ReadsItem(Base):
    def forward(self, x: Tensor) -> Tensor:
        h = self.one(x) * x.max().item()  # here
        return self.two(h)


class GoesThroughNumpy(Base):
    def forward(self, x: Tensor) -> Tensor:
        h = torch.from_numpy(self.one(x).detach().numpy())  # here
        return self.two(h)


class KeepsRows(Base):
    def forward(self, x: Tensor) -> Tensor:
        kept = [row for row in self.one(x) if row.isfinite().all()]  # here
        return self.two(torch.stack(kept))


class CallsWhatItDoesNotHold(Base):
    def __init__(self) -> None:
        super().__init__()
        self.hidden = [nn.Linear(8, 8)]

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.hidden[0](self.one(x)))  # here


ADVICE = {
    BranchesOnValues: r"torch\.where",
    LoopsUntilSmall: r"torch\.where",
    CountsByValue: "depends on",
    ReadsItem: "depends on",
    GoesThroughNumpy: "Keep the computation in torch",
    KeepsRows: r"torch\.where",
    CallsWhatItDoesNotHold: r"nn\.ModuleList",
}


def line_of(model: type[nn.Module]) -> int:
    """The line that is marked as the one to blame."""
    lines, first = inspect.getsourcelines(model)
    return first + next(i for i, text in enumerate(lines) if text.rstrip().endswith("# here"))


@pytest.mark.parametrize("build", ADVICE, ids=lambda build: build.__name__)
def test_one_error_names_the_line_and_what_to_do(build: Callable[[], nn.Module]) -> None:
    model = build()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(TraceError) as caught:
        fxplastic.plasticize(model, torch.randn(3, 4))
    message = str(caught.value)
    assert f"test_untraceable.py:{line_of(build)} in " in message
    assert re.search(ADVICE[build], message), message
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert model(torch.randn(3, 4).abs() + 1) is not None  # the model is as it was


@pytest.mark.parametrize("name", ['a"b', "a\\b", "a\nb"])
@pytest.mark.parametrize("kind", ["module", "parameter", "buffer"])
def test_a_name_that_no_program_can_hold_is_refused(name: str, kind: str) -> None:
    inner = nn.Linear(3, 4)
    if kind == "module":
        inner = nn.Sequential()
        inner.add_module(name, nn.Linear(3, 4))
    elif kind == "parameter":
        inner.register_parameter(name, nn.Parameter(torch.zeros(4)))
    else:
        inner.register_buffer(name, torch.zeros(4))
    model = nn.Sequential(inner, nn.Linear(4, 2))
    with pytest.raises(TraceError, match=re.escape(f"the name {name!r} of '0' cannot be written")):
        fxplastic.plasticize(model, torch.zeros(2, 3))


def test_an_attribute_whose_name_no_program_can_hold_is_refused() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(3, 4), nn.Linear(4, 2)
            setattr(self, 'x"y', torch.ones(4))

        def forward(self, x: Tensor) -> Tensor:
            return self.two(self.one(x) * getattr(self, 'x"y'))

    with pytest.raises(TraceError, match=r"what was traced is no program: .*x\"y"):
        fxplastic.plasticize(Odd(), torch.zeros(2, 3))


def test_other_odd_names_are_traced() -> None:
    model = nn.Sequential()
    for name, layer in {"a'b c-1": nn.Linear(3, 4), "für": nn.Linear(4, 2)}.items():
        model.add_module(name, layer)
    plastic = fxplastic.plasticize(model, torch.zeros(2, 3))
    x = torch.randn(2, 3)
    assert [group.size for group in plastic.groups.values()] == [4]
    assert torch.equal(plastic(x), model(x))
