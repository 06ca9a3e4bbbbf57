"""Attention of every make. Frozen by default; what is around it stays plastic.

Every case runs a second time with `attention="value"`, where value channels open inside a head.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.adversarial.case import HIDDEN, MAPS, TOKENS, Case, Maps, Rows, parameter

TWO = "two activations|attention"
INNER = {"q.weight:0": TWO, "k.weight:0": TWO, "v.weight:0": TWO, "p.weight:1": TWO}
STREAM = {**HIDDEN, "q.weight:1": "1x8", "p.weight:0": "1x8"}


class Attention(Rows):
    """Two heads of four channels on a residual stream without norms."""

    inner = 8

    def add(self) -> None:
        self.q, self.k, self.v = (nn.Linear(8, self.inner) for _ in range(3))
        self.p = nn.Linear(self.inner, 8)

    def forward(self, x: Tensor) -> Tensor:
        h = self.i(x)
        h = h + self.p(self.attend(self.q(h), self.k(h), self.v(h)))
        return self.o(h.tanh())

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        raise NotImplementedError


def heads(t: Tensor) -> Tensor:
    return t.view(t.shape[0], t.shape[1], 2, -1).transpose(1, 2)


def merged(t: Tensor) -> Tensor:
    return t.transpose(1, 2).flatten(2)


class HeadsAsBatch(Attention):
    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = heads(q), heads(k), heads(v)
        return merged((q @ k.transpose(-2, -1) * 0.5).softmax(-1) @ v)


class HeadsFoldedIntoBatch(Attention):
    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        b, n, _ = q.shape
        q, k, v = (heads(t).reshape(2 * b, n, 4) for t in (q, k, v))
        out = torch.bmm((torch.bmm(q, k.transpose(1, 2)) * 0.5).softmax(-1), v)
        return merged(out.view(b, 2, n, 4))


class ScaledDotProduct(Attention):
    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return merged(F.scaled_dot_product_attention(heads(q), heads(k), heads(v)))


class HeadsInEinsum(Attention):
    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (t.view(*t.shape[:2], 2, 4) for t in (q, k, v))
        weights = torch.einsum("bnhd,bmhd->bhnm", q, k).softmax(-1)
        return torch.einsum("bhnm,bmhd->bnhd", weights, v).flatten(2)


class HeadsLast(Attention):
    """Channels are (channel, head): the heads are interleaved."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (t.view(*t.shape[:2], 4, 2).permute(0, 3, 1, 2) for t in (q, k, v))
        out = F.scaled_dot_product_attention(q, k, v)
        return out.permute(0, 2, 3, 1).flatten(2)


class TalkingHeads(Attention):
    def add(self) -> None:
        super().add()
        self.before, self.after = nn.Linear(2, 2), nn.Linear(2, 2)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = heads(q), heads(k), heads(v)
        weights = self.before((q @ k.transpose(-2, -1)).permute(0, 2, 3, 1)).softmax(2)
        return merged(self.after(weights).permute(0, 3, 1, 2) @ v)


class CrossCovariance(Attention):
    def add(self) -> None:
        super().add()
        self.t = nn.Parameter(torch.ones(2, 1, 1))

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (heads(t).transpose(-2, -1) for t in (q, k, v))
        q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
        out = (q @ k.transpose(-2, -1) * self.t).softmax(-1) @ v
        return out.permute(0, 3, 1, 2).flatten(2)


class GroupedQueries(Attention):
    def add(self) -> None:
        super().add()
        self.k, self.v = nn.Linear(8, 4), nn.Linear(8, 4)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        k, v = (t[:, None].expand(-1, 2, -1, -1) for t in (k, v))
        return merged(F.scaled_dot_product_attention(heads(q), k, v))


class GroupedQueriesRepeated(Attention):
    inner = 16

    def add(self) -> None:
        super().add()
        self.k, self.v = nn.Linear(8, 8), nn.Linear(8, 8)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q = q.view(*q.shape[:2], 4, 4).transpose(1, 2)
        k, v = (heads(t).repeat_interleave(2, dim=1) for t in (k, v))
        return merged(F.scaled_dot_product_attention(q, k, v))


class LinearAttention(Attention):
    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = F.elu(heads(q)) + 1, F.elu(heads(k)) + 1, heads(v)
        size = q @ k.sum(2, keepdim=True).transpose(-2, -1)
        return merged(q @ (k.transpose(-2, -1) @ v) / size)


class RelativeBias(Attention):
    def add(self) -> None:
        super().add()
        self.bias = parameter(2, 5, 5)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = heads(q), heads(k), heads(v)
        return merged((q @ k.transpose(-2, -1) + self.bias).softmax(-1) @ v)


class SharedQueryAndKey(Attention):
    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return (q @ q.transpose(1, 2)).softmax(-1) @ (v + q)


