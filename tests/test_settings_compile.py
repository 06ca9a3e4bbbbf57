"""`torch.compile` around a plastic module: one graph, compiled once, whatever turns over.

Graphs and compilations are counted by PyTorch itself: a backend is called once per graph that is
compiled, `explain` counts where a forward breaks, and `fullgraph` makes a break an error. In
float64 compiled and plain results are compared to 1e-10.
"""

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

import fxplastic
from fxplastic import Plasticity
from fxplastic.errors import TraceError
from tests.ranks import (
    batch,
    controller,
    furthest,
    optimizer_of,
    plastic_model,
    small_model,
    weights,
)

AREA = "torch.compile"
TOLERANCE = 1e-10
TURNOVERS = 5
MODELS = ["test_convnext", "test_vit", "test_resnet", "test_byobnet", "test_efficientnet"]
shows = pytest.mark.setting


@pytest.fixture(autouse=True)
def forgotten():
    """No test profits from, or is limited by, what another compiled."""
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def counted() -> CompileCounterWithBackend:
    """A backend that counts the graphs it is given, and traces their backward, too."""
    return CompileCounterWithBackend("aot_eager")


def epoch(model: nn.Module, optimizer: torch.optim.Optimizer, plasticity: Plasticity) -> Any:
    number = plasticity.epoch
    for step in range(2):
        x, y = batch(number, step)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        plasticity.after_backward()
        optimizer.step()
    return plasticity.end_epoch()


@shows(AREA, "a compiled plastic module: no graph break", "supported")
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("training", [True, False])
def test_a_plastic_module_is_one_graph(name: str, training: bool):
    plastic = plastic_model(name).train(training)
    x = batch(1, 0)[0]
    found = torch._dynamo.explain(plastic)(x)
    assert (found.graph_break_count, found.graph_count) == (0, 1)
    compiled = torch.compile(plastic, backend="aot_eager", fullgraph=True)
    torch.manual_seed(0)
    wanted = plastic(x)
    torch.manual_seed(0)
    assert float((compiled(x) - wanted).detach().abs().max()) < TOLERANCE


@shows(AREA, "turnovers of a compiled module (rewrite_): no recompilation", "supported")
@pytest.mark.parametrize(
    ("name", "in_place"), [*((name, False) for name in MODELS), ("test_resnet", True)]
)
def test_turnovers_of_a_compiled_module_compile_nothing_anew(name: str, in_place: bool):
    plain, plastic = plastic_model(name), plastic_model(name)
    backend = counted()
    if in_place:
        plastic.compile(backend=backend, fullgraph=True)
        model: Any = plastic
    else:
        model = torch.compile(plastic, backend=backend, fullgraph=True)
    runs = []
    for one, forward in ((plain, plain), (plastic, model)):
        optimizer = optimizer_of(one)
        plasticity = controller(one, optimizer, seed=2)
        with torch._dynamo.config.patch(error_on_recompile=True):
            runs.append([epoch(forward, optimizer, plasticity) for _ in range(TURNOVERS)])
    assert backend.frame_count == 1
    assert [len(run) for run in runs] == [TURNOVERS, TURNOVERS]
    assert all(turnover.neurons > 50 for turnover in runs[1])
    assert [turnover.plan for turnover in runs[0]] == [turnover.plan for turnover in runs[1]]
    assert furthest(weights(plain), weights(plastic)) < TOLERANCE


@shows(AREA, "plans that change widths (rewrite): one compilation of the new module", "supported")
@pytest.mark.parametrize("name", MODELS)
def test_a_module_of_other_widths_is_compiled_once(name: str):
    plastic = plastic_model(name)
    backend = counted()
    compiled = torch.compile(plastic, backend=backend, fullgraph=True)
    optimizer = optimizer_of(plastic)
    step(compiled, optimizer, 0)
    assert backend.frame_count == 1
    new = fxplastic.rewrite(plastic, fxplastic.plan_widths(plastic, 1.5), optimizer)
    recompiled = torch.compile(new.module, backend=backend, fullgraph=True)
    for number in range(3):
        step(recompiled, new.optimizer, number)
    assert backend.frame_count == 2
    step(compiled, optimizer, 1)  # the old one is as it was
    assert backend.frame_count == 2


def step(model: Any, optimizer: torch.optim.Optimizer, number: int) -> None:
    x, y = batch(1, number)
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(x), y).backward()
    optimizer.step()


@shows(AREA, "a model that is compiled before it is made plastic", "refused")
def test_a_compiled_model_is_refused_with_the_fix():
    compiled = torch.compile(small_model("test_vit"), backend="eager")
    with pytest.raises(TraceError, match="pass model._orig_mod, which shares its tensors"):
        fxplastic.plasticize(compiled, torch.zeros(2, 3, 32, 32).double())
    plastic = plastic_model("test_vit")
    wrapped = torch.compile(plastic, backend="eager")
    with pytest.raises(fxplastic.PlanError, match=r"wrapped in OptimizedModule; pass .*_orig_mod"):
        Plasticity(wrapped, optimizer_of(plastic))


