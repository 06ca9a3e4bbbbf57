"""What tells attention heads apart: biases, networks of biases, gates and rotations per head."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.adversarial.attention import INNER, STREAM, Attention, heads, merged
from tests.adversarial.case import HIDDEN, MAPS, TOKENS, Case, Maps, parameter


class BiasTable(Attention):
    """A bias per head and distance, looked up by a constant index."""

    index: Tensor

    def add(self) -> None:
        super().add()
        self.table = parameter(9, 2)
        steps = torch.arange(5)
        self.register_buffer("index", steps[:, None] - steps[None] + 4)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        bias = self.table[self.index.flatten()].view(5, 5, 2).permute(2, 0, 1)
        return merged(F.scaled_dot_product_attention(heads(q), heads(k), heads(v), bias))


class BiasNetwork(Attention):
    """The bias of each head comes from a small network over coordinates, and is squashed."""

    grid: Tensor

    def add(self) -> None:
        super().add()
        self.one, self.two = nn.Linear(1, 6), nn.Linear(6, 2, bias=False)
        self.scale = parameter(2, 1, 1)
        steps = torch.arange(5.0)
        self.register_buffer("grid", (steps[:, None] - steps[None]).view(-1, 1))

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        bias = self.two(self.one(self.grid).relu()).view(5, 5, 2).permute(2, 0, 1)
        q, k, v = F.normalize(heads(q), dim=-1), F.normalize(heads(k), dim=-1), heads(v)
        weights = q @ k.transpose(-2, -1) * self.scale.exp() + 16 * bias.sigmoid()
        return merged(weights.softmax(-1) @ v)


class Rotary(Attention):
    """Queries and keys are rotated by their position, values are not."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        angle = torch.arange(q.shape[1], dtype=q.dtype)[:, None] * torch.tensor([1.0, 0.1])
        cos, sin = angle.cos().repeat(1, 2), angle.sin().repeat(1, 2)

        def turned(t: Tensor) -> Tensor:
            first, second = t.chunk(2, dim=-1)
            return t * cos + torch.cat((-second, first), dim=-1) * sin

        q, k = turned(heads(q)), turned(heads(k))
        return merged(F.scaled_dot_product_attention(q, k, heads(v)))


class GateOfHeads(Attention):
    """What each head returns is scaled by a parameter of the head, beside a bias of the head."""

    def add(self) -> None:
        super().add()
        self.gate, self.bias = parameter(2, 1, 1), parameter(2, 1, 1)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        weights = (heads(q) @ heads(k).transpose(-2, -1) * self.bias).softmax(-1)
        return merged(weights @ heads(v) * self.gate)


class BiasOfChannels(Attention):
    """One parameter is the bias of the heads' scores, and scales the channels of the values."""

    def add(self) -> None:
        super().add()
        self.both = parameter(2, 4)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        bias = self.both.sum(1).view(2, 1, 1)
        weights = (heads(q) @ heads(k).transpose(-2, -1) + bias * heads(q)[..., :1]).softmax(-1)
        return merged(weights @ (heads(v) * self.both[:, None]))


class WindowBias(Maps):
    """Windows of maps attend with a bias per head and position in the window."""

    def add(self) -> None:
        self.qkv, self.p = nn.Linear(8, 24), nn.Linear(8, 8)
        self.bias = parameter(1, 2, 9, 9)

    def forward(self, x: Tensor) -> Tensor:
        h = self.i(x).permute(0, 2, 3, 1)
        windows = h.view(-1, 2, 3, 2, 3, 8).transpose(2, 3).reshape(-1, 9, 8)
        q, k, v = self.qkv(windows).view(-1, 9, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
        out = self.p(merged((q @ k.transpose(-2, -1) + self.bias).softmax(-1) @ v))
        out = out.view(-1, 2, 2, 3, 3, 8).transpose(2, 3).reshape(-1, 6, 6, 8)
        return self.o((h + out).permute(0, 3, 1, 2).relu())


def per_head(name: str, model: type[Attention]) -> Case:
    return Case(name, model, (TOKENS,), exact=STREAM, frozen=INNER)


CASES = (
    per_head("attention_with_a_table_of_biases", BiasTable),
    per_head("attention_with_a_network_of_biases", BiasNetwork),
    per_head("attention_with_rotary_positions", Rotary),
    per_head("attention_with_a_gate_per_head", GateOfHeads),
    Case("attention_with_a_bias_made_of_gains", BiasOfChannels, (TOKENS,), exact=STREAM),
    Case("attention_in_windows_with_biases", WindowBias, (MAPS,), exact=HIDDEN),
)
