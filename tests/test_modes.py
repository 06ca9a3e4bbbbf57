"""One run on names stands for both modes where they are the same program, and nowhere else."""

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from fxplastic import names_run
from fxplastic.discover import Discovery
from fxplastic.modes import Flag, ModesDiffer
from fxplastic.trace import trace
from tests.test_repeats import facts, found

pytestmark = pytest.mark.filterwarnings("ignore")


class Normed(nn.Module):
    """Layers that ask for the mode, and give the same neurons in both."""

    def __init__(self, *, dropout: nn.Module) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 3, 1)
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.dropout(self.norm(self.a(x)).relu()))


class WrittenAfterDropout(nn.Module):
    """In eval mode dropout gives its input itself, and what is written to one is in the other."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(5, 8), nn.Linear(8, 3), nn.Linear(8, 3)
        self.dropout = nn.Dropout(0.5)
        self.shift = nn.Parameter(torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        dropped = self.dropout(h)
        dropped[:, :4] = self.shift
        return self.b(dropped) + self.c(h)


class ReadsStatistics(nn.Module):
    """Training alone writes the statistics that are read here."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.a(x))
        return self.b(h - self.norm.running_mean[:, None, None])


class OneNormTwice(nn.Module):
    """The second call reads statistics that the first has written, in training alone."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 3, 1)
        self.c = nn.Conv2d(3, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.norm(self.a(x)) + self.norm(self.c(x)))


class Slope(nn.Module):
    """An op that writes to its input in eval mode only through its own flag."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.slope, self.b = nn.Linear(5, 8), nn.RReLU(inplace=True), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.slope(self.a(x)))


class Counting(nn.Module):
    """A hook gives a number that depends on the mode, and a size follows from it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(5, 8), nn.Linear(4, 3), nn.Linear(8, 3)

        def count(layer: nn.Module, given: Any, result: Tensor) -> Any:
            return result, 2 if layer.training else 4

        self.a.register_forward_hook(count)

    def forward(self, x: Tensor) -> Tensor:
        h, rows = self.a(x)
        return self.b(h.reshape(-1, rows, 4).sum(1)).sum() + self.c(h)


class Peeking(nn.Module):
    """A hook that looks into `__dict__`: each mode has to be run by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(5, 8), nn.Linear(8, 3)

        def flip(layer: nn.Module, given: Any, result: Tensor) -> Tensor:
            return result if vars(layer)["training"] else result.flip(1)

        self.a.register_forward_hook(flip)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x))


def flip_in_eval(layer: nn.Module, given: Any, result: Tensor) -> Tensor:
    return result if vars(layer)["training"] else result.flip(1)


class PeekingFromOutside(nn.Module):
    """The same by a function that no class of the model has in it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(5, 8), nn.Linear(8, 3)
        self.a.register_forward_hook(flip_in_eval)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        return self.b(h + h.tanh())


class InEitherMode(nn.Module):
    """A layer that is called whole, and gives one thing in training and another in eval mode."""

    def __init__(self, in_training: Any, in_eval: Any, then: Any) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(5, 8), nn.Linear(8, 3)
        self.a.register_buffer("shift", torch.zeros(8))
        self.a.register_buffer("here", torch.arange(8))
        self.a.register_buffer("there", torch.arange(8).flip(0))
        self.then = then

        def change(layer: nn.Module, given: Any, result: Tensor) -> Any:
            return (in_training if layer.training else in_eval)(layer, result)

        self.a.register_forward_hook(change)

    def forward(self, x: Tensor) -> Tensor:
        return self.then(self, self.a(x))


def written_to_if_no_copy(model: Any, h: Tensor) -> Tensor:
    """Merging axes copies what lies in memory by columns, and shows the rest."""
    line = h.reshape(16)
    line.copy_(torch.ones(16))
    return model.b(h) + line[:3]


def written_to_if_not_cast(model: Any, h: Tensor) -> Tensor:
    """A cast to the dtype that a tensor has is the tensor itself."""
    same = h.float()
    same.copy_(torch.ones(2, 8))
    return model.b(h.float()) + same[:, :3]


class TurnsItsInput(nn.Module):
    """Eval mode alone writes to what training reads: neither may see what the other has done."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.turn, self.b = nn.Linear(5, 8), nn.Identity(), nn.Linear(8, 3)

        def turn(layer: nn.Module, given: Any, result: Tensor) -> None:
            if not layer.training:
                result.copy_(result.flip(1))

        self.turn.register_forward_hook(turn)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.turn(self.a(x)))


