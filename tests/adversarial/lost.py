"""Signals that a rule could lose on the way: in padding, slices, writes, indices and casts.

In most of them the neurons have a proper consumer as well (`o`), so that nothing else freezes them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from tests.adversarial.case import HIDDEN, MAPS, ROWS, TOKENS, Case, parameter

STUCK = {"i.weight:0": ""}
Forward = Callable[[Any, Tensor, Tensor], Any]


class Free(nn.Module):
    """`i` and `o` with eight channels between them, further parts, and any forward."""

    def __init__(self, forward: Forward, maps: bool, parts: Mapping[str, Any]) -> None:
        super().__init__()
        self.i = nn.Conv2d(3, 8, 1) if maps else nn.Linear(6, 8)
        self.o = nn.Conv2d(8, 3, 1) if maps else nn.Linear(8, 3)
        self.run = forward
        for name, make in parts.items():
            part = make()
            if isinstance(part, Tensor) and not isinstance(part, nn.Parameter):
                self.register_buffer(name, part)
            else:
                setattr(self, name, part)

    def forward(self, x: Tensor) -> Any:
        return self.run(self, x, self.i(x))


def free(
    name: str,
    forward: Forward,
    verdict: Mapping[str, str],
    shape: tuple[int, ...] = ROWS,
    **parts: Any,
) -> Case:
    exact = any(verdict.values())
    return Case(
        name,
        lambda: Free(forward, shape is MAPS, parts),
        (shape,),
        exact=verdict if exact else {},
        frozen={} if exact else verdict,
    )


def beside(name: str, forward: Forward, **options: Any) -> Case:
    """`forward` added to a proper use of the neurons; it is one that must freeze them."""
    return free(
        name, lambda s, x, h: s.o(h.tanh()) + forward(s, x, h), options.pop("v", STUCK), **options
    )


def weights(*shape: int) -> Callable[[], nn.Parameter]:
    return lambda: parameter(*shape)


def buffer(*shape: int) -> Callable[[], Tensor]:
    return lambda: torch.randn(*shape)


@dataclass
class Scored:
    scores: Tensor
    features: Any


def keep(h: Tensor, dim: int = 1) -> Tensor:
    return h.mean(dim, keepdim=True)


def into_view(s: Any, x: Tensor, h: Tensor) -> Tensor:
    buf = torch.zeros_like(h)
    torch.mul(h, 2, out=buf[:, :])
    return keep(buf)


def into_base(s: Any, x: Tensor, h: Tensor) -> Tensor:
    buf = torch.zeros_like(h)
    view = buf[:, :]
    torch.mul(h, 2, out=buf)
    return keep(view)


def into_list(s: Any, x: Tensor, h: Tensor) -> Tensor:
    buf = torch.zeros_like(h)
    torch._foreach_add_([buf], [h])
    return keep(buf)


def half_scaled(s: Any, x: Tensor, h: Tensor) -> Tensor:
    mask = torch.ones(8, dtype=h.dtype)
    torch._foreach_mul_([mask[:4]], 3.0)
    return s.o(h.tanh() * mask)


def statistics_used(s: Any, x: Tensor, h: Tensor) -> Tensor:
    mean, var = torch.zeros(8, dtype=h.dtype), torch.ones(8, dtype=h.dtype)
    F.batch_norm(h, mean, var, training=True)
    return s.o(h) + mean.mean()


def redrawn(s: Any, x: Tensor, h: Tensor) -> Tensor:
    if s.training:
        s.n.normal_()
    else:
        h = h * s.n
    return s.o(h.tanh())


def written_by_out(s: Any, x: Tensor, h: Tensor) -> Tensor:
    y = s.o(h.tanh() * s.n)
    if s.training:
        torch.mean(x[:, :1] * torch.arange(8.0), 0, out=s.n)
    return y


def reset_consumer(s: Any, x: Tensor, h: Tensor) -> Tensor:
    y = (h * s.n).sum(1, keepdim=True) + s.o(h.tanh())
    if s.training:
        s.n.fill_(1.0)
    return y


def target(s: Any, x: Tensor, h: Tensor) -> Tensor:
    y = s.o((h - s.n).tanh())
    if s.training:
        s.n.copy_(h.mean(0))
    return y


def drawn_behind_its_back(s: Any, x: Tensor, h: Tensor) -> Tensor:
    if s.training:
        s.i.bias.data.uniform_(0, 1)
    return s.o(h)


def index_changes(s: Any, x: Tensor, h: Tensor) -> Tensor:
    y = s.o(h.tanh()[:, s.k])
    if s.training:
        s.k.copy_(s.k.roll(1))
    return y


def stay(s: Any, x: Tensor, h: Tensor) -> Tensor:
    return s.o(h.tanh()[:, s.k])


def halves(s: Any, t: Tensor) -> Tensor:
    return 3 * t[:, :4].sum(1, keepdim=True) + t[:, 4:].sum(1, keepdim=True)


def two_ways(h: Tensor) -> Tensor:
    pairs = h.view(-1, 4, 2)
    return (pairs.repeat(1, 1, 2) * pairs.repeat_interleave(2, 2).tanh()).flatten(1)


def by_dot(s: Any, x: Tensor, h: Tensor) -> Tensor:
    a, b = s.p.tanh() * s.w, s.p.tanh()
    return s.o(h) + 3 * (a[:4] @ b[:4]) + a[4:] @ b[4:]


def some_rows() -> Tensor:
    return torch.tensor([7, 1, 4, 2, 0, 3])


def grouped(weight: Callable[[Any], Tensor]) -> Forward:
    return lambda s, x, h: F.conv2d(h, weight(s), groups=2)


def transposed(weight: Callable[[Any], Tensor]) -> Forward:
    return lambda s, x, h: s.o(F.conv_transpose2d(h, weight(s), groups=2).tanh())


PADDED = (
    free(
        "padded_then_depthwise",
        lambda s, x, h: s.o(s.d(F.pad(h, (1, 1, 1, 1))).relu()),
        {**HIDDEN, "d.weight:0": "1x8"},
        MAPS,
        d=lambda: nn.Conv2d(8, 8, 3, groups=8),
    ),
    free(
        "padded_then_normed",
        lambda s, x, h: s.o(s.n(F.pad(h, (1, 1, 1, 1))).relu()),
        {**HIDDEN, "n.weight:0": "1x8"},
        MAPS,
        n=lambda: nn.BatchNorm2d(8),
    ),
    free(
        "padded_pooled_normed",
        lambda s, x, h: s.o(s.n(F.avg_pool2d(F.pad(h, (1, 1, 1, 1)), 2)).relu()),
        {**HIDDEN, "n.weight:0": "1x8"},
        MAPS,
        n=lambda: nn.BatchNorm2d(8),
    ),
    free(
        "padded_to_one_side_then_convolved",
        lambda s, x, h: s.o(s.m(F.pad(h, (1, 0, 1, 0))).relu()),
        {**HIDDEN, "m.weight:1": "1x8", "m.weight:0": "1x8"},
        MAPS,
        m=lambda: nn.Conv2d(8, 8, 2),
    ),
    free(
        "cropped_by_negative_padding",
        lambda s, x, h: s.o(F.pad(h, (-1, -1, 2, -1)).relu()),
        HIDDEN,
        MAPS,
    ),
    free(
        "zero_token_then_normed",
        lambda s, x, h: s.o(
            s.n(torch.cat([torch.zeros_like(h[:, :1]), h], 1).transpose(1, 2)).transpose(1, 2)
        ),
        {**HIDDEN, "n.weight:0": "1x8"},
        TOKENS,
        n=lambda: nn.BatchNorm1d(8),
    ),
    free(
        "maximum_with_zeros",
        lambda s, x, h: (
            s.o(h) * torch.stack([torch.zeros_like(h), h]).amax(0).amax(1, keepdim=True)
        ),
        STUCK,
    ),
    beside(
        "mean_with_the_input",
        lambda s, x, h: keep(torch.stack([x[..., :1].expand(-1, 8), h], 1).mean(1)),
    ),
    free(
        "border_of_one_axis_beside_another",
        lambda s, x, h: s.o(h * F.pad(torch.ones(4, 4), (0, 4, 0, 1))[0][:, None, None]),
        {"i.weight:0": "2x4", "o.weight:1": "2x4"},
        MAPS,
    ),
)
SUMS = (
    free("halves_summed_apart", lambda s, x, h: halves(s, h * s.w), {}, w=weights(8)),
    free("half_summed", lambda s, x, h: (h * s.w)[:, :4].sum(1, keepdim=True), {}, w=weights(8)),
    free(
        "pairs_summed",
        lambda s, x, h: torch.cat([t.sum(1, True) for t in (h * s.w).split(2, 1)], 1) @ s.v,
        {},
        w=weights(8),
        v=weights(4, 3),
    ),
    free(
        "weighted_halves_summed",
        lambda s, x, h: torch.cat([(h * s.w)[:, :4], 3 * (h * s.w)[:, 4:]], 1).sum(1, True),
        {},
        w=weights(8),
    ),
    free("consumer_partly_summed", lambda s, x, h: s.o(h) + s.o.weight[:, :4].sum(), {}),
    free(
        "unused_vector_summed",
        lambda s, x, h: s.o(h.tanh()) + 3 * s.w[:4].sum() + s.w[4:].sum(),
        HIDDEN,
        w=weights(8),
    ),
    free(
        "trace_of_a_matrix",
        lambda s, x, h: s.o(h) + torch.einsum("ii->", s.w),
        {"w:0": "", "w:1": ""},
        w=weights(8, 8),
    ),
    free(
        "flat_part_summed", lambda s, x, h: s.o(h) + s.w.flatten()[:12].sum(), {}, w=weights(3, 8)
    ),
    free("halves_of_a_dot_product", by_dot, {}, p=weights(8), w=weights(8)),
    free(
        "sum_to_whole_numbers",
        lambda s, x, h: (h * s.w * 5).sum(1, keepdim=True, dtype=torch.long).double(),
        STUCK,
        w=weights(8),
    ),
    free(
        "sum_of_whole_numbers",
        lambda s, x, h: (h * s.w * 10).long().sum(1, keepdim=True).double(),
        STUCK,
        w=weights(8),
    ),
    free("summed_by_a_weight", lambda s, x, h: (h * s.w).sum(1, keepdim=True),
         {"i.weight:0": "1x8", "w:0": "1x8"}, w=weights(8)),
)  # fmt: skip
GROUPED = tuple(
    free(f"grouped_by_{name}", use(weight), {}, MAPS, w=weights(*shape), k=some_rows)
    for name, use, shape, weight in (
        ("flipped_rows", grouped, (8, 4, 1, 1), lambda s: s.w.flip(0)),
        ("rolled_rows", grouped, (8, 4, 1, 1), lambda s: s.w.roll(2, 0)),
        ("some_rows", grouped, (8, 4, 1, 1), lambda s: s.w[:4]),
        ("chosen_rows", grouped, (8, 4, 1, 1), lambda s: s.w[s.k]),
        ("swapped_halves", grouped, (8, 4, 1, 1), lambda s: torch.cat([s.w[4:], s.w[:4]])),
        ("rows_twice", grouped, (4, 4, 1, 1), lambda s: s.w.repeat(2, 1, 1, 1)),
        ("one_row", grouped, (1, 4, 1, 1), lambda s: s.w.expand(4, 4, 1, 1)),
        ("transposed_weight", grouped, (4, 8, 1, 1), lambda s: s.w.transpose(0, 1)),
        ("shuffled_rows", grouped, (8, 4, 1, 1),
         lambda s: s.w.view(2, 4, 4).transpose(0, 1).reshape(8, 4, 1, 1)),
        ("flipped_rows_transposed", transposed, (8, 4, 1, 1), lambda s: s.w.flip(0)),
    )
)  # fmt: skip
IGNORED = (
    beside("index_of_an_embedding", lambda s, x, h: F.embedding((h > 0).long(), s.t).mean(1),
           t=weights(2, 3)),
    beside("index_of_a_table", lambda s, x, h: s.t[(h > 0).long()].mean(1), t=weights(2, 3)),
    beside("index_selected", lambda s, x, h: s.t.index_select(0, (h > 0).long().flatten())
           .view(4, 8, 3).mean(1), t=buffer(2, 3)),
    beside("weight_in_a_bag", lambda s, x, h: F.embedding_bag(
        torch.zeros(4, 8).long(), s.t, per_sample_weights=h, mode="sum"), t=weights(2, 3)),
    beside("index_in_a_bag", lambda s, x, h: F.embedding_bag((h > 0).long(), s.t, mode="sum"),
           t=weights(2, 3)),
    beside("noise_around_it", lambda s, x, h: keep(torch.normal(h, 1e-300))),
    beside("probability", lambda s, x, h: keep(torch.empty_like(h).bernoulli_((h > 0).double()))),
    beside("order_statistic", lambda s, x, h: h.flatten(2).kthvalue(3)[0].mean(1)[:, None, None,
           None], shape=MAPS),
    beside("statistics_of_a_norm", lambda s, x, h: torch.native_batch_norm(
        h, None, None, None, None, True, 0.1, 1e-5)[1].mean()),
)  # fmt: skip
WRITTEN = (
    beside("out_into_a_view", into_view),
    beside("out_into_the_base", into_base),
    beside("added_to_a_list", into_list),
    free("half_scaled_in_a_list", half_scaled, STUCK),
    free("statistics_kept_outside", statistics_used, STUCK, MAPS),
    free("buffer_redrawn_in_training", redrawn, STUCK, n=buffer(8)),
    free("buffer_written_in_training", written_by_out, STUCK, n=buffer(8)),
    free("consumer_reset_in_training", reset_consumer, STUCK, n=buffer(8)),
    free("bias_redrawn_in_training", drawn_behind_its_back, STUCK),
    free("buffer_copied_in_training", target, {**HIDDEN, "n:0": "1x8"}, n=buffer(8)),
    free("index_rolled_in_training", index_changes, STUCK, k=lambda: torch.arange(8)),
    free("index_that_stays", stay, HIDDEN, k=lambda: torch.arange(8)),
    free("index_negated", lambda s, x, h: s.o(h.tanh()) + s.p(h.tanh()[:, -s.k]), {},
         k=lambda: torch.arange(8), p=lambda: nn.Linear(8, 3)),
    free("index_through_a_mask", lambda s, x, h: s.p(h[:, s.k.bool().long()]), {},
         k=lambda: torch.tensor([0, 3]), p=lambda: nn.Linear(2, 3)),
    free("index_that_wraps", lambda s, x, h: s.p(h[:, (s.k + 256).to(torch.uint8).long()]), {},
         k=lambda: torch.arange(8), p=lambda: nn.Linear(8, 3)),
)  # fmt: skip
ROUNDED = tuple(
    beside(f"weight_{name}", lambda s, x, h, effect=effect: F.linear(h.tanh(), effect(3 * s.w)),
           v={"w:1": ""}, w=weights(3, 8))
    for name, effect in {
        "divided_to_floor": lambda w: torch.div(w, 0.3, rounding_mode="floor"),
        "divided_to_zero": lambda w: w.clone().div_(0.3, rounding_mode="trunc"),
        "cast_to_int": lambda w: (w * 5).long().double(),
        "cast_to_bool": lambda w: w.bool().double(),
        "cast_to_type": lambda w: (w * 5).type_as(torch.arange(2)).double(),
        "summed_to_int": lambda w: torch.stack([5 * w, w]).sum(0, dtype=torch.long).double(),
    }.items()
)  # fmt: skip
ROLES = (
    free("weight_times_a_scalar", lambda s, x, h: F.linear(h.tanh(), s.o.weight * s.c), HIDDEN,
         c=weights(1)),
    free("scalar_times_a_weight", lambda s, x, h: F.linear(h.tanh(), s.c * s.o.weight), HIDDEN,
         c=weights(1)),
    free("weight_over_a_weight", lambda s, x, h: F.linear(h.tanh(), s.w / s.g),
         {"i.weight:0": "1x8", "w:1": "1x8", "g:1": "1x8"}, w=weights(3, 8), g=weights(3, 8)),
    free("exponential_over_a_weight", lambda s, x, h: F.linear(h.tanh(), s.w.exp() / s.g), STUCK,
         w=weights(3, 8), g=weights(3, 8)),
    free("scalar_over_a_weight", lambda s, x, h: F.linear(h.tanh(), s.c / s.w), STUCK,
         w=weights(3, 8), c=weights(1)),
    free("maximum_of_two_weights", lambda s, x, h: F.linear(h.tanh(), torch.maximum(s.w, s.g)),
         STUCK, w=weights(3, 8), g=weights(3, 8)),
    free("weight_plus_an_exponential", lambda s, x, h: F.linear(h.tanh(), s.w + s.g.exp()), STUCK,
         w=weights(3, 8), g=weights(3, 8)),
    free("weight_plus_a_column", lambda s, x, h: F.linear(h.tanh(), s.w + s.g), STUCK,
         w=weights(3, 8), g=weights(3, 1)),
    free("column_plus_a_weight", lambda s, x, h: F.linear(h.tanh(), s.g + s.w), STUCK,
         w=weights(3, 8), g=weights(3, 1)),
    free("divisor_summed_beside", lambda s, x, h: F.linear(h, s.o.weight / s.g)
         + (h * s.g).sum(1, True), STUCK, g=weights(8)),
    *(free(f"{name}_of_a_maximum_summed_beside", lambda s, x, h, name=name: s.o(
        (h + torch.maximum(s.p, s.q)).relu()) + (h * getattr(s, name)).sum(1, True), STUCK,
        p=weights(8), q=weights(8)) for name in "pq"),
    free("consumer_laid_out_in_two_ways", lambda s, x, h: F.linear(h.tanh(), s.w) + F.linear(
        (s.j(x) + s.w[0].repeat(2) + s.w[0].repeat_interleave(2)).relu(), s.v),
         {"i.weight:0": "", "j.weight:0": ""}, w=weights(3, 8), v=weights(3, 16),
         j=lambda: nn.Linear(6, 16)),
    free("consumer_whose_pairs_are_a_bias", lambda s, x, h: F.linear(s.j(x).relu(), s.w) + s.o(
        (h + s.w[0].view(8, 2).amax(1)).relu()), {"i.weight:0": "", "j.weight:0": ""},
         w=weights(3, 16), j=lambda: nn.Linear(6, 16)),
    free("lines_that_turn_half_way", lambda s, x, h: s.c(
        s.j(x)[:, s.k].view(-1, 8, 2)).flatten(1),
         {"j.weight:0": "2x4", "c.weight:1": "2x4"}, j=lambda: nn.Linear(6, 16),
         k=lambda: torch.tensor([0, 1, 2, 3, 4, 5, 6, 7, 9, 8, 11, 10, 13, 12, 15, 14]),
         c=lambda: nn.Conv1d(8, 3, 2)),
    free("pairs_laid_out_in_two_ways", lambda s, x, h: s.o(h) + s.p(two_ways(h)), STUCK,
         p=lambda: nn.Linear(16, 3)),
    free("product_of_batched_weights", lambda s, x, h: h.tanh() @ torch.bmm(s.w, s.g)[:, 0],
         {"i.weight:0": "", "w:0": "", "g:0": ""}, w=weights(8, 1, 4), g=weights(8, 4, 3)),
    free("factor_that_consumes_elsewhere", lambda s, x, h: s.o(h) + F.linear(
        s.j(x).tanh(), s.w) + (s.w @ s.g).mean(), {"j.weight:0": "", "w:1": ""},
        j=lambda: nn.Linear(6, 4), w=weights(3, 4), g=weights(4, 5)),
    free("weight_divided_to_floor_by_a_weight", lambda s, x, h: F.linear(
        h.tanh(), torch.div(s.w, s.g, rounding_mode="floor")), STUCK,
        w=weights(3, 8), g=weights(3, 8)),
    free("weight_from_a_table", lambda s, x, h: F.linear(h.tanh(), s.e(torch.tensor([2, 0, 1]))),
         {"i.weight:0": "1x8", "e.weight:1": "1x8"}, e=lambda: nn.Embedding(5, 8)),
    free("bias_from_a_table", lambda s, x, h: s.o((h + s.e(torch.arange(8))[:, 0]).relu()), STUCK,
         e=lambda: nn.Embedding(8, 1)),
    free("bias_looked_up_by_the_input", lambda s, x, h: s.o(
        (h + s.t[(x.repeat(1, 2)[:, :8] > 0).long()]).relu()), STUCK, t=weights(2)),
    beside("alone_and_looked_up_by_the_input", lambda s, x, h: h[:, :1][x[:, 0].argsort()],
           v={"i.weight:0": "1x7", "o.weight:1": "1x7"}),
    free("normed_signal_along_the_channels", lambda s, x, h: s.o(
        (h + s.n(s.u(x)[:, None]).squeeze(1)).relu()), STUCK,
        n=lambda: nn.BatchNorm1d(1), u=lambda: nn.Linear(6, 8)),
    free("layer_normed_input_along_the_channels", lambda s, x, h: s.o(
        (h + F.layer_norm(x.repeat(1, 2)[:, :8], (8,))).relu()),
        {"i.weight:0": "2x2", "o.weight:1": "2x2"}),
    free("row_of_a_normed_weight", lambda s, x, h: s.o((h + s.m.weight[0]).relu()), STUCK,
         m=lambda: parametrizations.weight_norm(nn.Linear(8, 8))),
    free("weight_times_normed_signal", lambda s, x, h: (s.w @ s.n(h).t()).t(),
         {"i.weight:0": "1x8", "w:1": "1x8", "n.weight:0": "1x8"},
         w=weights(3, 8), n=lambda: nn.BatchNorm1d(8)),
    free("reduced_ramp_added", lambda s, x, h: s.o(
        (h + torch.arange(24.0).view(8, 3).amax(1)).relu()), STUCK),
    *(free(f"weight_reduced_by_{name}", lambda s, x, h, name=name: F.linear(
        h.tanh(), getattr(s.w, name)(2)), {"i.weight:0": "1x8", "w:1": "1x8"},
        w=weights(3, 8, 2)) for name in ("sum", "mean")),
    free("triangle_of_ones_as_a_mask", lambda s, x, h: s.o(
        h * torch.ones(8, 8, dtype=h.dtype).tril()[3]), STUCK),
    free("softmax_of_the_input_added", lambda s, x, h: s.o(
        (h + torch.cat([x, x[:, :2] + 1], 1).softmax(1)).relu()), STUCK),
    free("pooled_input_added", lambda s, x, h: s.o((h + F.avg_pool1d(
        x.repeat(1, 3)[:, None, 1:17], 3, 2, 1)[:, 0]).relu()), STUCK),
    free("triangles_of_a_weight", lambda s, x, h: h.tanh() @ s.w.tril().view(8, 9),
         {"i.weight:0": "1x8", "w:0": "1x8"}, w=weights(8, 3, 3)),
    free("consumer_beside_an_exponential", lambda s, x, h: F.linear(h.tanh(), s.w) + s.o(
        (h + torch.cat([s.w, s.g.exp()], 0).sum(0)).relu()), STUCK,
        w=weights(3, 8), g=weights(3, 8)),
    beside("alone_and_seen_as_whole_numbers",
           lambda s, x, h: 1e-19 * h[:, :1].view(torch.int64).double(),
           v={"i.weight:0": "1x7", "o.weight:1": "1x7"}),
    beside("seen_as_whole_numbers", lambda s, x, h: keep(h.view(torch.int64).double())),
    beside("unfolded_with_a_border", lambda s, x, h: F.unfold(h, 3, padding=1).mean(
        (1, 2))[:, None, None, None], shape=MAPS),
    free("weight_times_pooled_signal", lambda s, x, h: (s.w @ F.max_pool1d(
        (h * s.p)[:, :, None].expand(-1, -1, 2), 2).squeeze(2).t()).t(),
        {"i.weight:0": "1x8", "w:1": "1x8", "p:0": "1x8"}, w=weights(3, 8), p=weights(8)),
    free("bias_from_bags", lambda s, x, h: s.o((h + F.embedding_bag(
        torch.arange(16).view(8, 2), s.t)[:, 0]).relu()), STUCK, t=weights(16, 1)),
    free("weight_over_a_number", lambda s, x, h: F.linear(h.tanh(), s.o.weight / 2.0), HIDDEN),
    Case("ramp_that_the_channels_are_added_to", lambda: Free(
        lambda s, x, h: s.o((torch.arange(8) + h).relu()), False, {}),
        frozen={"i.weight:0": r"aten\.add\.Tensor treats every one"}),
    free("batch_of_a_product_that_consumes_elsewhere", lambda s, x, h: s.o(
        (h + torch.bmm(s.w, s.g).sum((1, 2))).relu()) + h @ s.w[:, 0],
        {"i.weight:0": "", "w:0": ""},
        w=weights(8, 1, 3), g=weights(8, 3, 2)),
)  # fmt: skip
RETURNED = (
    free("features_in_a_dataclass", lambda s, x, h: Scored(s.o(h), h), STUCK),
    free("features_in_nested_containers", lambda s, x, h: {"a": [s.o(h), Scored(h, None)]}, STUCK),
)
CASES = (*PADDED, *SUMS, *GROUPED, *IGNORED, *WRITTEN, *ROUNDED, *ROLES, *RETURNED)
