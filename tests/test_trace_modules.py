"""Tracing: leaves, hooks, training flags; gradients are the original's."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

from fxplastic.errors import GuardError, TraceError
from fxplastic.trace import trace
from tests.tracing import Functional, assert_same_bits, images, plastic_of


def test_leaves_are_torch_nn_modules_and_others_are_opened() -> None:
    class MyNorm(nn.BatchNorm2d):
        pass

    weighted = parametrizations.weight_norm(nn.Conv2d(3, 3, 1))
    model = nn.Sequential(nn.Conv2d(3, 3, 1), MyNorm(3), weighted, nn.Sequential(nn.ReLU()))
    calls = [
        n.target for n in trace(model, (images(),)).graphs[True].nodes if n.op == "call_module"
    ]
    assert calls == ["0", "2", "3.0"]


def test_hooks_on_opened_modules_fire() -> None:
    def make() -> nn.Module:
        model = Functional(lambda m, x: m.part(x), part=Functional(lambda m, x: x * 2))
        model.part.register_forward_hook(lambda m, args, out: out + 1)
        model.register_forward_pre_hook(lambda m, args: (args[0] + 3,))
        return model

    plastic = assert_same_bits(make, (images(),))
    assert torch.equal(plastic(images()), (images() + 3) * 2 + 1)


def test_frozen_batchnorm_keeps_its_own_flag() -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))
    plastic = plastic_of(model, images())
    model.train()
    model[1].eval()
    before = model[1].running_mean.clone()
    assert torch.equal(plastic(images()), model(images()))
    assert torch.equal(before, model[1].running_mean)


class Noise(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.rand(()) if self.training else x


def test_mixed_flags_of_opened_modules_are_refused_at_call_time() -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 1), Noise())
    model[1].eval()
    plastic = plastic_of(model, images())
    assert plastic.training
    with pytest.raises(GuardError, match="module '1' is in eval mode.*train the original module"):
        plastic(images())
    plastic.eval()
    assert torch.equal(plastic(images()), model[0](images()))


class Stateful(nn.Module):
    """Whatever `change` does to it in forward."""

    def __init__(self, change: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.norm, self.n, self.last = nn.BatchNorm2d(3), 1, torch.zeros(3, 8, 8)
        self.change = change

    def forward(self, x: Tensor) -> Tensor:
        return self.change(self, x)


def stops_norm(m: Any, x: Tensor) -> Tensor:
    m.norm.eval()
    return m.norm(x)


def counts(m: Any, x: Tensor) -> Tensor:
    m.n += 1
    return x * m.n


def remembers(m: Any, x: Tensor) -> Tensor:
    y = x + m.last
    m.last = x.mean(0)
    return y


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (stops_norm, r"sets norm\.training from True to False"),
        (counts, "sets n from 1 to 2"),
        (remembers, "sets last to another tensor after it has read it"),
    ],
)
def test_state_that_forward_leaves_behind_is_refused(change: Any, what: str) -> None:
    with pytest.raises(TraceError, match=rf"test_trace_modules\.py:\d+ in \w+: forward {what}"):
        trace(Stateful(change), (images(),))


def test_attributes_that_forward_only_writes_are_left_alone() -> None:
    def notes(m: Any, x: Tensor) -> Tensor:
        m.last, m.n = x.mean(0), 1
        return m.norm(x)

    assert_same_bits(lambda: Stateful(notes), (images(),), (images(3),))


@pytest.mark.parametrize(
    ("name", "arguments", "context"),
    [
        ("is_grad_enabled", (), torch.no_grad),
        ("is_autocast_enabled", ("cpu",), lambda: torch.autocast("cpu")),
        ("is_inference_mode_enabled", (), torch.inference_mode),
    ],
)
def test_a_branch_on_the_state_of_the_caller_is_guarded(
    name: str, arguments: Any, context: Any
) -> None:
    def branch(m: Any, x: Tensor) -> Tensor:
        return x * 2 if getattr(torch, name)(*arguments) else x * 3

    plastic = assert_same_bits(lambda: Functional(branch), (images(),), (images(3),))
    with context(), pytest.raises(GuardError, match=r"got \w+, tracing fixed \w+ here"):
        plastic(images())


def test_modules_that_are_not_registered() -> None:
    assert_same_bits(lambda: Functional(lambda m, x: nn.Softmax(dim=1)(x)), (images(),))
    hidden = nn.Linear(8, 8)
    with pytest.raises(TraceError, match=r"Linear with parameters .* nn\.ModuleList"):
        trace(Functional(lambda m, x: hidden(x)), (images(),))


def test_wrappers_are_refused_with_what_to_pass() -> None:
    with pytest.raises(TraceError, match=r"pass model\.module"):
        trace(nn.DataParallel(nn.ReLU()), (images(),))
    with pytest.raises(TraceError, match=r"run the model once"):
        trace(nn.LazyLinear(3), (images(),))


def test_batch_of_one_gets_advice() -> None:
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(3))
    with pytest.raises(TraceError, match="batch of at least 2"):
        trace(model, (images(1),))


def test_lists_of_parameters_and_recurrent_layers_trace() -> None:
    class Listed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scales = nn.ParameterList([nn.Parameter(torch.ones(3, 1, 1)) for _ in range(2)])
            self.rnn = nn.LSTM(8, 4, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            for scale in self.scales:
                x = x * scale
            x = x * sum(p.sum() for p in self.parameters())
            out, (hidden, _) = self.rnn(x.flatten(1, 2))
            return out.sum() + hidden

    assert_same_bits(Listed, (images(),), (images(3),))


class Clip(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, limit: float) -> Tensor:
        ctx.save_for_backward(x)
        return x.clamp(-limit, limit)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # type: ignore[override]
        return grad * 3, None


class Split(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return x * 1, x * 2

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.factor = 5

    @staticmethod
    def backward(ctx: Any, a: Tensor, b: Tensor) -> Any:  # type: ignore[override]
        return ctx.factor * (a + b)


clip = Clip.apply  # bound before tracing, as models do


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: clip(x * m.w, 0.5),
        lambda m, x: Clip.apply(x * m.w, 0.5),
        lambda m, x: sum(Split.apply(x * m.w)),
    ],
)
def test_custom_autograd_functions_keep_their_backward(function: Any) -> None:
    def grad(model: nn.Module) -> Tensor:
        model(images()).sum().backward()
        return next(model.parameters()).grad

    def make() -> nn.Module:
        return Functional(function, w=nn.Parameter(torch.ones(3, 1, 1)))

    assert torch.equal(grad(plastic_of(make(), images())), grad(make()))


def test_no_grad_blocks_stay() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        with torch.no_grad():
            gate = (x * m.w).mean()
            with torch.enable_grad():
                pass
        return x * m.w * gate

    plastic = plastic_of(Functional(forward, w=nn.Parameter(torch.full((3, 1, 1), 2.0))), images())
    model = Functional(forward, w=nn.Parameter(torch.full((3, 1, 1), 2.0)))
    for m in (model, plastic):
        m(images()).sum().backward()
    assert torch.equal(plastic.w.grad, model.w.grad)
    with torch.no_grad():
        assert not plastic(images()).requires_grad
    assert torch.is_grad_enabled()


def test_an_error_inside_a_no_grad_block_leaves_gradients_on() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        with torch.no_grad():
            return x @ m.w

    plastic = plastic_of(Functional(forward, w=nn.Parameter(torch.ones(8, 2))), images())
    with pytest.raises(RuntimeError):
        plastic(images(size=6))
    assert torch.is_grad_enabled()


def test_autocast_blocks_stay() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        with torch.autocast(device_type=x.device.type, dtype=torch.bfloat16):
            y = x @ m.w
        with torch.autocast("cpu", enabled=False):
            return y.to(x.dtype) @ m.w

    torch.manual_seed(0)
    weight = torch.randn(8, 8)
    assert_same_bits(lambda: Functional(forward, w=nn.Parameter(weight.clone())), (images(),))
    plastic = plastic_of(Functional(forward, w=nn.Parameter(weight)), images())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert plastic(images()).dtype == torch.float32


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad:UserWarning")
def test_reentrant_checkpointing_is_refused() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        return checkpoint(m.part, x, use_reentrant=True)

    with pytest.raises(TraceError, match="give it use_reentrant=False"):
        trace(Functional(forward, part=nn.Linear(8, 8)), (images(),))