class OtherArguments(nn.Module):
    """The same nodes in both modes, but for a number that one of them is given."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(5, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        return self.b(h + h.flip(0 if self.training else 1))


class Turns(nn.Module):
    """Once it is scripted, it asks for the mode where no Python code sees it."""

    def forward(self, x: Tensor) -> Tensor:
        return x if self.training else x.flip(1)


class Scripted(nn.Module):
    """A scripted part between two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(5, 8), nn.Linear(8, 3)
        self.turns = torch.jit.script(Turns())

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        return self.b(h + self.turns(h))


class SumOfWeights(nn.Module):
    """A weight is the sum of two in eval mode alone: there both carry the shares."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.weight = nn.Linear(5, 8), nn.Parameter(torch.zeros(3, 8))
        self.sum = nn.Identity()
        self.sum.other = nn.Parameter(torch.zeros(3, 8))

        def add(layer: nn.Module, given: Any, result: Tensor) -> Tensor:
            return result if layer.training else result + layer.other

        self.sum.register_forward_hook(add)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(self.a(x).relu(), self.sum(self.weight))


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], bool]] = {
    "normed": (lambda: Normed(dropout=nn.Dropout(0.3)), (2, 3, 4, 4), True),
    "dropped in place": (
        lambda: Normed(dropout=nn.Dropout(0.3, inplace=True)),
        (2, 3, 4, 4),
        False,  # training writes to what is read after it
    ),
    "whole channels": (lambda: Normed(dropout=nn.Dropout2d(0.3)), (2, 3, 4, 4), True),
    "written after dropout": (WrittenAfterDropout, (2, 5), False),
    "reads statistics": (ReadsStatistics, (2, 3, 4, 4), False),
    "one norm twice": (OneNormTwice, (2, 3, 4, 4), False),
    "counting": (Counting, (2, 5), False),
    "peeking": (Peeking, (2, 5), False),
    "slope": (Slope, (2, 5), False),
    "other strides": (
        lambda: InEitherMode(
            lambda layer, h: h.t().contiguous().t(), lambda layer, h: h, written_to_if_no_copy
        ),
        (2, 5),
        False,
    ),
    "another dtype": (
        lambda: InEitherMode(
            lambda layer, h: h.double(), lambda layer, h: h, written_to_if_not_cast
        ),
        (2, 5),
        False,
    ),
    "another index": (
        lambda: InEitherMode(
            lambda layer, h: (h, layer.here),
            lambda layer, h: (h, layer.there),
            lambda model, found: model.b(found[0] + found[0][:, found[1]]),
        ),
        (2, 5),
        False,
    ),
    "a copy of a buffer": (
        lambda: InEitherMode(
            lambda layer, h: (h, layer.shift.clone()),
            lambda layer, h: (h, layer.shift),
            lambda model, found: model.b(found[0] + found[1].copy_(torch.ones(8))),
        ),
        (2, 5),
        False,
    ),
    "one and true": (
        lambda: InEitherMode(
            lambda layer, h: (h, True),
            lambda layer, h: (h, 1),
            lambda model, found: model.b(found[0]) + found[0][..., found[1]].reshape(2, -1)[:, :1],
        ),
        (2, 5),
        False,
    ),
    "turns its input": (TurnsItsInput, (2, 5), False),
    "peeking from outside": (PeekingFromOutside, (2, 5), False),
    "other arguments": (OtherArguments, (2, 5), False),
    "scripted": (Scripted, (2, 5), False),
    "sum of weights": (SumOfWeights, (2, 5), False),
    "test_resnet": (lambda: timm.create_model("test_resnet"), (2, 3, 96, 96), True),
    "test_vit2": (lambda: timm.create_model("test_vit2"), (2, 3, 64, 64), True),
    "test_convnext": (lambda: timm.create_model("test_convnext"), (2, 3, 96, 96), True),
    "test_efficientnet": (lambda: timm.create_model("test_efficientnet"), (2, 3, 96, 96), False),
}


WITHOUT_GROUPS = (
    "written after dropout", "slope", "counting", "peeking", "other strides", "another dtype",
)  # fmt: skip


def in_training(one: Discovery) -> dict[str, list[object]]:
    """What each node worked on in training: by the time of eval mode's own run, more is fixed."""
    return {name: seen for (mode, name), seen in (one.ledger.witness or {}).items() if mode}


