"""Where channels go: rolls, reshapes, halves, in-place writes, and indexing along the channels."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.adversarial.case import (
    HIDDEN,
    MAPS,
    TOKENS,
    Case,
    Maps,
    Middle,
    Rows,
    maps,
    plain,
    rows,
)

STUCK = {"i.weight:0": "", "o.weight:1": ""}
SEVEN = {"i.weight:0": "1x7", "o.weight:1": "1x7"}
"""All but the one that stands alone."""
CYCLES = (1, 2, 0, 5, 3, 4, 7, 6)  # two 3-cycles that turn opposite ways, and a swap


def shuffle(h: Tensor, groups: int = 2) -> Tensor:
    parts = h.reshape(h.shape[0], groups, -1, *h.shape[2:])
    return parts.transpose(1, 2).reshape(h.shape)


def to_depth(h: Tensor) -> Tensor:
    b, c, height, width = h.shape
    cells = h.reshape(b, c, height // 2, 2, width // 2, 2).permute(0, 3, 5, 1, 2, 4)
    return cells.reshape(b, 4 * c, height // 2, width // 2)


def windows(h: Tensor) -> Tensor:
    b, c, height, width = h.shape
    cells = h.reshape(b, c, height // 3, 3, width // 3, 3).permute(0, 2, 4, 3, 5, 1)
    cells = cells.reshape(-1, 9, c).roll(1, 1)
    return cells.reshape(b, 2, 2, 3, 3, c).permute(0, 5, 1, 3, 2, 4).reshape(h.shape)


def halves_differ(h: Tensor) -> Tensor:
    return torch.cat([h[:, :4].relu(), h[:, 4:].tanh()], 1)


def write_into_view(h: Tensor) -> Tensor:
    h = h.clone()
    h[:, :4].mul_(2.0).relu_()
    return h


def swap_by_setitem(h: Tensor) -> Tensor:
    y = torch.zeros_like(h)
    y[:, :4] = h[:, 4:]
    y[:, 4:] = h[:, :4]
    return y


def overwrite_one(h: Tensor) -> Tensor:
    h = h.clone()
    h[:, 3] = h[:, 0] * 2
    return h


def write_through_alias(h: Tensor) -> Tensor:
    h = h.clone()
    view = h.view(h.shape[0], 4, 2)
    view[:, :, 0] += view[:, :, 1]
    return h.tanh()


def repeats_multiplied(h: Tensor) -> Tensor:
    return h.repeat(1, 2) * h.repeat_interleave(2, 1).tanh()


def unequal_concats_added(h: Tensor) -> Tensor:
    a, b = h[:, :3], h[:, 3:]
    return (torch.cat([a, b], 1) + torch.cat([b, a], 1)).tanh()


def two_reshapes_added(h: Tensor) -> Tensor:
    b = h.shape[0]
    other = h.view(b, 4, 2).transpose(1, 2)
    return (h.view(b, 2, 4) + other).tanh().reshape(b, 8)


class Interleaved(Rows):
    def add(self) -> None:
        self.j, self.p = nn.Linear(6, 8), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        pair = torch.stack([self.i(x).relu(), self.j(x).tanh()], -1)
        return self.p(pair.flatten(1)) + self.o(self.i(x).relu())


class InterleavedSplit(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.i, self.a, self.b = nn.Linear(6, 8), nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.i(x).relu()
        return self.a(h[:, ::2]) * self.b(h[:, 1::2])


class SwiGlu(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.i, self.o = nn.Linear(6, 16), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.i(x).chunk(2, dim=-1)
        return self.o(F.silu(a) * b)


class FlatRolled(nn.Module):
    """The last channel's pixels wrap around: their order along the axis is not their order."""

    def __init__(self) -> None:
        super().__init__()
        self.i, self.o = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8 * 36, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.o(self.i(x).relu().flatten(1).roll(1, 1))


class Flattened(FlatRolled):
    def forward(self, x: Tensor) -> Tensor:
        return self.o(self.i(x).relu().flatten(1))


class FlattenedChannelsLast(FlatRolled):
    def forward(self, x: Tensor) -> Tensor:
        return self.o(self.i(x).relu().permute(0, 2, 3, 1).flatten(1))


class PixelShuffleResidual(Maps):
    def add(self) -> None:
        self.m = nn.Conv2d(8, 32, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.i(x).relu()
        return self.o(F.pixel_shuffle(self.m(h), 2) + F.interpolate(h, scale_factor=2))


class ShuffledUnit(Maps):
    """A ShuffleNet unit at stride one: half of the channels pass by."""

    def add(self) -> None:
        self.m, self.d = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 3, padding=1, groups=4)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.i(x).relu().chunk(2, dim=1)
        return self.o(shuffle(torch.cat([a, self.d(self.m(b)).relu()], 1)).relu())


