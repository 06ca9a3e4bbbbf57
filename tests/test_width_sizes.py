"""Sizes used as numbers, bounds and offsets: the result is right at other batches and images too.

Each case is a middle part between two layers, on maps ``[2, 3, 8, 8]`` or tokens ``[2, 5, 6]``; it
grows to twice its width, and what it computes must be the model's own function on every input
that the model takes. Cases with a pattern must be refused with a message that matches it.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import torch.fx
from torch import Tensor, nn
from torch.nn import functional as F

import fxplastic
from fxplastic.errors import GuardError, WidthError
from tests.adversarial.lost import Free
from tests.oracle import MODES, TOLERANCE, distance, mask_consumers, outputs, prepare, pruned

MAPS, TOKENS = (2, 3, 8, 8), (2, 5, 6)
BATCH, LARGE, SMALL = (3, 3, 8, 8), (2, 3, 12, 12), (2, 3, 6, 6)
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Sized:
    name: str
    middle: Callable[[Any, Tensor, Tensor], Any]
    example: Shape
    others: tuple[Shape, ...] = ()
    refused: str = ""
    prune: bool = False
    parts: tuple[tuple[str, Callable[[], Any]], ...] = ()

    def build(self) -> nn.Module:
        torch.manual_seed(0)
        return prepare(Free(self.middle, len(self.example) == 4, dict(self.parts)))


def middle(name: str, f: Callable[[Tensor], Tensor], *shapes: Shape, **options: Any) -> Sized:
    """`f` between the layers, followed by a nonlinear function."""
    example, *others = shapes
    return Sized(name, lambda s, x, h: s.o(f(h).tanh()), example, tuple(others), **options)


class Divide(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.n = x.shape[-1]
        return x / x.shape[-1]

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g / ctx.n


def wrapped(x: Tensor) -> Tensor:
    return x / x.shape[-1]


torch.fx.wrap("wrapped")


def hooked(change: Callable[[Tensor], Tensor]) -> Callable[[], nn.Module]:
    """A layer whose forward hook computes with the width, out of sight of the graph."""

    def make() -> nn.Module:
        layer = nn.Linear(8, 8)
        layer.register_forward_hook(lambda _, __, out: change(out))
        return layer

    return make


HOOKS: dict[str, Callable[[Tensor], Tensor]] = {
    "number": lambda h: h / h.shape[-1],
    "tensor": lambda h: h / torch.tensor(float(h.shape[-1]), dtype=h.dtype),
    "as_tensor": lambda h: h / torch.as_tensor(h.shape[-1]),
    "new_tensor": lambda h: h / h.new_tensor(float(h.shape[-1])),
    "from_numpy": lambda h: h / torch.from_numpy(np.array(float(h.shape[-1]))),
    "full": lambda h: h / torch.full((), float(h.shape[-1]), dtype=h.dtype),
    "arange": lambda h: h / torch.arange(h.shape[-1]).sum(),
    "linspace": lambda h: h * torch.linspace(0, h.shape[-1], 5, dtype=h.dtype).mean(),
    "fill": lambda h: h * torch.empty((), dtype=h.dtype).fill_(h.shape[-1]),
}


def quarter(h: Tensor) -> int:
    return h.shape[1] // 4


def by_parts(h: Tensor) -> Tensor:
    b, _, height, width = h.shape
    return h.view(b * 8, -1).cumsum(-1).view(b, 8, height, width)


def one_by_one(h: Tensor) -> Tensor:
    b, _, height, width = h.shape
    return F.avg_pool2d(h.view(b * 8, 1, height, width), 3, 1, 1).view(h.shape)


def windows(h: Tensor) -> Tensor:
    b, _, height, width = h.shape
    return h.view(b * 8, height, width).roll((-1, -1), (1, 2)).view(b, 8, height, width)


def literal_times_pixels(h: Tensor) -> Tensor:
    b, _, height, width = h.shape
    return h.reshape(b, 8 * height * width).relu().view(h.shape)


def padded_to_multiple(s: Any, x: Tensor, h: Tensor) -> Tensor:
    y, (height, width) = s.j(h.relu()), x.shape[2:]
    p = F.pad(h, (0, -width % 4, 0, -height % 4, 4, 4))
    out: Tensor = s.p(F.interpolate(p, size=y.shape[2:]) + y)
    return out


def flat_slice(s: Any, x: Tensor, h: Tensor) -> Tensor:
    height, width = x.shape[2:]
    z = torch.cat([h.relu(), x], 1).flatten(1)[:, : 8 * height * width]
    out: Tensor = s.o(z.view(x.shape[0], -1, height, width))
    return out


def beside(f: Callable[[Any, Tensor], Tensor]) -> Callable[[Any, Tensor, Tensor], Any]:
    """Eight neurons and nine input channels on one axis; `f` picks some of the latter."""

    def forward(s: Any, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        z = torch.cat([h.relu(), x, x * 2, x * 3], 1)
        return s.o(z[:, :8]), f(s, z)

    return forward


def mixed(s: Any, x: Tensor, h: Tensor) -> Tensor:
    """Eight neurons, once a sample, beside positions that follow the image."""
    return torch.cat([h.mean((2, 3)).relu(), x.flatten(1)], 1)


def divided_mix(s: Any, x: Tensor, h: Tensor) -> Tensor:
    z = mixed(s, x, h)
    out: Tensor = s.l(z[:, :8] / z.shape[1])
    return out


def cut_mix(s: Any, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    z = mixed(s, x, h)
    return s.l(z[:, :8]), z[:, 8 : 8 + 3 * x.shape[2] * x.shape[3]].sum(1)


def viewed_mix(s: Any, x: Tensor, h: Tensor) -> Tensor:
    z = mixed(s, x, h).view(x.shape[0], 8 + 3 * x.shape[2] * x.shape[3])
    out: Tensor = s.l(z.tanh()[:, :8])
    return out


def flat_over_batch(h: Tensor) -> Tensor:
    y = h.flatten(0, 1)
    return (y / y.shape[0]).view(h.shape[0], -1, *h.shape[2:])


def blurred(h: Tensor) -> Tensor:
    y = h.reshape(h.shape[0] * 8, 1, *h.shape[2:])
    return F.avg_pool2d(y, 3, 1, 1).view(h.shape)


def split_pixels(h: Tensor) -> Tensor:
    parts = h.flatten(1).split(4 * h.shape[2] * h.shape[3], 1)
    return torch.cat([p.relu() for p in parts], 1).view(h.shape)


L = ("l", lambda: nn.Linear(8, 3))
NUMBERS, POSITIONS = "work on other numbers", "in another order"
J = ("j", lambda: nn.Conv2d(8, 16, 3, padding=1))
CASES = (
    middle("autograd_function", Divide.apply, TOKENS, refused=NUMBERS),
    middle("wrapped_function", lambda h: wrapped(h), TOKENS, refused=NUMBERS),
    *(Sized(f"hook_with_{name}", lambda s, x, h: s.o(s.k(h).tanh()), TOKENS, refused=NUMBERS,
            parts=(("k", hooked(hook)),)) for name, hook in HOOKS.items()),
    middle("rolled_pixels", lambda h: h.roll(quarter(h), 2), MAPS, BATCH, LARGE),
    middle("slice_of_pixels", lambda h: h + h[:, :, quarter(h) : quarter(h) + 1], MAPS, LARGE),
    middle("selected_pixels", lambda h: h + h.select(3, quarter(h))[..., None], MAPS, LARGE),
    middle("narrowed_pixels", lambda h: h + h.narrow(3, quarter(h), 1), MAPS, LARGE),
    middle("padded_pixels", lambda h: F.pad(h, (quarter(h), -quarter(h))), MAPS, LARGE),
    middle("counted_from_the_width", lambda h: h * torch.arange(
        h.shape[1], h.shape[1] + 8).to(h.dtype), MAPS, BATCH),
    middle("counted_in_steps", lambda h: h * torch.arange(
        0, h.shape[1], quarter(h)).to(h.dtype).mean(), MAPS, BATCH),
    Sized("inputs_in_steps", beside(lambda s, z: z[:, 8:12:2]), MAPS, prune=True,
          refused=POSITIONS),
    Sized("inputs_by_index", beside(lambda s, z: z[:, s.k]), MAPS, prune=True, refused=POSITIONS,
          parts=(("k", lambda: torch.tensor([8, 9])),)),
    Sized("inputs_by_missing_index", beside(lambda s, z: z[:, torch.arange(8, 17)]), MAPS,
          prune=True, refused="out of bounds"),
    Sized("inputs_rolled", beside(lambda s, z: z.roll(-8, 1)[:, :4]), MAPS, prune=True,
          refused=POSITIONS),
    Sized("inputs_summed", beside(lambda s, z: z[:, 8:12:2].sum(1)), MAPS, prune=True,
          refused=POSITIONS),
    Sized("inputs_sliced", beside(lambda s, z: z[:, 8:12]), MAPS, (BATCH, LARGE), prune=True),
    middle("all_elements", lambda h: h / h.numel(), MAPS, BATCH, LARGE),
    middle("elements_of_a_sample", lambda h: h / (h.shape[1] * h.shape[2] * h.shape[3]) ** 0.5,
           MAPS, BATCH, LARGE),
    middle("tensor_of_the_shape", lambda h: h * torch.tensor(h.shape, dtype=h.dtype).sum(),
           MAPS, BATCH, LARGE),
    middle("smaller_of_two_sizes", lambda h: h * min(h.shape[-1], h.shape[1]), TOKENS, (2, 9, 6)),
    middle("modulo_of_two_sizes", lambda h: h * (1 + h.shape[-1] % h.shape[1]), TOKENS, (2, 7, 6)),
    middle("branch_on_two_sizes", lambda h: h * 2 if h.shape[1] >= h.shape[2] else h, MAPS, LARGE),
    middle("branch_on_all_elements", lambda h: h * 2 if h.numel() <= 1024 else h, MAPS,
           (1, 3, 8, 8), BATCH),
    middle("length_of_a_sample", lambda h: h / len(h[0, 0]), TOKENS, (3, 5, 6)),
    middle("batch_times_a_literal", by_parts, SMALL, (3, 3, 6, 6)),
    middle("each_map_by_itself", one_by_one, MAPS, BATCH, LARGE),
    middle("windows_of_each_map", windows, MAPS, BATCH),
    middle("literal_times_pixels", literal_times_pixels, MAPS, BATCH, LARGE),
    Sized("padded_to_a_multiple", padded_to_multiple, MAPS, (BATCH, SMALL),
          parts=(J, ("p", lambda: nn.Conv2d(16, 3, 1)))),
    Sized("divided_by_a_mixed_axis", divided_mix, MAPS, (BATCH, LARGE), parts=(L,)),
    Sized("cut_from_a_mixed_axis", cut_mix, MAPS, (BATCH, LARGE), parts=(L,)),
    Sized("view_of_a_mixed_axis", viewed_mix, MAPS, (BATCH, LARGE), parts=(L,)),
    middle("channels_over_the_batch", flat_over_batch, MAPS, BATCH, LARGE),
    middle("elements_of_a_row", lambda h: h / h.flatten(1).shape[1], TOKENS, (3, 5, 6), (2, 7, 6)),
    middle("maps_over_the_batch", blurred, MAPS, BATCH, LARGE),
    middle("split_by_pixels", split_pixels, MAPS, BATCH, LARGE),
    middle("slice_past_the_end", lambda h: h.flatten(1)[:, :10000].view(
        h.shape[0], -1, *h.shape[2:]), MAPS, BATCH, LARGE),
    middle("rolled_by_name", lambda h: torch.roll(input=h, shifts=1, dims=2), MAPS, BATCH),
    middle("narrowed_by_name", lambda h: torch.narrow(
        input=h, dim=2, start=0, length=4), MAPS, BATCH),
    middle("selected_by_name", lambda h: h + torch.select(
        input=h, dim=3, index=0)[..., None], MAPS, BATCH),
    middle("ones_repeated_by_name", lambda h: h * h.new_ones(1, 1, 1, 1).repeat(
        repeats=(1, 8, 1, 1)), MAPS, BATCH),
    middle("elements_by_another_name", lambda h: h / h.nelement(), MAPS, BATCH),
    Sized("size_returned", lambda s, x, h: (s.o(h.relu()), h.shape[1], tuple(h.shape)), MAPS,
          (BATCH,)),
    Sized("slice_of_unlike_pixels", flat_slice, MAPS, (LARGE,),
          refused="change by different factors, each of them several times"),
)  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_other_inputs_are_right_too(case: Sized) -> None:
    model = case.build()
    draw = torch.Generator().manual_seed(1)
    shapes = (case.example, *case.others)
    inputs = [torch.randn(s, generator=draw, dtype=torch.float64) for s in shapes]
    plastic = fxplastic.plasticize(model, inputs[0])
    assert plastic.groups
    ratio = {"prune": 0.5} if case.prune else {"grow": 1.0}
    plan = fxplastic.Plan.random(plastic, shares="signed", seed=5, **ratio)
    if case.refused:
        with pytest.raises(WidthError, match=re.escape(case.refused)) as caught:
            fxplastic.rewrite(plastic, plan)
        assert re.search(r"'[\w.]+:\d|node '\w+'", str(caught.value))
        return
    module = fxplastic.rewrite(plastic, plan).module
    dead = {name: pruned(plastic.groups[name], edit.take) for name, edit in plan.edits.items()}
    reference = mask_consumers(model, plastic.groups, dead)
    for x in inputs:
        check(plastic, module, reference, x)


def numbers(output: Any) -> list[Any]:
    """What is no tensor in an output."""
    parts = output if isinstance(output, tuple) else (output,)
    return [part for part in parts if not isinstance(part, Tensor)]


@pytest.mark.parametrize("case", [c for c in CASES if not c.refused], ids=lambda case: case.name)
def test_a_single_sample_is_enough_or_refused(case: Sized) -> None:
    model = case.build()
    draw = torch.Generator().manual_seed(2)
    shapes = [(n, *shape[1:]) for shape in (case.example, *case.others) for n in (1, 2, 3)]
    inputs = [torch.randn(s, generator=draw, dtype=torch.float64) for s in shapes]
    plastic = fxplastic.plasticize(model.eval(), inputs[0])
    plan = fxplastic.Plan.random(plastic, grow=1.0, shares="signed", seed=5)
    module, refusal = None, ""
    try:
        module = fxplastic.rewrite(plastic, plan).module
    except WidthError as error:
        refusal = str(error)
    if module is None:
        assert "give a batch of two" in refusal
        return
    for x in inputs:
        check(plastic, module, model, x)


def check(plastic: nn.Module, module: nn.Module, reference: nn.Module, x: Tensor) -> None:
    """Right where the traced model runs; where a guard stops that, the same guard stops this."""
    for mode in MODES:
        try:
            outputs(plastic, (x,), mode)
        except GuardError as stopped:
            with pytest.raises(GuardError, match=re.escape(str(stopped).split(":")[0])):
                outputs(module, (x,), mode)
            continue
        assert numbers(module(x)) == numbers(reference(x))
        error = distance(outputs(module, (x,), mode), outputs(reference, (x,), mode))
        assert error <= TOLERANCE, f"off by {error:.1e} on {list(x.shape)} in {mode} mode"