@pytest.mark.parametrize("name", MODELS)
def test_a_run_for_both_modes_finds_what_a_run_for_each_finds(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, shape, expected = MODELS[name]
    torch.manual_seed(0)
    model, x = make(), torch.zeros(shape)
    ran: list[bool] = []
    run = names_run.run_on_names

    def watched(*args: Any, together: bool, **options: Any) -> None:
        run(*args, together=together, **options)
        ran.append(together)

    monkeypatch.setattr(names_run, "run_on_names", watched)
    together = found(model, x)
    assert ran == [expected]
    monkeypatch.setattr(names_run, "same_program", lambda *graphs: False)
    apart = found(model, x)
    assert ran == [expected, False]
    assert facts(together) == facts(apart)
    assert in_training(together) == in_training(apart)
    assert together.groups or name in WITHOUT_GROUPS


def test_a_module_that_sets_its_mode_has_a_run_for_each() -> None:
    flag = torch.nn.Module()
    shared = Flag()
    with shared.shown(), pytest.raises(ModesDiffer):
        assert flag.training is shared.value
        flag.train()
    assert flag.training
    assert "training" not in vars(nn.Module)


# ---------------------------------------------------------------- traces
class Hooked(nn.Module):
    """A hook that does something else in eval mode; the layer is called whole."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 6)

        def half(layer: nn.Module, given: Any, result: Tensor) -> Tensor | None:
            return result if layer.training else result[:, :3]

        self.a.register_forward_hook(half)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        return h.relu() if h.shape[1] == 6 else h.sigmoid()


class Peeks(nn.Module):
    """Code that reads the flag where no attribute is asked for."""

    def forward(self, x: Tensor) -> Tensor:
        return x.relu() if self.__dict__["training"] else x.sigmoid()


class PeeksElsewhere(nn.Module):
    """The same, in a method beside forward."""

    def _trains(self) -> bool:
        return vars(self)["training"]

    def forward(self, x: Tensor) -> Tensor:
        return x.relu() if self._trains() else x.sigmoid()


class PeeksInAProperty(nn.Module):
    """The same, in a property."""

    @property
    def trains(self) -> bool:
        return vars(self)["training"]

    def forward(self, x: Tensor) -> Tensor:
        return x.relu() if self.trains else x.sigmoid()


class PeeksInside(nn.Module):
    """The same, in a function inside forward."""

    def forward(self, x: Tensor) -> Tensor:
        def trains(module: nn.Module) -> bool:
            return vars(module)["training"]

        return x.relu() if trains(self) else x.sigmoid()


class Asks(nn.Module):
    """Code that asks openly."""

    def forward(self, x: Tensor) -> Tensor:
        return x.relu() if self.training else x.sigmoid()


@pytest.mark.parametrize(
    "kind", [Hooked, Peeks, PeeksElsewhere, PeeksInAProperty, PeeksInside, Asks]
)
def test_modes_that_differ_are_both_traced(kind: type[nn.Module]) -> None:
    traced = trace(kind(), (torch.zeros(2, 4),))
    names = {m: [n.name for n in graph.nodes] for m, graph in traced.graphs.items()}
    assert "relu" in names[True]
    assert "sigmoid" not in names[True]
    assert "sigmoid" in names[False]
    assert "relu" not in names[False]


def test_a_model_that_does_not_ask_for_its_mode_is_traced_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runs = []
    run = trace.__globals__["ValueTracer"].run

    def count(tracer: Any, model: nn.Module) -> Any:
        runs.append(1)
        return run(tracer, model)

    monkeypatch.setattr(trace.__globals__["ValueTracer"], "run", count)
    traced = trace(Normed(dropout=nn.Dropout()), (torch.zeros(2, 3, 4, 4),))
    assert len(runs) == 1
    assert traced.graphs[True] is not traced.graphs[False]
    assert [(n.name, n.meta["source"]) for n in traced.graphs[True].nodes] == [
        (n.name, n.meta["source"]) for n in traced.graphs[False].nodes
    ]
    trace(Asks(), (torch.zeros(2, 4),))
    assert len(runs) == 3