class DenselyConnected(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.i, self.a = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 3, padding=1)
        self.n, self.o = nn.BatchNorm2d(12), nn.Conv2d(12, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.i(x).relu()
        return self.o(self.n(torch.cat([h, self.a(h)], 1)).relu())


class ZeroPaddedShortcut(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.i, self.m, self.o = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 8, 1), nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.i(x).relu()
        return self.o((self.m(h) + F.pad(h, (0, 0, 0, 0, 2, 2))).relu())


class Indexed(Rows):
    """Channels picked by an index buffer; `picks` may repeat and skip some."""

    picks: tuple[int, ...] = CYCLES
    residual = False

    def add(self) -> None:
        self.register_buffer("index", torch.tensor(self.picks))

    def forward(self, x: Tensor) -> Tensor:
        h = self.i(x).tanh()
        picked = h[:, self.index]
        return self.o((h + picked).relu() if self.residual else picked)


class IndexedResidual(Indexed):
    residual = True


class IndexedTwice(Indexed):
    picks = (0, 0, 1, 2, 3, 4, 4, 4)


class IndexSelected(Indexed):
    def forward(self, x: Tensor) -> Tensor:
        return self.o(self.i(x).tanh().index_select(1, self.index))


class GatheredByInput(Rows):
    def forward(self, x: Tensor) -> Tensor:
        h = self.i(x).tanh()
        return self.o(h.gather(1, x.argsort(1)[:, [0, 1, 2, 3, 4, 5, 0, 1]]))


class Unfolded(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.i, self.o = nn.Conv2d(3, 8, 1), nn.Linear(72, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.o(F.unfold(self.i(x).relu(), 3).transpose(1, 2)).mean(1)


class ChannelsAsBatch(Maps):
    """Every channel goes through the same one-channel network."""

    def add(self) -> None:
        self.m: nn.Module = nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.i(x).relu()
        return self.o(self.m(h.reshape(-1, 1, *h.shape[2:])).reshape(h.shape).relu())


class ChannelsAsBatchNormed(ChannelsAsBatch):
    def add(self) -> None:
        self.m = nn.BatchNorm2d(1)


class OneApartNormed(Rows):
    """A single channel goes its own way and comes back, so that its norm's slot has no partner."""

    def add(self) -> None:
        self.n, self.p = nn.BatchNorm1d(8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.i(x)
        h = torch.cat([h[:, 1:].tanh(), h[:, :1].relu()], 1)
        return self.o(self.n(h).relu()) + self.p(self.n.weight)


class SlimmedLayer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.i, self.o = nn.Linear(6, 12), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = F.linear(x, self.i.weight[:8], self.i.bias[:8]).relu()
        return F.linear(h, self.o.weight[:, :8], self.o.bias)


def residual(move: Middle) -> Middle:
    return lambda h: (h + move(h)).tanh()


def row_case(name: str, middle: Middle, verdict: object = None, out: int = 8) -> Case:
    exact = verdict if verdict is HIDDEN or verdict is not STUCK else None
    return Case(
        name,
        rows(plain(middle), out),
        exact=exact or {},  # type: ignore[arg-type]
        frozen=STUCK if verdict is STUCK else {},
    )


CASES = (
    row_case("roll_over_channels", lambda h: h.relu().roll(1, 1), HIDDEN),
    row_case("roll_over_channels_added", residual(lambda h: h.roll(1, 1)), STUCK),
    row_case("flip_over_channels", lambda h: h.relu().flip(1), HIDDEN),
    row_case("flip_over_channels_added", residual(lambda h: h.flip(1))),
    row_case(
        "half_roll_added",
        residual(lambda h: h.roll(4, 1)),
        {"i.weight:0": "1x4", "o.weight:1": "1x4"},
    ),
    row_case("sort_over_channels", lambda h: h.sort(dim=1).values, STUCK),
    row_case("argsort_gathers_channels", lambda h: h.gather(1, h.argsort(1)), STUCK),
    row_case("largest_channels", lambda h: h.topk(8, dim=1).values, STUCK),
    row_case("argmax_routes", lambda h: h * F.one_hot(h.argmax(1), 8), STUCK),
    row_case("channel_added_to_all", lambda h: (h + h[:, :1]).relu(), SEVEN),
    row_case("channel_gates_all", lambda h: h * h[:, :1].sigmoid(), SEVEN),
    row_case("difference_of_neighbours", lambda h: (h[:, 1:] - h[:, :-1]).relu(), STUCK, out=7),
    row_case(
        "halves_added",
        lambda h: (h[:, :4] + h[:, 4:]).relu(),
        {"i.weight:0": "1x4", "o.weight:1": "1x4"},
        out=4,
    ),
    row_case(
        "gated_linear_unit",
        lambda h: F.glu(h, 1),
        {"i.weight:0": "1x4", "o.weight:1": "1x4"},
        out=4,
    ),
    row_case("halves_treated_differently", halves_differ),
    row_case(
        "one_channel_treated_differently", lambda h: torch.cat([h[:, :1].relu(), h[:, 1:]], 1)
    ),
    row_case(
        "concatenated_with_itself", lambda h: torch.cat([h.relu(), h.tanh()], 1), HIDDEN, out=16
    ),
    row_case("write_into_a_view", write_into_view),
    row_case("swap_by_setitem", swap_by_setitem),
    row_case("one_channel_overwritten", overwrite_one),
    row_case("write_through_an_alias", write_through_alias),
    row_case("repeat_times_repeat_interleave", repeats_multiplied, out=16),
    row_case("unequal_concats_added", unequal_concats_added, STUCK),
    row_case("two_reshapes_added", two_reshapes_added),
    Case("one_apart_then_normed", OneApartNormed, exact={"i.weight:0": "1x7", "n.weight:0": "1x7"}),
    row_case("channel_shuffle", lambda h: shuffle(h.relu(), 2), HIDDEN),
    row_case("channel_shuffle_added", residual(shuffle)),
    row_case("maximum_of_pairs", lambda h: h.view(-1, 4, 2).amax(2), out=4),
    row_case("sum_of_pairs", lambda h: h.view(-1, 4, 2).sum(2).relu(), out=4),
    row_case("triangle_of_the_signal", lambda h: h.tril()),
    row_case(
        "diagonal_of_rows_repeated",
        lambda h: h[:, :4, None].expand(-1, 4, 4).diagonal(0, 1, 2).relu(),
        {"i.weight:0": "1x4", "o.weight:1": "1x4"},
        out=4,
    ),
    row_case(
        "diagonal_of_columns_repeated",
        lambda h: h[:, None, :4].expand(-1, 4, 4).diagonal(0, 1, 2).relu(),
        {"i.weight:0": "1x4", "o.weight:1": "1x4"},
        out=4,
    ),
    row_case("diagonal_of_the_signal", lambda h: h[:4, :4].diagonal()[None].repeat(4, 1), out=4),
    row_case("padded_by_a_constant", lambda h: F.pad(h.relu(), (1, 2), value=0.7), HIDDEN, out=11),
    row_case("padded_by_reflection", lambda h: F.pad(h[:, None], (1, 1), "reflect")[:, 0], out=10),
    row_case("padded_circularly", lambda h: F.pad(h[:, None], (1, 1), "circular")[:, 0], out=10),
    Case("interleaved_concat", Interleaved, exact={**HIDDEN, "j.weight:0": "1x8"}),
    Case(
        "interleaved_split",
        InterleavedSplit,
        exact={"i.weight:0": "1x4+1x4", "a.weight:1": "1x4", "b.weight:1": "1x4"},
    ),
    Case("chunked_gate", SwiGlu, exact={"i.weight:0": "1x8", "o.weight:1": "1x8"}),
    Case(
        "space_to_depth", maps(plain(lambda h: to_depth(h.relu())), out=32), (MAPS,), exact=HIDDEN
    ),
    Case(
        "pixel_unshuffle",
        maps(plain(lambda h: F.pixel_unshuffle(h.relu(), 2)), out=32),
        (MAPS,),
        exact=HIDDEN,
    ),
    Case("window_partition", maps(plain(windows)), (MAPS,), exact=HIDDEN),
    Case("channel_shuffle_of_maps", maps(lambda: nn.ChannelShuffle(4)), (MAPS,), exact=HIDDEN),
    Case(
        "pixel_shuffle_added",
        PixelShuffleResidual,
        (MAPS,),
        exact={**HIDDEN, "m.weight:0": "1x8", "m.weight:1": "1x8"},
    ),
    Case("shuffled_unit", ShuffledUnit, (MAPS,)),
    Case("flatten_into_linear", Flattened, (MAPS,), exact=HIDDEN),
    Case("flatten_channels_last", FlattenedChannelsLast, (MAPS,), exact=HIDDEN),
    Case("flatten_and_roll", FlatRolled, (MAPS,)),
    Case(
        "dense_connection",
        DenselyConnected,
        (MAPS,),
        exact={"i.weight:0": "1x8", "a.weight:0": "1x4", "n.weight:0": "1x4+1x8"},
    ),
    Case(
        "zero_padded_shortcut",
        ZeroPaddedShortcut,
        (MAPS,),
        exact={"i.weight:0": "1x4", "m.weight:1": "1x4"},
    ),
    Case("channels_by_index_buffer", Indexed),
    Case("channels_by_index_buffer_added", IndexedResidual),
    Case("channels_repeated_by_index", IndexedTwice, frozen={"i.weight:0": "more than once"}),
    Case("channels_by_index_select", IndexSelected),
    Case("channels_gathered_by_the_input", GatheredByInput, frozen={"i.weight:0": ""}),
    Case("unfolded_patches", Unfolded, (MAPS,), exact={"i.weight:0": "1x8", "o.weight:1": "1x8"}),
    Case("channels_as_batch", ChannelsAsBatch, (MAPS,)),
    Case("channels_as_batch_normed", ChannelsAsBatchNormed, (MAPS,), frozen=STUCK),
    Case("slimmed_layer", SlimmedLayer),
    Case("tokens_reversed", rows(plain(lambda h: h.relu().flip(1))), (TOKENS,), exact=HIDDEN),
    Case(
        "channels_swapped_with_tokens",
        rows(plain(lambda h: (h[:, :5, :5] + h[:, :5, :5].transpose(1, 2)).relu()), out=5),
        (TOKENS,),
    ),
)
