"""Two layers side by side: sizes that change only when one grows and the other does not."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fxplastic
from fxplastic import Plan, WidthError
from tests.oracle import distance, outputs, prepare


class Two(nn.Module):
    """Two layers to eight features each, and a forward to be given."""

    def __init__(self, forward: Any, out: int = 16) -> None:
        super().__init__()
        self.i, self.j, self.o = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(out, 3)
        self.run = forward

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.run(self, x, self.i(x), self.j(x))
        return out


def two(forward: Any, **options: Any) -> tuple[nn.Module, Tensor, fxplastic.PlasticModule]:
    torch.manual_seed(0)
    model, x = prepare(Two(forward, options.pop("out", 16))), torch.randn(4, 6).double()
    return model, x, fxplastic.plasticize(model, x, **options)


def check_growth(
    model: nn.Module, x: Tensor, plastic: fxplastic.PlasticModule, groups: list[str]
) -> fxplastic.PlasticModule:
    plan = Plan.random(plastic, grow=1.0, shares="signed", groups=groups)
    module = fxplastic.rewrite(plastic, plan).module
    for rows in (x, x[:3]):
        assert distance(outputs(module, (rows,), "eval"), outputs(model, (rows,), "eval")) <= 1e-12
    return module


def halves(s: Any, x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    first, second = torch.cat([a, b], 1).chunk(2, 1)
    return s.o(torch.cat([first.tanh(), second.relu()], 1))


def test_a_chunk_of_unlike_parts_becomes_a_split() -> None:
    model, x, plastic = two(halves)
    module = check_growth(model, x, plastic, ["i.weight:0"])
    assert ".split(" in module.code
    assert ".chunk(" not in module.code


def test_sizes_taken_from_another_tensor_are_set_one_by_one() -> None:
    model, x, plastic = two(
        lambda s, x, a, b: s.o((a + a.new_zeros(x.repeat(1, 2)[:, :8].shape)).relu()), out=8
    )
    check_growth(model, x, plastic, ["i.weight:0"])


def test_groups_that_share_a_tensor_of_their_width_change_alike() -> None:
    def shared(s: Any, x: Tensor, a: Tensor, b: Tensor) -> Tensor:
        z = x.new_zeros(4, 8)
        return s.o(torch.cat([(a + z).relu(), (b + z).tanh()], 1))

    model, x, plastic = two(shared)
    with pytest.raises(WidthError, match="give their width to the same tensor; change both"):
        check_growth(model, x, plastic, ["i.weight:0"])
    plan = Plan.random(plastic, grow=1.0, shares="signed")
    module = fxplastic.rewrite(plastic, plan).module
    assert distance(outputs(module, (x,), "eval"), outputs(model, (x,), "eval")) <= 1e-12


def test_a_functional_norm_follows_an_approximate_group() -> None:
    _, x, plastic = two(
        lambda s, x, a, b: s.o(nn.functional.layer_norm(a, (8,)).relu()), out=8, approximate=True
    )
    assert not plastic.groups["i.weight:0"].exact
    plan = Plan.random(plastic, grow=1.0, groups=["i.weight:0"])
    module = fxplastic.rewrite(plastic, plan).module
    assert "(16,)" in module.code
    assert module(x).shape == (4, 3)


def test_a_multiple_that_a_tie_forbids_is_given_up_with_a_note() -> None:
    def lines(s: Any, x: Tensor, a: Tensor, b: Tensor) -> Tensor:
        z = torch.cat([a, b[:, :6], x[:, :2]], 1).view(-1, 2, 8)
        return s.o(torch.cat([z[:, 0].relu(), z[:, 1].tanh()], 1))

    _, _, plastic = two(lines)
    plan = fxplastic.plan_widths(plastic, 2.0, multiple_of=8)
    name = next(iter(plan.edits))
    assert plastic.groups[name].coupled
    assert any("cannot have a multiple of 8 in each block" in note for note in plan.notes)
    assert fxplastic.rewrite(plastic, plan).module.fingerprint == plan.target


def test_one_layer_cannot_have_two_sizes() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.u, self.i, self.o = nn.Unflatten(1, (4, 2)), nn.Linear(6, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            fixed = self.u(x.repeat(1, 2)[:, :8]).sum((1, 2))
            out: Tensor = self.o(self.u(self.i(x)).flatten(1).relu()) + fixed[:, None]
            return out

    plastic = fxplastic.plasticize(prepare(Shared()), torch.zeros(4, 6).double())
    with pytest.raises(WidthError, match="the layer would need two sizes at once"):
        fxplastic.rewrite(plastic, Plan.random(plastic, grow=1.0))
