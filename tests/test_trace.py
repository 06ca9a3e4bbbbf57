"""Tracing: Python code on shapes and devices keeps its meaning, and what is fixed is guarded."""

import functools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fxplastic.errors import GuardError, TraceError
from fxplastic.trace import trace
from tests.tracing import Functional, assert_same_bits, images, plastic_of, targets

HERE = __file__


def reshape_heads(m: Any, x: Tensor) -> Tensor:
    b, c, h, w = x.shape
    assert isinstance(c, int)
    assert isinstance(x, Tensor)
    assert isinstance(x.shape, torch.Size)
    x = torch.reshape(x, (b, c, h * w))  # functional form: torch's parser asks for the ints
    x = torch.roll(x, shifts=(c - 2,), dims=(1,))
    return x.view(*x.shape[:-1], h, w).expand(b, c, h, w).permute(0, 2, 3, 1).flatten(1)


def decide_on_shapes(m: Any, x: Tensor) -> Tensor:
    if x.dim() == 4 and x.size(1) == 3 and x.dtype in (torch.float32, torch.float64):
        x = x * 2
    if x.shape[-2] % 2 or not x.is_floating_point():
        x = F.pad(x, (0, 0, 0, 1))
    for part in x.chunk(3, dim=1):
        x = x + part
    return x + len(x.shape) + min(x.shape[1:])


def factories(m: Any, x: Tensor) -> Tensor:
    b, c, h, w = x.shape
    grid = torch.stack(torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij"))
    mask = torch.zeros(b, 1, h, w, dtype=x.dtype, device=x.device)
    mask[:, :, h // 2 :] = 1
    noise = torch.rand(b, c, 1, 1) + torch.randn((b, c, 1, 1), dtype=x.dtype)
    total = torch.full((b, 1, 1, 1), float(c)) + torch.ones(h, w) + torch.tensor([0.5])
    return x * mask + noise + total + grid.sum(0) + torch.eye(h, w) + x.new_zeros(b, c, h, w)


def numbers(m: Any, x: Tensor) -> Tensor:
    n = x.shape[1]
    n += 1
    half, rest = divmod(n, 2)
    size = round(n * 1.5) + int(n / 2) + half + rest + np.prod([2, 3])
    return x * (n**-0.5) + size + torch.finfo(x.dtype).tiny + (n if n > 2 else 0)


@pytest.mark.parametrize("function", [reshape_heads, decide_on_shapes, factories, numbers])
def test_python_code_on_shapes_gives_the_same_bits_at_another_batch_size(function: Any) -> None:
    assert_same_bits(lambda: Functional(function), (images(2),), (images(5),), (images(1),))


def test_sizes_that_no_branch_depends_on_stay_symbolic() -> None:
    assert_same_bits(lambda: Functional(reshape_heads), (images(size=8),), (images(size=6),))


def test_a_size_that_a_branch_depends_on_is_guarded_with_its_line() -> None:
    plastic = plastic_of(Functional(decide_on_shapes), images(size=8))
    with pytest.raises(GuardError, match=rf"{HERE}:\d+ in decide_on_shapes .*shape\[-2\] % 2"):
        plastic(images(size=7))


def test_a_loop_over_a_size_is_guarded_once_per_size() -> None:
    def loop(m: Any, x: Tensor) -> Tensor:
        for _ in range(x.shape[1]):
            for _ in range(x.shape[2]):
                x = x + 1
        return x

    plastic = assert_same_bits(lambda: Functional(loop), (images(size=4),), (images(3, 4),))
    guards = [n for n in plastic.graph.nodes if "expect" in n.name and "input" not in n.args[2]]
    assert len(guards) == 1 + 3  # x.shape is read anew in each pass of the outer loop
    with pytest.raises(GuardError, match="got 5, tracing fixed 4"):
        plastic(images(size=5))


def test_the_message_of_an_assertion_fixes_no_size() -> None:
    def message(m: Any, x: Tensor) -> Tensor:
        torch._assert(x.dim() == 4, f"got {x.shape} of {x.shape[2]} on {x.device}")
        return x + 1

    plastic = plastic_of(Functional(message), images())
    assert torch.equal(plastic(images(3)), images(3) + 1)
    assert torch.equal(plastic(images(3, 6)), images(3, 6) + 1)
    with pytest.raises(GuardError, match="4 axes"):
        plastic(images()[0])


def test_other_text_made_from_a_size_is_guarded() -> None:
    def look_up(m: Any, x: Tensor) -> Tensor:
        return x * {"2": 2.0}.get(f"{x.shape[0]}", 3.0) + len(f"{x.shape[1]:04d}")

    plastic = assert_same_bits(lambda: Functional(look_up), (images(2),), (images(2, 6),))
    with pytest.raises(GuardError, match="got 3, tracing fixed 2"):
        plastic(images(3))


def test_text_made_from_a_shape_may_be_the_key_of_a_cache() -> None:
    def cached(m: Any, x: Tensor) -> Tensor:
        key = str(x.shape)
        if key not in m.cache:
            m.cache[key] = torch.ones(x.shape[0], 1, 1, 1)
        return x + m.cache[key]

    model = Functional(cached, cache={})
    plastic = plastic_of(model, images())
    assert model.cache == {}
    assert torch.equal(plastic(images()), images() + 1)
    with pytest.raises(GuardError, match="tracing fixed"):
        plastic(images(3))


def test_the_device_that_code_sees_is_the_real_one() -> None:
    def look(m: Any, x: Tensor) -> Tensor:
        own = next(m.parameters()).device
        assert x.device.type == "cpu"
        assert own == x.device
        assert not x.is_cuda
        return x.to(own).to("cpu").cpu() + torch.zeros(1, device=x.device)

    assert_same_bits(lambda: Functional(look, weight=nn.Parameter(torch.ones(1))), (images(),))


def test_parameters_on_two_devices_are_refused() -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1, device="meta"))
    with pytest.raises(TraceError, match=r"0\.weight on cpu, 1\.weight on meta.*\.to\("):
        trace(model, (images(),))