class ValueGated(Attention):
    """The attended values are gated by channels that see no attention themselves."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return merged(F.scaled_dot_product_attention(heads(q), heads(q), heads(v))) * k.sigmoid()


class Fused(Rows):
    def add(self) -> None:
        self.qkv, self.p = nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        h = self.i(x)
        q, k, v = self.qkv(h).reshape(*h.shape[:2], 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
        return self.o((h + self.p(merged(F.scaled_dot_product_attention(q, k, v)))).tanh())


class FusedInterleaved(Fused):
    def forward(self, x: Tensor) -> Tensor:
        h = self.i(x)
        q, k, v = self.qkv(h).view(*h.shape[:2], 2, 12).transpose(1, 2).chunk(3, -1)
        return self.o((h + self.p(merged(F.scaled_dot_product_attention(q, k, v)))).tanh())


class NonLocal(Maps):
    def add(self) -> None:
        self.q, self.k, self.v = (nn.Conv2d(8, 4, 1) for _ in range(3))
        self.p = nn.Conv2d(4, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.i(x)
        q, k, v = (layer(h).flatten(2) for layer in (self.q, self.k, self.v))
        seen = v @ (q.transpose(1, 2) @ k).softmax(-1).transpose(1, 2)
        return self.o((h + self.p(seen.view(-1, 4, 6, 6))).relu())


class PooledByQuery(Rows):
    """A learned query pools the tokens: attention with one side a parameter."""

    def add(self) -> None:
        self.q, self.k, self.v = parameter(1, 8), nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        h = self.i(x)
        weights = (self.q @ self.k(h).transpose(1, 2)).softmax(-1)
        return self.o((weights @ self.v(h)).tanh())


class MultiheadModule(Rows):
    def add(self) -> None:
        self.m = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        h = self.i(x)
        return self.o((h + self.m(h, h, h, need_weights=False)[0]).tanh())


class MultiheadWithWeights(MultiheadModule):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.i(x)
        seen, weights = self.m(h, h, h)
        return self.o((h + seen).tanh()), weights


class EncoderLayer(Rows):
    def add(self) -> None:
        self.m = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.o(self.m(self.i(x)))


def hand_made(name: str, model: type[Attention]) -> Case:
    return Case(name, model, (TOKENS,), exact=STREAM, frozen=INNER)


CASES = (
    hand_made("attention_with_heads_as_batch", HeadsAsBatch),
    hand_made("attention_with_heads_folded_into_batch", HeadsFoldedIntoBatch),
    hand_made("attention_by_sdpa", ScaledDotProduct),
    hand_made("attention_with_heads_in_einsum", HeadsInEinsum),
    hand_made("attention_with_interleaved_heads", HeadsLast),
    hand_made("talking_heads", TalkingHeads),
    hand_made("cross_covariance_attention", CrossCovariance),
    hand_made("grouped_queries_by_expand", GroupedQueries),
    hand_made("grouped_queries_by_repeat_interleave", GroupedQueriesRepeated),
    hand_made("linear_attention", LinearAttention),
    hand_made("attention_with_relative_bias", RelativeBias),
    Case(
        "attention_with_query_as_key",
        SharedQueryAndKey,
        (TOKENS,),
        exact=HIDDEN,
        frozen={"q.weight:0": TWO, "v.weight:0": TWO},
    ),
    Case(
        "attention_with_gated_values",
        ValueGated,
        (TOKENS,),
        exact=HIDDEN,
        frozen={"q.weight:0": TWO, "v.weight:0": TWO, "k.weight:0": TWO},
    ),
    Case(
        "attention_with_fused_qkv",
        Fused,
        (TOKENS,),
        exact=HIDDEN,
        frozen={"qkv.weight:0": TWO, "p.weight:1": TWO},
    ),
    Case(
        "attention_with_interleaved_qkv",
        FusedInterleaved,
        (TOKENS,),
        exact=HIDDEN,
        frozen={"qkv.weight:0": TWO, "p.weight:1": TWO},
    ),
    Case("non_local_block", NonLocal, (MAPS,), exact=STREAM | {"q.weight:1": "1x8"}, frozen=INNER),
    Case("pooled_by_a_learned_query", PooledByQuery, (TOKENS,), exact={"i.weight:0": "1x8"}),
    Case(
        "multihead_attention_module",
        MultiheadModule,
        (TOKENS,),
        exact=HIDDEN,
        frozen={"m.in_proj_weight:0": TWO, "m.out_proj.weight:1": TWO},
    ),
    Case(
        "multihead_attention_returns_weights",
        MultiheadWithWeights,
        (TOKENS,),
        exact=HIDDEN,
        frozen={"m.in_proj_weight:0": TWO, "m.out_proj.weight:1": TWO},
    ),
    Case(
        "transformer_encoder_layer",
        EncoderLayer,
        (TOKENS,),
        exact={"m.linear1.weight:0": "1x12", "m.linear2.weight:1": "1x12"},
        frozen={"i.weight:0": "", "o.weight:1": "", "m.self_attn.in_proj_weight:0": ""},
    ),
)
