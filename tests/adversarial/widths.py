"""Sizes written down in a forward: what follows a width, what must not, and what cannot.

`LITERAL` has every size as a literal; `VALUES` uses sizes as numbers to compute with, whose value
must stay what it was; `TRAPS` have right shapes at some widths and wrong pairs of channels.
"""

from typing import Any

import einops
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.adversarial.case import HIDDEN, MAPS, ROWS, Case, Maps, maps, plain, rows
from tests.adversarial.lost import free

PARTS = {"i.weight:0": "any", "o.weight:1": "any"}


def halves(h: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """The two halves of the channels, each times a constant of its own."""
    pair = torch.stack([first, second])
    return (h.reshape(h.shape[0], 2, -1) * pair[:, None]).reshape(h.shape)


class Grouped(Maps):
    """A grouped and a depthwise convolution called as functions, their groups as literals."""

    def add(self) -> None:
        self.w = nn.Parameter(torch.randn(8, 4, 3, 3))
        self.d = nn.Parameter(torch.randn(8, 1, 3, 3))
        self.t = nn.Parameter(torch.randn(8, 1, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        h = F.conv2d(self.i(x).relu(), self.w, padding=1, groups=2)
        h = F.conv2d(h, self.d, padding=1, groups=8).relu()
        h = F.conv_transpose2d(h, self.t, padding=1, groups=8).tanh()
        return self.o(F.group_norm(h, 8))


class FlattenedBlocks(nn.Module):
    """The channels of a grouped convolution, flattened with their pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.i, self.g = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.o = nn.Linear(8 * 36, 3)

    def forward(self, x: Tensor) -> Tensor:
        h: Tensor = self.o(self.g(self.i(x).relu()).relu().view(-1, 288))
        return h


class EqualAxes(nn.Module):
    """Eight channels on eight by eight pixels: nothing tells the sizes apart by value."""

    def __init__(self) -> None:
        super().__init__()
        self.i, self.o = nn.Conv2d(3, 8, 1), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.i(x).relu().view(8, 8, 8, 8).transpose(2, 3).reshape(8, 8, 64)
        y: Tensor = self.o(h.transpose(1, 2).reshape(8, 64, 8).mean(1))
        return y


class OneOutputAGroup(nn.Module):
    """Channels that are summed up in groups: each belongs to its group's output."""

    def __init__(self) -> None:
        super().__init__()
        self.i, self.t = nn.Conv2d(3, 8, 1), nn.ConvTranspose2d(8, 4, 2, groups=4)
        self.o = nn.Conv2d(4, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.o(self.t(self.i(x).relu()).tanh())
        return y


class FrozenBeside(nn.Module):
    """Neurons beside inputs on one axis, rolled by a literal: the inputs wrap around."""

    def __init__(self, shift: int) -> None:
        super().__init__()
        self.i, self.o, self.shift = nn.Linear(6, 6), nn.Linear(12, 3), shift

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.o(torch.cat([self.i(x).relu(), x], 1).roll(self.shift, 1))
        return y


class Affineless(Maps):
    """Norms that keep sizes and no tensors."""

    def add(self) -> None:
        self.a = nn.InstanceNorm2d(8)
        self.b = nn.BatchNorm2d(8, affine=False, track_running_stats=False)
        self.g = nn.GroupNorm(8, 8, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.o(self.g(self.b(self.a(self.i(x)).relu()).tanh()))
        return y


class Leaves(nn.Module):
    """Layers that keep sizes as attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.i, self.n, self.p = nn.Linear(6, 8), nn.BatchNorm1d(8), nn.PReLU(8)
        self.u, self.c = nn.Unflatten(1, (8, 1)), nn.Conv1d(8, 8, 1, groups=8)
        self.f, self.o = nn.Flatten(), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.f(self.c(self.u(self.p(self.n(self.i(x))))))
        y: Tensor = self.o(h.relu())
        return y


def einops_round(h: Tensor) -> Tensor:
    h = einops.rearrange(h, "b (g d) h w -> b d g h w", g=2, d=4)
    return einops.rearrange(h, "b d g h w -> b (d g) h w")


LITERAL = (
    Case("view_of_literals", rows(plain(lambda h: h.view(4, 8, 1).view(4, 8))), exact=HIDDEN),
    Case("reshape_with_a_rest", rows(plain(lambda h: h.reshape(-1, 2, 4).reshape(4, -1))),
         exact=PARTS),
    Case("split_of_literals", rows(plain(lambda h: torch.cat(
        [p.relu() * n for n, p in enumerate(h.split([3, 5], 1), 1)], 1))),
        exact={"i.weight:0": "1x3+1x5"}),
    Case("split_by_a_literal", rows(plain(lambda h: torch.cat(
        [p * n for n, p in enumerate(h.split(4, dim=1), 1)], 1))), exact=PARTS),
    Case("slices_of_literals", rows(plain(lambda h: torch.cat(
        [h[:, 0:3].relu(), h[:, 3:8].tanh()], 1))), exact={"i.weight:0": "1x3+1x5"}),
    Case("slices_from_the_end", rows(plain(lambda h: torch.cat(
        [h[:, :-5].relu(), h[:, -5:].tanh()], 1))), exact={"i.weight:0": "1x3+1x5"}),
    Case("narrow_of_literals", rows(plain(lambda h: torch.cat(
        [h.narrow(1, 0, 3).relu(), h.narrow(1, 3, 5).tanh()], 1))),
        exact={"i.weight:0": "1x3+1x5"}),
    Case("chunks_of_unlike_groups", rows(plain(lambda h: torch.cat(
        [p.relu() if n else p.tanh() for n, p in enumerate(h.chunk(2, 1))], 1))),
        exact=PARTS),
    Case("zeros_of_literals", rows(plain(lambda h: h + h.new_zeros(4, 8))), exact=HIDDEN),
    Case("ones_of_literals_by_name", rows(plain(lambda h: h * torch.ones(
        size=(8,), dtype=h.dtype).relu())), exact=HIDDEN),
    Case("full_of_literals", rows(plain(lambda h: h * h.new_full((8,), 0.5))), exact=HIDDEN),
    Case("expand_of_literals", rows(plain(lambda h: h * h.new_ones(4, 1).expand(4, 8))),
         exact=HIDDEN),
    Case("repeat_of_literals", rows(plain(lambda h: h * h.new_ones(1, 1).repeat(4, 8))),
         exact=HIDDEN),
    Case("einops_of_literals", maps(plain(einops_round)), (MAPS,), exact=PARTS),
    Case("unflatten_of_literals", rows(plain(lambda h: h.unflatten(1, (8, 1)).flatten(1))),
         exact=HIDDEN),
    Case("groups_of_literals", Grouped, (MAPS,), exact=PARTS),
    Case("flattened_blocks", FlattenedBlocks, (MAPS,), exact=PARTS),
    Case("equal_sizes", EqualAxes, ((8, 3, 8, 8),), exact={"i.weight:0": "1x8"}),
    Case("norms_without_affine", Affineless, (MAPS,), exact=PARTS),
    Case("layers_with_sizes", Leaves, exact={"i.weight:0": "1x8"}),
)  # fmt: skip


def by_its_own_size(h: Tensor) -> Tensor:
    if h.shape[1] == 8:
        return h.relu()
    return h.tanh()


VALUES = (
    Case("divided_by_the_width", rows(plain(lambda h: h / h.shape[1])), exact=HIDDEN),
    Case("scaled_by_a_power_of_the_width", rows(plain(lambda h: h * h.size(-1) ** -0.5)),
         exact=HIDDEN),
    Case("filled_with_the_width", rows(plain(lambda h: h * torch.full(
        (h.shape[0], 1), h.shape[1], dtype=h.dtype))), exact=HIDDEN),
    Case("the_width_as_a_tensor", rows(plain(lambda h: h / torch.tensor(
        float(h.shape[1]), dtype=h.dtype))), exact=HIDDEN),
    Case("added_number_of_elements", rows(plain(lambda h: h + h[0].numel())), exact=HIDDEN),
    Case("branch_on_the_width", rows(plain(by_its_own_size)), exact=HIDDEN),
    Case("clamped_at_the_width", rows(plain(lambda h: h.clamp(max=h.shape[1] / 16))),
         exact=HIDDEN),
    Case("channels_counted", rows(plain(lambda h: h / torch.ones_like(h).sum(1, keepdim=True))),
         exact=HIDDEN),
    Case("zeros_counted", rows(plain(lambda h: h / (1 + h.new_ones(8).sum()))), exact=HIDDEN),
    free("mean_by_hand", lambda s, x, h: s.o(h.relu()) + (h.relu() * s.w).sum(1, keepdim=True)
         / h.shape[1], {**HIDDEN, "w:0": "1x8"}, w=lambda: nn.Parameter(torch.randn(8))),
    free("expanded_and_summed", lambda s, x, h: s.o(
        h.relu() + (e := x[:, :1].expand(4, 8))) + e.sum(1, keepdim=True), HIDDEN),
)  # fmt: skip

TRAPS = (
    Case("constants_across_a_roll", rows(plain(lambda h: halves(
        halves(h, torch.tensor(1.0), torch.tensor(2.0)).roll(48, 1),
        torch.tensor(3.0), torch.tensor(5.0))), out=64, width=64),
        exact={"i.weight:0": "4x16"}),
    Case("channels_rolled", rows(plain(lambda h: h.roll(1, 1).relu())), exact=HIDDEN),
    Case("channels_rolled_by_half", rows(plain(lambda h: h + h.roll(h.shape[1] // 2, 1))),
         exact={"i.weight:0": "1x4"}),
    *(Case(f"inputs_rolled_by_{n}", lambda n=n: FrozenBeside(n), (ROWS,),
           exact={"i.weight:0": "1x6"}) for n in (1, 4, -9)),
    Case("one_output_a_group", OneOutputAGroup, (MAPS,),
         exact={"i.weight:0": "4x2", "t.weight:0": "4x2"}),
    free("products_in_blocks", lambda s, x, h: s.p(torch.einsum(
        "bgi,gi->bg", h.relu().view(-1, 4, 2), s.w).tanh()), {"i.weight:0": "", "w:1": ""},
        w=lambda: nn.Parameter(torch.randn(4, 2)), p=lambda: nn.Linear(4, 3)),
    Case("shuffled_in_two", maps(plain(lambda h: h.view(4, 2, 4, 6, 6).transpose(1, 2).reshape(
        4, 8, 6, 6))), (MAPS,), exact=PARTS),
    Case("cut_in_fours", rows(plain(lambda h: (h.view(4, -1, 4) * torch.tensor(
        [1.0, 2.0, 3.0, 4.0])).view(4, -1)), out=16, width=16), exact={"i.weight:0": "4x4"}),
    Case("cut_into_four", rows(plain(lambda h: (h.view(4, 4, -1) * torch.tensor(
        [[1.0], [2.0], [3.0], [4.0]])).view(4, -1)), out=16, width=16),
        exact={"i.weight:0": "4x4"}),
)  # fmt: skip

CASES: tuple[Any, ...] = (*LITERAL, *VALUES, *TRAPS)
