"""The plastic module: the model's own tensors, two forwards, copies that hold together."""

import copy
import pickle
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fxplastic.errors import TraceError
from fxplastic.graph_data import from_data, to_data
from fxplastic.groups import ChannelGroup, FrozenAxis, Site, fingerprint
from fxplastic.module import PlasticModule
from fxplastic.trace import trace


class Swish(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x.sigmoid()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        return grad * 7


class Net(nn.Module):
    """Two branches by mode, tied weights, an unused layer, a constant, a custom gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 4)
        self.unused = nn.Linear(2, 2)
        self.register_buffer("shift", torch.full((4,), 0.5))
        self.conv = nn.Conv2d(3, 4, 1)
        self.norm = nn.BatchNorm2d(4)
        self.tied = nn.Linear(4, 4, bias=False)
        self.tied.weight = self.head.weight
        self.scale = nn.Parameter(torch.ones(4))
        self.table = torch.arange(4.0)
        self.listed = [torch.ones(4)]

    def forward(self, x: Tensor, gain: float = 1.0) -> Any:
        x = Swish.apply(self.norm(self.conv(x))).mean((2, 3)) * self.scale + self.shift
        x = x + self.table + self.listed[0] * gain
        with torch.no_grad():
            noise = torch.rand(x.shape[0], 1)
        x = x[:, torch.tensor([0, 1, 2, 3])]
        if self.training:
            return self.head(x) * noise, self.tied(x)
        return self.head(x)


def inputs(batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, 5, 5, generator=torch.Generator().manual_seed(batch))


@pytest.fixture
def model() -> Net:
    torch.manual_seed(0)
    return Net()


def made(model: nn.Module) -> PlasticModule:
    site = Site("conv.weight", 0, "producer", torch.arange(4)[:, None])
    group = ChannelGroup("conv.weight:0", 4, True, (site,), (0, 0, 0, 0))
    frozen = (FrozenAxis("head.weight", 0, "an output", "head", "net.py:1 in forward", 4),)
    return PlasticModule(model, trace(model, (inputs(),)), {group.name: group}, frozen)


def outputs(module: nn.Module) -> list[Tensor]:
    module.train()
    torch.manual_seed(1)
    train = list(module(inputs(3)))
    return [*train, module.eval()(inputs(3))]


def assert_equal(a: list[Tensor], b: list[Tensor]) -> None:
    assert len(a) == len(b) == 3
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_it_holds_the_models_own_objects(model: Net) -> None:
    plastic = made(model)
    assert dict(plastic.named_parameters()) == dict(model.named_parameters())
    for name, parameter in model.named_parameters(remove_duplicate=False):
        assert plastic.get_parameter(name) is parameter
    for name, buffer in model.named_buffers():
        assert plastic.get_buffer(name) is buffer
    assert list(plastic.state_dict()) == list(model.state_dict())
    assert plastic.get_submodule("unused") is model.unused


def test_training_one_trains_the_other(model: Net) -> None:
    plastic = made(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    plastic.train()
    sum(o.square().mean() for o in plastic(inputs())).backward()
    before = model.conv.weight.clone()
    optimizer.step()
    assert not torch.equal(before, model.conv.weight)
    model.scale = nn.Parameter(torch.zeros(4))  # also a tensor bound anew is seen
    assert torch.equal(model.eval()(inputs()), plastic.eval()(inputs()))


def test_state_dicts_load_strictly_both_ways(model: Net) -> None:
    plastic, fresh = made(model), Net()
    fresh.load_state_dict(plastic.state_dict(), strict=True)
    assert torch.equal(fresh.eval()(inputs()), plastic.eval()(inputs()))
    other = Net()
    plastic.load_state_dict(other.state_dict(), strict=True)
    assert torch.equal(other.eval()(inputs()), model.eval()(inputs()))


def test_modes_switch_without_code_being_made(model: Net, monkeypatch: Any) -> None:
    model.eval()
    plastic = made(model)
    assert not plastic.training
    monkeypatch.setattr(torch.fx.Graph, "python_code", None)
    assert isinstance(plastic(inputs()), Tensor)
    eval_graph, eval_code = plastic.graph, plastic.code
    assert isinstance(plastic.train()(inputs()), tuple)
    assert plastic.graph is not eval_graph
    assert plastic.code != eval_code
    assert plastic.eval().graph is eval_graph


def test_calls_by_the_models_own_argument_names(model: Net) -> None:
    plastic = made(model).eval()
    assert torch.equal(plastic(x=inputs(), gain=1.0), plastic(inputs()))


def clone(module: PlasticModule, how: str) -> PlasticModule:
    return copy.deepcopy(module) if how == "deepcopy" else pickle.loads(pickle.dumps(module))


@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_copies_compute_the_same_and_share_nothing(model: Net, how: str) -> None:
    plastic = made(model)
    twin = clone(plastic, how)
    assert isinstance(twin, PlasticModule)
    assert_equal(outputs(twin), outputs(plastic))
    shared = {t.untyped_storage().data_ptr() for t in plastic.state_dict().values()}
    assert not shared & {t.untyped_storage().data_ptr() for t in twin.state_dict().values()}
    assert twin.tied.weight is twin.head.weight
    assert twin.fingerprint == plastic.fingerprint == fingerprint(plastic.groups)
    assert list(twin.groups) == ["conv.weight:0"]
    assert twin.frozen == plastic.frozen
    assert [n.meta["source"] for n in twin.graph.nodes] == [
        n.meta["source"] for n in plastic.graph.nodes
    ]
    assert twin.graph is not plastic.graph
    assert_equal(outputs(clone(twin, how)), outputs(twin))


@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_copies_keep_custom_gradients_and_hooks(model: Net, how: str) -> None:
    plastic = made(model).eval()
    twin = clone(plastic, how)
    for m in (plastic, twin):
        m(inputs()).sum().backward()
    assert torch.equal(twin.conv.weight.grad, plastic.conv.weight.grad)
    assert plastic.conv.weight.grad.abs().sum() > 0


def test_a_copy_watches_its_own_modules() -> None:
    class Drop(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * 2 if self.training else x

    model = nn.Sequential(nn.Conv2d(3, 4, 1), Drop())
    plastic = made(model).train()
    twin = copy.deepcopy(plastic).eval()
    assert torch.equal(plastic(inputs()), 2 * twin(inputs()))


def test_double_and_to_move_everything_registered(model: Net) -> None:
    plastic = made(model).double().eval()
    assert plastic(inputs().double()).dtype == torch.float64
    assert model.conv.weight.dtype == torch.float64
    assert all(p.is_meta for p in copy.deepcopy(plastic).to("meta").parameters())


def test_graphs_of_any_length_are_written_out() -> None:
    def forward(x: Tensor) -> Tensor:
        for _ in range(2 * sys.getrecursionlimit()):
            x = x + 1
        return x

    class Long(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return forward(x)

    graph = trace(Long(), (torch.zeros(1),)).graphs[True]
    rebuilt = from_data(pickle.loads(pickle.dumps(to_data(graph))))
    assert [n.name for n in rebuilt.nodes] == [n.name for n in graph.nodes]
    assert str(rebuilt) == str(graph)


def test_hooks_of_the_root_fire_once(model: Net) -> None:
    calls: list[str] = []
    model.register_forward_hook(lambda *_: calls.append("hook"))
    plastic = made(model).eval()
    plastic(inputs())
    assert calls == ["hook"]


def test_an_edited_graph_is_used_after_recompile(model: Net) -> None:
    plastic = made(model).eval()
    before = plastic(inputs())
    head = next(n for n in plastic.graph.nodes if n.target == "head")
    with plastic.graph.inserting_after(head):
        doubled = plastic.graph.call_function(torch.mul, (head, 2))
    head.replace_all_uses_with(doubled, delete_user_cb=lambda user: user is not doubled)
    assert torch.equal(plastic(inputs()), before)
    plastic.recompile()
    assert torch.equal(plastic(inputs()), before * 2)
    plastic.graph = from_data(to_data(plastic.graph))
    assert torch.equal(plastic(inputs()), before * 2)
    assert plastic.graph.lint() is None


def test_groups_cannot_be_changed(model: Net) -> None:
    plastic = made(model)
    with pytest.raises(TypeError):
        plastic.groups["x"] = None  # type: ignore[index]
    with pytest.raises(AttributeError):
        plastic.groups = {}  # type: ignore[misc]


def test_a_plastic_module_can_be_traced_again(model: Net) -> None:
    plastic = made(model)
    twin = copy.deepcopy(model)
    assert_equal(outputs(made(plastic)), outputs(twin))


def test_a_name_that_the_class_needs_is_refused() -> None:
    model = nn.Module()
    model.graph = nn.Linear(5, 5)
    model.forward = lambda x: model.graph(x)
    with pytest.raises(TraceError, match="'graph'.*rename it"):
        made(model)


# torch 2.11 makes an instance of every autograd function that it compiles, and says so itself.
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
def test_it_compiles(model: Net) -> None:
    plastic = made(model).eval()
    compiled = torch.compile(plastic, backend="eager", fullgraph=True)
    assert torch.equal(compiled(inputs()), plastic(inputs()))
    plastic.train()
    torch.manual_seed(1)
    expected = plastic(inputs())
    torch.manual_seed(1)
    assert torch.equal(compiled(inputs())[1], expected[1])
