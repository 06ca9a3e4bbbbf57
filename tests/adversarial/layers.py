"""What layers do to channels: statistics over them, convolutions, recurrence, scans."""

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
    parameter,
    plain,
    rows,
)

STUCK = {"i.weight:0": "", "o.weight:1": ""}
AVERAGED = {"i.weight:0": "averages|statistics|norm|over it", "o.weight:1": ""}


class ResponseNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = parameter(8), parameter(8)

    def forward(self, h: Tensor) -> Tensor:
        size = h.norm(dim=1, keepdim=True)
        return h + h * (size / size.mean(-1, keepdim=True)) * self.weight + self.bias


class SqueezeExcite(Maps):
    def add(self) -> None:
        self.a, self.b = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.i(x).relu()
        gate = self.b(self.a(h.mean((2, 3), keepdim=True)).relu()).sigmoid()
        return self.o(h * gate)


class SpatialGate(Maps):
    def add(self) -> None:
        self.g = nn.Conv2d(8, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.i(x).relu()
        return self.o(h * self.g(h).sigmoid())


class PooledChannelGate(Maps):
    """A spatial gate from the mean and the maximum over channels."""

    def add(self) -> None:
        self.g = nn.Conv2d(2, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.i(x).relu()
        pooled = torch.cat([h.mean(1, keepdim=True), h.amax(1, keepdim=True)], 1)
        return self.o(h * self.g(pooled).sigmoid())


class ConvolutionAcrossChannels(Maps):
    def add(self) -> None:
        self.g = nn.Conv1d(1, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.i(x).relu()
        gate = self.g(h.mean((2, 3))[:, None]).sigmoid()[:, 0]
        return self.o(h * gate[:, :, None, None])


class VectorAlongSpace(nn.Module):
    """Channels of a vector are added along an axis of pixels that happens to be as long."""

    def __init__(self) -> None:
        super().__init__()
        self.i, self.v, self.o = nn.Conv2d(3, 6, 1), nn.Linear(6, 6), nn.Conv2d(6, 3, 3)

    def forward(self, x: Tensor) -> Tensor:
        v = self.v(x[:, 0, 0]).relu()
        return self.o((self.i(x) + v[:, None, None, :]).relu())


class VectorOnMaps(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.i, self.v, self.o = nn.Conv2d(3, 8, 1), nn.Linear(6, 8), nn.Conv2d(8, 3, 3)

    def forward(self, x: Tensor) -> Tensor:
        v = self.v(x[:, 0, 0]).relu()
        return self.o((self.i(x) + v[:, :, None, None]).relu())


class GateOnTokens(Rows):
    """A vector gates tokens; there are as many tokens as it has channels."""

    def add(self) -> None:
        self.g = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.g(x[:, 0]).sigmoid()
        return self.o((self.i(x) * gate[:, :, None]).relu()).mean(1)


class Grouped(Maps):
    groups, width = 2, 8

    def add(self) -> None:
        self.m = nn.Conv2d(8, self.width, 3, padding=1, groups=self.groups)
        self.o = nn.Conv2d(self.width, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.o(self.m(self.i(x).relu()).relu())


class Depthwise(Grouped):
    groups = 8


class DepthwiseTwofold(Grouped):
    groups, width = 8, 16


class GroupedShuffled(Grouped):
    def forward(self, x: Tensor) -> Tensor:
        h = self.m(self.i(x).relu())
        b, c, height, width = h.shape
        h = h.view(b, 2, c // 2, height, width).transpose(1, 2).reshape(b, c, height, width)
        return self.o(F.conv2d(h, self.m.weight, self.m.bias, padding=1, groups=2))


class GroupedTransposed(Maps):
    def add(self) -> None:
        self.m = nn.ConvTranspose2d(8, 12, 2, 2, groups=2)
        self.o = nn.Conv2d(12, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.o(self.m(self.i(x).relu()).relu())


class OneKernelForTwoGroupings(Maps):
    def add(self) -> None:
        self.j, self.w = nn.Conv2d(3, 4, 1), parameter(8, 4, 3, 3)

    def forward(self, x: Tensor) -> Tensor:
        grouped = F.conv2d(self.i(x).relu(), self.w, padding=1, groups=2)
        return self.o((grouped + F.conv2d(self.j(x).relu(), self.w, padding=1)).relu())


class BlurPool(Maps):
    def add(self) -> None:
        self.register_buffer("kernel", torch.ones(1, 1, 3, 3) / 9)

    def forward(self, x: Tensor) -> Tensor:
        h = self.i(x).relu()
        return self.o(F.conv2d(h, self.kernel.expand(8, 1, 3, 3), groups=8))


class OneDimensional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.i, self.m = nn.Conv1d(6, 8, 3), nn.ConvTranspose1d(8, 8, 3)
        self.n, self.o = nn.BatchNorm1d(8), nn.Conv1d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.o(self.n(self.m(self.i(x.transpose(1, 2)).relu())).relu())


class ThreeDimensional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.i, self.n = nn.Conv3d(1, 8, 3, padding=1), nn.BatchNorm3d(8)
        self.m, self.o = nn.ConvTranspose3d(8, 8, 2, 2), nn.Conv3d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.o(self.m(F.max_pool3d(self.n(self.i(x[:, None])).relu(), 3)).relu())


class Recurrent(Rows):
    def add(self) -> None:
        self.m = nn.LSTM(8, 8, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.o(self.m(self.i(x))[0])


class StateSpace(Rows):
    """A selective scan by hand; the state decays by exp(-exp(A_log))."""

    def add(self) -> None:
        self.a_log, self.dt, self.bc = parameter(8, 4), nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        u = self.i(x)
        step, (b, c) = F.softplus(self.dt(u)), self.bc(u).chunk(2, -1)
        state, outputs = torch.zeros_like(u[:, 0, :, None] * b[:, 0, None, :]), []
        for t in range(5):
            decay = torch.exp(-step[:, t, :, None] * self.a_log.exp())
            state = state * decay + (step * u)[:, t, :, None] * b[:, t, None, :]
            outputs.append(self.read(state, c[:, t]))
        return self.o(torch.stack(outputs, 1))

    def read(self, state: Tensor, c: Tensor) -> Tensor:
        return (state * c[:, None, :]).sum(-1)


class StateSpaceByEinsum(StateSpace):
    def read(self, state: Tensor, c: Tensor) -> Tensor:
        return torch.einsum("bdn,bn->bd", state, c)


class EmbeddingBag(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.e, self.o = nn.EmbeddingBag(10, 8, mode="mean"), nn.Linear(8, 3)

    def forward(self, index: Tensor) -> Tensor:
        return self.o(self.e(index).relu())


class EmbeddingOfPositions(Rows):
    def add(self) -> None:
        self.e, self.token = nn.Embedding(6, 8), parameter(1, 1, 8)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.cat([self.token.expand(x.shape[0], -1, -1), self.i(x)], 1)
        return self.o((h + self.e(torch.arange(6))).relu())[:, 0]


class EmbeddingOfChannels(Rows):
    """A table with one row per channel: its row axis lies along the channels."""

    def add(self) -> None:
        self.e = nn.Embedding(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.o((self.i(x) + self.e(torch.arange(8))[:, 0]).relu())


class MultiScale(Maps):
    def add(self) -> None:
        self.p, self.n = nn.Conv2d(8, 8, 3, stride=2, padding=1), nn.GroupNorm(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        h = self.n(self.i(x)).relu()
        up = F.interpolate(self.p(h), size=h.shape[-2:], mode="bilinear")
        return self.o(F.adaptive_avg_pool2d(F.max_pool2d(h + up, 2), 2))


class OffsetSampling(Maps):
    def add(self) -> None:
        self.g = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.i(x).relu()
        grid = self.g(h).tanh().permute(0, 2, 3, 1)
        return self.o(F.grid_sample(h, grid, align_corners=False))


class SpatialFourier(Maps):
    def add(self) -> None:
        self.w = parameter(8, 6, 4, 2)

    def forward(self, x: Tensor) -> Tensor:
        spectrum = torch.fft.rfft2(self.i(x)) * torch.view_as_complex(self.w)
        return self.o(torch.fft.irfft2(spectrum, s=(6, 6)))


class ExpertMatrices(nn.Module):
    """One matrix per expert, applied by one batched product."""

    def __init__(self) -> None:
        super().__init__()
        self.i, self.w, self.o = nn.Linear(6, 8), parameter(2, 4, 5), nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.i(x).relu().view(-1, 2, 4)
        return self.o(torch.einsum("bgi,gio->bgo", h, self.w).relu().flatten(1))


class DenseExperts(Rows):
    def add(self) -> None:
        self.gate = nn.Linear(6, 4)
        self.experts = nn.ModuleList(nn.Linear(6, 8) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        gate = self.gate(x).softmax(-1)
        mixed = sum(gate[:, e, None] * expert(x) for e, expert in enumerate(self.experts))
        return self.o(self.i(x) + mixed)


def norm_case(name: str, module: object, verdict: object, on_maps: bool = True) -> Case:
    build = maps if on_maps else rows
    stuck = verdict is not HIDDEN
    return Case(
        name,
        build(module),  # type: ignore[arg-type]
        (MAPS if on_maps else TOKENS,),
        exact={} if stuck else HIDDEN,
        frozen=verdict if stuck else {},  # type: ignore[arg-type]
    )


def map_case(name: str, middle: Middle, verdict: object) -> Case:
    return norm_case(name, plain(middle), verdict)


def row_case(name: str, middle: Middle, verdict: object) -> Case:
    return norm_case(name, plain(middle), verdict, on_maps=False)


def local_mean(h: Tensor) -> Tensor:
    return F.avg_pool1d(h, 3, 1, 1)


CASES = (
    norm_case("batch_norm", lambda: nn.BatchNorm2d(8), HIDDEN),
    norm_case("instance_norm", lambda: nn.InstanceNorm2d(8, affine=True), HIDDEN),
    norm_case(
        "instance_norm_with_statistics",
        lambda: nn.InstanceNorm2d(8, affine=True, track_running_stats=True),
        HIDDEN,
    ),
    norm_case("group_norm_of_single_channels", lambda: nn.GroupNorm(8, 8), HIDDEN),
    norm_case("group_norm", lambda: nn.GroupNorm(2, 8), AVERAGED),
    norm_case("layer_norm_over_pixels", lambda: nn.LayerNorm((6, 6)), HIDDEN),
    norm_case("layer_norm_over_maps", lambda: nn.LayerNorm((8, 6, 6)), AVERAGED),
    norm_case("local_response_norm", lambda: nn.LocalResponseNorm(3), STUCK),
    norm_case("layer_norm", lambda: nn.LayerNorm(8), AVERAGED, on_maps=False),
    norm_case("rms_norm", lambda: nn.RMSNorm(8), AVERAGED, on_maps=False),
    norm_case("global_response_norm", ResponseNorm, AVERAGED, on_maps=False),
    norm_case("batch_norm_over_tokens", lambda: nn.BatchNorm1d(5), STUCK, on_maps=False),
    norm_case("prelu_per_channel", lambda: nn.PReLU(8), HIDDEN),
    norm_case("prelu_shared", lambda: nn.PReLU(), HIDDEN),
    row_case("unit_length", lambda h: F.normalize(h, dim=-1), STUCK),
    row_case("softmax_over_channels", lambda h: h.softmax(-1), STUCK),
    row_case("log_softmax_over_channels", lambda h: h.log_softmax(-1), STUCK),
    row_case("softmax_over_tokens", lambda h: h.softmax(1), HIDDEN),
    row_case("mean_over_channels", lambda h: h - h.mean(-1, keepdim=True), STUCK),
    row_case("share_of_the_sum", lambda h: h.exp() / h.exp().sum(-1, keepdim=True), STUCK),
    row_case("maximum_over_channels", lambda h: h - h.amax(-1, keepdim=True), STUCK),
    row_case("distance_to_a_channel_mean", lambda h: h * h.std(-1, keepdim=True), STUCK),
    row_case("cumsum_over_channels", lambda h: h.cumsum(-1), STUCK),
    row_case("cumsum_over_tokens", lambda h: h.relu().cumsum(1), HIDDEN),
    row_case("local_mean_over_channels", local_mean, STUCK),
    row_case("fft_over_channels", lambda h: torch.fft.fft(h, dim=-1).real, STUCK),
    row_case(
        "resampled_over_channels",
        lambda h: F.interpolate(h, size=16, mode="linear")[..., ::2],
        STUCK,
    ),
    row_case("ramp_over_channels", lambda h: h * torch.arange(8), STUCK),
    row_case("cosine_with_tokens", lambda h: h * (h @ h[:, :1].transpose(1, 2)), STUCK),
    row_case("mean_over_tokens", lambda h: h.relu() - h.mean(1, keepdim=True), HIDDEN),
    map_case("maximum_over_pixels", lambda h: h - h.amax((2, 3), keepdim=True), HIDDEN),
    map_case("softmax_over_maps", lambda h: F.softmax(h, 1), STUCK),
    map_case(
        "pooled_over_channels",
        lambda h: F.avg_pool3d(h[:, None], (3, 1, 1), 1, (1, 0, 0))[:, 0],
        STUCK,
    ),
    Case(
        "squeeze_and_excitation",
        SqueezeExcite,
        (MAPS,),
        exact={**HIDDEN, "a.weight:0": "1x4", "b.weight:0": "1x8"},
    ),
    Case("spatial_gate", SpatialGate, (MAPS,), exact=HIDDEN),
    Case("spatial_gate_from_pooled_channels", PooledChannelGate, (MAPS,), frozen=STUCK),
    Case("convolution_across_channels", ConvolutionAcrossChannels, (MAPS,), frozen=STUCK),
    Case("channel_added_to_a_spatial_map", VectorAlongSpace, (MAPS,), frozen={"v.weight:0": ""}),
    Case("vector_added_to_maps", VectorOnMaps, (MAPS,), exact={**HIDDEN, "v.weight:0": "1x8"}),
    Case(
        "gate_broadcast_over_tokens",
        GateOnTokens,
        (TOKENS,),
        exact=HIDDEN,
        frozen={"g.weight:0": ""},
    ),
    Case(
        "grouped_convolution",
        Grouped,
        (MAPS,),
        exact={"i.weight:0": "2x4", "m.weight:1": "2x4", "m.weight:0": "2x4"},
    ),
    Case("depthwise_convolution", Depthwise, (MAPS,), exact={**HIDDEN, "m.weight:0": "1x8"}),
    Case("depthwise_with_multiplier", DepthwiseTwofold, (MAPS,), exact=HIDDEN),
    Case("grouped_twice_with_shuffle", GroupedShuffled, (MAPS,)),
    Case("grouped_transposed_convolution", GroupedTransposed, (MAPS,)),
    Case("kernel_in_two_groupings", OneKernelForTwoGroupings, (MAPS,)),
    Case("one_kernel_for_all_channels", BlurPool, (MAPS,)),
    Case("one_dimensional", OneDimensional, (TOKENS,), exact={"m.weight:0": "1x8", **HIDDEN}),
    Case("three_dimensional", ThreeDimensional, (MAPS,), exact={"m.weight:1": "1x8", **HIDDEN}),
    Case(
        "recurrent_layer",
        Recurrent,
        (TOKENS,),
        exact={"i.weight:0": "1x8", "m.weight_ih_l0:1": "1x8"},
        frozen={"m.weight_hh_l0:0": "", "m.weight_hh_l0:1": "", "o.weight:1": ""},
    ),
    Case(
        "state_space_scan",
        StateSpace,
        (TOKENS,),
        exact={"i.weight:0": "1x8", "a_log:0": "1x8"},
        frozen={"a_log:1": "", "bc.weight:0": ""},
    ),
    Case(
        "state_space_scan_by_einsum",
        StateSpaceByEinsum,
        (TOKENS,),
        frozen={"a_log:1": "", "bc.weight:0": ""},
    ),
    Case("embedding_bag", EmbeddingBag, indices=(4, 5), frozen={"e.weight:0": ""}),
    Case(
        "embedding_of_positions",
        EmbeddingOfPositions,
        (TOKENS,),
        exact={**HIDDEN, "e.weight:1": "1x8", "token:2": "1x8"},
        frozen={"e.weight:0": ""},
    ),
    Case("embedding_of_channels", EmbeddingOfChannels),
    Case("up_and_down_sampling", MultiScale, (MAPS,), exact=HIDDEN),
    Case("sampled_at_offsets", OffsetSampling, (MAPS,), frozen={"g.weight:0": ""}),
    Case("fft_over_pixels", SpatialFourier, (MAPS,)),
    Case("matrix_per_expert", ExpertMatrices),
    Case("dense_mixture_of_experts", DenseExperts, exact=HIDDEN, frozen={"gate.weight:0": ""}),
)
