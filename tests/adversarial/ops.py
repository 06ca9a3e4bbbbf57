"""One sample per op that has a rule: beside the neurons' axis they pass, along it they do not.

The tables of the rules name, for each op, the axes that it mixes. Every op appears here twice, once
beside the neurons' axis and once along it, so that a wrong axis in a table is seen.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.adversarial.case import HIDDEN, MAPS, TOKENS, Case, maps, plain, rows

Op = Callable[[Tensor], Tensor]
STUCK = {"i.weight:0": "", "o.weight:1": ""}
OVER = {"i.weight:0": "over it", "o.weight:1": ""}
VOLUMES = (4, 3, 4, 4, 4)
LINES = (4, 3, 6)
SHAPES = {1: LINES, 2: MAPS, 3: VOLUMES}
CONVS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


class Windowed(nn.Module):
    """A convolution, an op that slides over space, and a linear layer on what comes out."""

    def __init__(self, rank: int, op: Op) -> None:
        super().__init__()
        self.op, self.i = op, CONVS[rank](3, 8, 1)
        size = op(torch.zeros(1, 8, *SHAPES[rank][2:])).numel()
        self.o = nn.Linear(size, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.o(self.op(self.i(x)).flatten(1).relu())


class AlongChannels(nn.Module):
    """The same op, with the neurons laid along the first axis that it slides over."""

    def __init__(self, rank: int, op: Op) -> None:
        super().__init__()
        self.rank, self.op, self.i = rank, op, nn.Linear(6, 8)
        self.o = nn.Linear(self.laid(torch.zeros(1, 8)).numel(), 3)

    def laid(self, h: Tensor) -> Tensor:
        wide = h.view(-1, 1, 8, *[1] * (self.rank - 1))
        return self.op(wide.expand(-1, -1, -1, *[4] * (self.rank - 1))).flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        return self.o(self.laid(self.i(x)).relu())


def resize(mode: str, **options: object) -> Op:
    return lambda h: F.interpolate(h, scale_factor=2, mode=mode, **options)


def pad(mode: str, rank: int) -> Op:
    return lambda h: F.pad(h, (1, 1) * rank, mode)


WINDOWS: Mapping[str, tuple[int, Op]] = {
    "avg_pool1d": (1, lambda h: F.avg_pool1d(h, 2)),
    "avg_pool2d": (2, lambda h: F.avg_pool2d(h, 2)),
    "avg_pool3d": (3, lambda h: F.avg_pool3d(h, 2)),
    "max_pool1d": (1, lambda h: F.max_pool1d(h, 2)),
    "max_pool2d": (2, lambda h: F.max_pool2d(h, 2)),
    "max_pool3d": (3, lambda h: F.max_pool3d(h, 2)),
    "adaptive_avg_pool1d": (1, lambda h: F.adaptive_avg_pool1d(h, 2)),
    "adaptive_avg_pool2d": (2, lambda h: F.adaptive_avg_pool2d(h, 2)),
    "adaptive_avg_pool3d": (3, lambda h: F.adaptive_avg_pool3d(h, 2)),
    "adaptive_max_pool2d": (2, lambda h: F.adaptive_max_pool2d(h, 2)),
    "adaptive_max_pool3d": (3, lambda h: F.adaptive_max_pool3d(h, 2)),
    "nearest1d": (1, resize("nearest")),
    "nearest2d": (2, resize("nearest")),
    "nearest3d": (3, resize("nearest")),
    "nearest_exact1d": (1, resize("nearest-exact")),
    "nearest_exact2d": (2, resize("nearest-exact")),
    "nearest_exact3d": (3, resize("nearest-exact")),
    "linear1d": (1, resize("linear")),
    "bilinear2d": (2, resize("bilinear")),
    "bicubic2d": (2, resize("bicubic")),
    "bilinear2d_smooth": (2, resize("bilinear", antialias=True)),
    "bicubic2d_smooth": (2, resize("bicubic", antialias=True)),
    "trilinear3d": (3, resize("trilinear")),
    "reflection_pad1d": (1, pad("reflect", 1)),
    "reflection_pad2d": (2, pad("reflect", 2)),
    "reflection_pad3d": (3, pad("reflect", 3)),
    "replication_pad1d": (1, pad("replicate", 1)),
    "replication_pad2d": (2, pad("replicate", 2)),
    "replication_pad3d": (3, pad("replicate", 3)),
}

# On tokens [B, N, C]: `dim` is 1 beside the neurons and 2 along them.
ALONG: Mapping[str, Callable[[Tensor, int], Tensor]] = {
    "sum": lambda h, dim: h.tanh().sum(dim, keepdim=True),
    "mean": lambda h, dim: h.mean(dim, keepdim=True),
    "amax": lambda h, dim: h.amax(dim, keepdim=True),
    "amin": lambda h, dim: h.amin(dim, keepdim=True),
    "max": lambda h, dim: h.max(dim, keepdim=True).values,
    "min": lambda h, dim: h.min(dim).values.unsqueeze(dim),
    "argmax": lambda h, dim: h.argmax(dim, keepdim=True).double(),
    "argmin": lambda h, dim: h.argmin(dim).unsqueeze(dim).double(),
    "std": lambda h, dim: h.std(dim, keepdim=True),
    "var": lambda h, dim: h.var(dim).unsqueeze(dim),
    "std_mean": lambda h, dim: sum(torch.std_mean(h, dim, keepdim=True)),
    "var_mean": lambda h, dim: torch.var_mean(h, dim)[1].unsqueeze(dim),
    "prod": lambda h, dim: h.prod(dim, keepdim=True),
    "any": lambda h, dim: (h > 0.3).any(dim, keepdim=True).double(),
    "all": lambda h, dim: (h > -0.3).all(dim, keepdim=True).double(),
    "logsumexp": lambda h, dim: h.logsumexp(dim, keepdim=True),
    "norm": lambda h, dim: h.norm(3, dim, keepdim=True),
    "vector_norm": lambda h, dim: torch.linalg.vector_norm(h, 1, dim).unsqueeze(dim),
    "nansum": lambda h, dim: h.nansum(dim, keepdim=True),
    "count_nonzero": lambda h, dim: torch.count_nonzero(h.relu(), dim).unsqueeze(dim).double(),
    "median": lambda h, dim: h.median(dim, keepdim=True).values,
    "mode": lambda h, dim: h.round().mode(dim, keepdim=True).values,
    "kthvalue": lambda h, dim: h.kthvalue(2, dim).values.unsqueeze(dim),
    "softmax": lambda h, dim: h.softmax(dim),
    "log_softmax": lambda h, dim: h.log_softmax(dim),
    "safe_softmax": lambda h, dim: torch.ops.aten._safe_softmax(h, dim),
    "cumsum": lambda h, dim: h.cumsum(dim),
    "cumprod": lambda h, dim: h.cumprod(dim),
    "logcumsumexp": lambda h, dim: h.logcumsumexp(dim),
    "cummax": lambda h, dim: h.cummax(dim).values,
    "cummin": lambda h, dim: h.cummin(dim).values,
    "sort": lambda h, dim: h.sort(dim).values,
    "stable_sort": lambda h, dim: h.sort(dim=dim, stable=True, descending=True).values,
    "topk": lambda h, dim: h.topk(h.shape[dim], dim).values,
}
# The same ops with every axis reduced, or with the axis left to its default, the last one.
WHOLE: Mapping[str, Op] = {
    "sum_of_all": lambda h: h.relu() - h.sum(),
    "mean_of_all": lambda h: h.relu() - h.mean(),
    "max_of_all": lambda h: h.relu() - h.max(),
    "min_of_all": lambda h: h.relu() - h.min(),
    "std_of_all": lambda h: h.relu() - h.std(),
    "std_unbiased": lambda h: h.relu() - h.std(unbiased=True),
    "median_of_all": lambda h: h.relu() - h.median(),
    "norm_of_all": lambda h: h.relu() - h.norm(),
    "any_of_all": lambda h: h.relu() - (h > 1).any().double(),
    "mode_by_default": lambda h: h.relu() - h.round().mode().values.unsqueeze(-1),
    "kthvalue_by_default": lambda h: h.relu() - h.kthvalue(3).values.unsqueeze(-1),
    "sort_by_default": lambda h: h.sort().values,
    "topk_by_default": lambda h: h.topk(8).values,
    "argmax_of_all": lambda h: h * h.argmax(),
}
# Movement on tokens, and shapes alone: neurons pass.
MOVED: Mapping[str, Op] = {
    "permute": lambda h: h.permute(1, 0, 2).relu().permute(1, 0, 2),
    "transpose": lambda h: h.transpose(1, 2).relu().transpose(1, 2),
    "unsqueeze_squeeze": lambda h: h.unsqueeze(1).relu().squeeze(1),
    "squeeze_all": lambda h: h[:1, :1].squeeze().relu()[None, None] + h.relu(),
    "select": lambda h: h.relu() + h[:, 2:3] + h.select(1, 1).unsqueeze(1),
    "unbind": lambda h: torch.stack([t.relu() for t in h.unbind(1)], 1),
    "split": lambda h: torch.cat([t.relu() for t in h.split(2, 1)], 1),
    "split_with_sizes": lambda h: torch.cat([t.relu() for t in h.split([1, 4], 1)], 1),
    "chunk": lambda h: torch.cat([t.relu() for t in h.chunk(2, 1)], 1),
    "tensor_split": lambda h: torch.cat([t.relu() for t in h.tensor_split(3, 1)], 1),
    "unfold": lambda h: h.relu().unfold(1, 2, 1).amax(-1),
    "flip": lambda h: h.flip(1).relu(),
    "roll": lambda h: h.roll(2, 1).relu() + h,
    "roll_flattened": lambda h: h.relu() * torch.arange(5.0)[:, None].roll(1),
    "diagonal": lambda h: h[:, :4, None].expand(-1, 4, 4, 8).diagonal(0, 1, 2).transpose(1, 2),
    "pad": lambda h: F.pad(h.relu(), (0, 0, 1, 2)),
    "pad_by_a_value": lambda h: F.pad(h, (0, 0, 1, 2), value=0.5).relu(),
    "repeat": lambda h: h.repeat(1, 2, 1).relu(),
    "repeat_interleave": lambda h: h.repeat_interleave(2, 1).relu(),
    "triu_of_tokens": lambda h: h.transpose(0, 2).triu().transpose(0, 2),
    "pixel_shuffle_of_tokens": lambda h: (
        F.pixel_shuffle(h[:, :4, None], 2).relu().flatten(1, 2) if h.shape[-1] % 2 else h.relu()
    ),
    "empties": lambda h: h.relu() + torch.empty_like(h[:, :1]).zero_() + h.new_zeros(8),
    "ones": lambda h: h.relu() * torch.ones(1, 5, 1, dtype=h.dtype) + h.new_ones(8),
    "full": lambda h: h.relu() * torch.full((8,), 0.5, dtype=h.dtype) + torch.full_like(h, 2.0),
    "new_full": lambda h: h.relu() * h.new_full((5, 1), 0.5) + torch.scalar_tensor(0.5),
    "filled": lambda h: h.relu() * torch.empty_like(h).fill_(0.5),
    "zeroed": lambda h: h.relu() + torch.empty_like(h).zero_(),
    "mask_of_tokens": lambda h: h.relu() * torch.empty_like(h[:, :, :1]).bernoulli_(0.5),
    "noise_per_token": lambda h: h.relu() * torch.rand(5, 1, dtype=h.dtype),
    "copied_into_empty": lambda h: torch.empty_like(h).copy_(h).relu(),
    "known_tokens": lambda h: h[:, torch.tensor([0, 2, 1])].relu(),
    "known_negative_tokens": lambda h: h[:, -torch.tensor([1, 2, 5])].relu(),
    "selected_tokens": lambda h: h.index_select(1, torch.tensor([0, 2, 1])).relu(),
    "tokens_by_the_input": lambda h: h[:, torch.randperm(5)].relu(),
}
# What takes neurons out of their axis, or tells them apart by a value that no plan moves.
BOUND: Mapping[str, Op] = {
    "arange": lambda h: h + torch.arange(8),
    "linspace": lambda h: h + torch.linspace(0, 1, 8, dtype=h.dtype),
    "logspace": lambda h: h + torch.logspace(0, 1, 8, dtype=h.dtype),
    "eye": lambda h: h @ torch.eye(8, dtype=h.dtype),
    "rand": lambda h: h + torch.rand(8, dtype=h.dtype),
    "randn": lambda h: h + torch.randn(8, dtype=h.dtype),
    "randint": lambda h: h + torch.randint(0, 9, (8,)),
    "randint_like": lambda h: h + torch.randint_like(h, 9),
    "randperm": lambda h: h + torch.randperm(8),
    "uniform": lambda h: h + torch.empty_like(h).uniform_(),
    "normal": lambda h: h + torch.empty_like(h).normal_(),
    "exponential": lambda h: h + torch.empty_like(h).exponential_(),
    "random": lambda h: h + torch.empty_like(h).random_(),
    "triangle_indices": lambda h: h + torch.tril_indices(4, 4)[1, :8],
    "upper_indices": lambda h: h + torch.triu_indices(4, 4)[1, :8],
    "permuted_at_random": lambda h: h + h[:, :, torch.randperm(8)],
    "triangle_of_channels": lambda h: h.triu(),
    "normal_around_it": lambda h: h.relu() + 0 * torch.normal(h, 1.0),
    "cast_to_int_as_index": lambda h: h + h[:, :, (h[0, 0] > 0).long()],
    "looked_up_in_a_table": lambda h: h + F.embedding((h > 0).long(), h[0, :2, :1])[..., 0],
    "gathered_tokens": lambda h: h + h.gather(1, h.argsort(1)),
    "filled_by_a_neuron": lambda h: h + torch.empty_like(h).fill_(h[0, 0, 0]),
    "added_lists": lambda h: torch._foreach_add([h], [h.flip(2)])[0],
    "renorm": lambda h: h.renorm(2, 0, 1.0),
}
ACTIVATIONS: Mapping[str, Op] = {
    "hardswish": F.hardswish,
    "hardswish_": lambda h: F.hardswish(h.clone(), inplace=True),
    "mish_": lambda h: F.mish(h.clone(), inplace=True),
    "threshold_": lambda h: F.threshold(h.clone(), 0.1, 0.2, inplace=True),
    "elu_": lambda h: F.elu(h.clone(), inplace=True),
    "celu_": lambda h: F.celu(h.clone(), inplace=True),
    "selu_": lambda h: F.selu(h.clone(), inplace=True),
    "hardsigmoid_": lambda h: F.hardsigmoid(h.clone(), inplace=True),
    "hardtanh_": lambda h: F.hardtanh(h.clone(), inplace=True),
    "leaky_relu": F.leaky_relu,
    "leaky_relu_": lambda h: F.leaky_relu(h.clone(), 0.1, inplace=True),
    "gelu_": lambda h: torch.ops.aten.gelu_(h.clone()),
    "log_sigmoid": F.logsigmoid,
    "masked_fill": lambda h: h.masked_fill(h < 0, 0.1),
    "masked_fill_": lambda h: h.clone().masked_fill_(h < 0, 0.1),
    "where": lambda h: torch.where(h > 0, h, 0.5),
    "detached": lambda h: h.detach().relu() + h,
    "cast": lambda h: h.float().double(),
}
# Of matrices: contractions that layers do not reach, on rows [B, C].
PRODUCTS: Mapping[str, tuple[Op, object]] = {
    "outer_sum": (lambda h: h[:, :, None].mul(h[:, None]).sum(2), STUCK),
    "dot_of_rows": (lambda h: h.relu() + torch.dot(h[0], h[1]), STUCK),
    "dot_of_columns": (lambda h: h.relu() + torch.dot(h[:, 0], h[:, 1]), {"i.weight:0": "1x6"}),
    "matrix_vector": (lambda h: h.relu() + h.t().mv(torch.ones(4, dtype=h.dtype)), HIDDEN),
    "cosine_similarity": (lambda h: h * F.cosine_similarity(h, h.flip(0))[:, None], STUCK),
}


class BatchedBias(nn.Module):
    """`baddbmm`: a bias on the product of every head."""

    def __init__(self) -> None:
        super().__init__()
        self.i, self.o = nn.Linear(6, 8), nn.Linear(8, 3)
        self.w, self.b = nn.Parameter(torch.randn(4, 8, 8)), nn.Parameter(torch.randn(4, 1, 8))

    def forward(self, x: Tensor) -> Tensor:
        h = self.i(x).relu()
        return self.o(torch.baddbmm(self.b, h, self.w).relu() + h)


def window_cases() -> list[Case]:
    cases = []
    for name, (rank, op) in WINDOWS.items():
        cases.append(
            Case(
                f"{name}_over_space",
                lambda rank=rank, op=op: Windowed(rank, op),
                (SHAPES[rank],),
                exact=HIDDEN,
            )
        )
        cases.append(
            Case(
                f"{name}_over_channels",
                lambda rank=rank, op=op: AlongChannels(rank, op),
                frozen={"i.weight:0": "slides along it", "o.weight:1": ""},
            )
        )
    return cases


def token_case(name: str, op: Op, verdict: Mapping[str, str]) -> Case:
    stuck = verdict is not HIDDEN
    return Case(
        name,
        rows(plain(op)),
        (TOKENS,),
        exact={} if stuck else HIDDEN,
        frozen=verdict if stuck else {},
    )


def along_cases() -> list[Case]:
    cases = []
    for name, op in ALONG.items():
        cases.append(token_case(f"{name}_beside", lambda h, op=op: h.relu() + op(h, 1), HIDDEN))
        cases.append(
            token_case(
                f"{name}_along",
                lambda h, op=op: h.relu() + op(h, 2),
                OVER,
            )
        )
    return cases


CASES = (
    *window_cases(),
    *along_cases(),
    *(token_case(name, op, OVER) for name, op in WHOLE.items()),
    *(token_case(f"{name}_by_position", op, HIDDEN) for name, op in ACTIVATIONS.items()),
    *(token_case(f"{name}_passes", op, HIDDEN) for name, op in MOVED.items()),
    *(token_case(f"{name}_binds", op, STUCK) for name, op in BOUND.items()),
    *(
        Case(
            name,
            rows(plain(op)),
            exact=verdict if verdict is not STUCK else {},  # type: ignore[arg-type]
            frozen=verdict if verdict is STUCK else {},  # type: ignore[arg-type]
        )
        for name, (op, verdict) in PRODUCTS.items()
    ),
    Case("batched_bias", BatchedBias, (TOKENS,), exact={**HIDDEN, "b:2": "1x8", "w:1": "1x8"}),
    Case("sampled", rows(plain(lambda h: h * torch.bernoulli(h.sigmoid()))), frozen=STUCK),
    Case("mask_in_every_mode", rows(plain(lambda h: h * torch.empty_like(h).bernoulli_(0.5))),
         frozen=STUCK),
    Case("mask_by_a_table", rows(plain(lambda h: h * torch.bernoulli(torch.full_like(h, 0.5)))),
         frozen=STUCK),
    Case("dropout_in_every_mode", rows(plain(lambda h: F.dropout(h, 0.5, training=True))),
         frozen=STUCK),
    Case("dropout_of_maps_in_every_mode", maps(plain(lambda h: F.dropout2d(h, 0.5, training=True))),
         (MAPS,), frozen=STUCK),
    Case("fold", maps(plain(lambda h: F.fold(F.unfold(h, 2, stride=2), (6, 6), 2, stride=2))),
         (MAPS,), frozen=STUCK),
    Case("unfolded_with_padding", maps(plain(lambda h: F.unfold(h, 3, padding=1)[:, :8, :, None])),
         (MAPS,), frozen=STUCK),
    Case("glu_of_two", rows(plain(lambda h: F.glu(h[:, :2], 1).expand(-1, 8))),
         frozen={"o.weight:1": ""}),
)  # fmt: skip