@shows(AREA, "a model that compiles itself in place (model.compile())", "supported")
def test_a_model_that_compiles_in_place_is_traced_and_stays_compiled():
    model = small_model("test_vit")
    backend = counted()
    model.compile(backend=backend)
    plastic = fxplastic.plasticize(model, torch.zeros(2, 3, 32, 32).double())
    assert backend.frame_count == 0  # tracing compiled nothing
    x = batch(1, 0)[0]
    wanted = small_model("test_vit")(x)
    for one in (model, plastic):
        assert float((one(x) - wanted).detach().abs().max()) < TOLERANCE
    assert backend.frame_count >= 1


def test_weights_that_moved_are_read_by_the_compiled_module():
    plastic = plastic_model("test_vit").eval()
    compiled = torch.compile(plastic, backend="aot_eager", fullgraph=True)
    x = batch(1, 0)[0]
    with torch.no_grad():
        before: Tensor = compiled(x)
        fxplastic.rewrite_(plastic, fxplastic.Plan.random(plastic, turnover=0.3))
        assert float((compiled(x) - before).abs().max()) > 1e-3
        assert float((compiled(x) - plastic(x)).abs().max()) < TOLERANCE


@shows(AREA, "copies of a module that is compiled in place", "supported")
@pytest.mark.parametrize("how", ["rewrite", "widths", "deepcopy", "copy", "pickle"])
def test_a_copy_of_a_module_that_is_compiled_in_place_computes_itself(how: str):
    plastic = plastic_model("test_vit")
    plastic.compile(backend="eager")
    x = batch(1, 0)[0]
    make = {
        "rewrite": lambda: (
            fxplastic.rewrite(plastic, fxplastic.Plan.random(plastic, turnover=0.3)).module
        ),
        "widths": lambda: fxplastic.rewrite(plastic, fxplastic.plan_widths(plastic, 1.5)).module,
        "deepcopy": lambda: copy.deepcopy(plastic),
        "copy": lambda: copy.copy(plastic),
        "pickle": lambda: pickle.loads(pickle.dumps(plastic)),
    }
    new = make[how]()
    with torch.no_grad():
        if how == "copy":  # which shares the tensors
            new.forward = lambda x: x
            assert new(x) is x
        else:
            new.get_parameter("head.weight").zero_()
            new.get_parameter("head.bias").fill_(3.0)
            assert torch.equal(new(x), torch.full((len(x), 5), 3.0, dtype=x.dtype))
        assert float((plastic(x) - plastic_model("test_vit")(x)).abs().max()) < TOLERANCE


@shows(AREA, "a run that grows by many small steps: each module is compiled", "supported")
def test_each_of_many_modules_of_a_growing_run_is_compiled():
    plastic = plastic_model("test_vit").eval()
    backend = CompileCounterWithBackend("eager")
    x = batch(1, 0)[0]
    for number in range(12):  # PyTorch gives up a function of which it has compiled eight
        torch.compile(plastic, backend=backend, fullgraph=True)(x)
        assert backend.frame_count == number + 1
        plan = fxplastic.Plan.random(plastic, grow=0.02, seed=number)
        plastic = fxplastic.rewrite(plastic, plan).module


class Compiled(nn.Module):
    """A part of a model that is compiled in one of three ways."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(3, 8), nn.Linear(8, 2)
        if how == "in place":
            self.one.compile(backend="eager")
        elif how == "wrapped":
            self.one = torch.compile(self.one, backend="eager")
        else:
            self.one.forward = torch.compile(self.one.forward, backend="eager")

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.one(x).relu())


@shows(AREA, "a part of a model that is compiled in place", "supported")
@shows(AREA, "a part of a model that is compiled otherwise", "refused")
def test_a_part_that_is_compiled_is_traced_or_refused_by_name():
    model = Compiled("in place")
    plastic = fxplastic.plasticize(model, torch.zeros(2, 3))
    assert [group.size for group in plastic.groups.values()] == [8]
    wide = fxplastic.rewrite(plastic, fxplastic.plan_widths(plastic, 2.0)).module
    x = torch.randn(4, 3)
    assert wide.get_submodule("one").out_features == 16
    assert float((wide(x) - model(x)).detach().abs().max()) < 1e-6
    for how, text in {
        "wrapped": "'one' is wrapped by torch.compile; put its _orig_mod back in its place",
        "forward": "the forward of 'one' was replaced by a compiled one",
    }.items():
        with pytest.raises(TraceError, match=text):
            fxplastic.plasticize(Compiled(how), torch.zeros(2, 3))


def test_a_model_that_calls_a_compiled_function_is_traced_through_it():
    class Calls(Compiled):
        def forward(self, x: Tensor) -> Tensor:
            return self.two(scaled(self.one(x)))

    model = Calls("in place")
    plastic = fxplastic.plasticize(model, torch.zeros(2, 3))
    x = torch.randn(4, 3)
    assert [group.size for group in plastic.groups.values()] == [8]
    with torch.no_grad():
        assert float((plastic(x) - model(x)).abs().max()) < 1e-6


@torch.compile(backend="eager")
def scaled(x: Tensor) -> Tensor:
    return x.tanh() * 2.0


def test_a_subclass_keeps_a_forward_of_its_own():
    class Shifted(fxplastic.PlasticModule):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + 1.0

    plastic = plastic_model("test_vit").eval()
    shifted = Shifted(plastic, plastic.traced, plastic.groups, plastic.frozen)
    x = batch(1, 0)[0]
    with torch.no_grad():
        assert torch.equal(shifted(x), plastic(x) + 1.0)