def test_every_node_names_the_line_of_the_user() -> None:
    traced = trace(Functional(decide_on_shapes), (images(),))
    lines = [n.meta["source"] for n in traced.graphs[True].nodes if n.op == "call_function"]
    assert all(HERE in line for line in lines[1:])
    assert any("in decide_on_shapes" in line for line in lines)


@functools.cache
def table_of(size: int) -> Tensor:
    return torch.arange(size)


def test_a_functools_cache_in_the_models_code_is_left_working() -> None:
    model = Functional(lambda m, x: x + table_of(x.shape[-1]) + table_of(8))
    plastic = plastic_of(model, images())
    assert torch.equal(plastic(images()), model(images()))
    assert isinstance(table_of(8), Tensor)
    with pytest.raises(GuardError, match="got 6, tracing fixed 8"):
        plastic(images(size=6))


def test_assigning_to_data_is_refused() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        x.data = x * 2
        return x

    with pytest.raises(TraceError, match=r"assigning to \.data"):
        trace(Functional(forward), (images(),))


def times(x: Tensor, n: int) -> Tensor:
    return x * n if n > 1 else x


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
def test_scripted_functions_and_modules_stay_whole() -> None:
    scripted = torch.jit.script(times)

    def forward(m: Any, x: Tensor) -> Tensor:
        return m.part(scripted(x, x.shape[1]))

    def make() -> nn.Module:
        return Functional(forward, part=torch.jit.script(nn.ReLU()))

    assert_same_bits(make, (images(),), (images(3),))


def test_wrapped_functions_stay_whole() -> None:
    traced = trace(Functional(lambda m, x: whole(x, x.shape[0])), (images(),))
    assert whole in targets(traced)


@torch.fx.wrap
def whole(x: Tensor, n: int) -> Tensor:
    return x * n


@pytest.mark.parametrize(
    "name", ["test_resnet", "test_vit", "test_efficientnet_gn", "test_mambaout", "test_convnext"]
)
def test_zoo_models_give_the_same_bits(name: str) -> None:
    timm = pytest.importorskip("timm")
    size = 32 if name in ("test_resnet", "test_mambaout", "test_convnext") else 160
    calls = ((images(2, size),), (images(3, size),))
    assert_same_bits(lambda: timm.create_model(name, num_classes=5, drop_path_rate=0.1), *calls)
