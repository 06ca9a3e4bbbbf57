"""The layers and steps that random architectures are made of: what each name builds and does."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Layer = Callable[[Tensor], Tensor]


class Standardised(nn.Conv2d):
    """A 3x3 convolution whose kernels have zero mean and unit variance."""

    def __init__(self, c: int, new: int) -> None:
        super().__init__(c, new, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        w = self.weight
        w = (w - w.mean((1, 2, 3), keepdim=True)) / (w.std((1, 2, 3), keepdim=True) + 1e-5)
        return F.conv2d(x, w, self.bias, padding=1)


class Scale(nn.Module):
    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full(shape, 1e-4))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class Position(nn.Module):
    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(1, *shape))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.table


class ClassToken(nn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 1, c))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1)


class Embedding(nn.Module):
    def __init__(self, n: int, c: int) -> None:
        super().__init__()
        self.table = nn.Embedding(n, c)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.table(torch.arange(x.shape[1], device=x.device))


class ResponseNorm(nn.Module):
    """Global response norm: every channel over the mean response of all."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.gamma, self.beta = nn.Parameter(torch.zeros(c)), nn.Parameter(torch.zeros(c))

    def forward(self, x: Tensor) -> Tensor:
        size = x.norm(dim=1, keepdim=True)
        return x + x * (size / (size.mean(-1, keepdim=True) + 1e-6)) * self.gamma + self.beta


def convolution(c: int, new: int, kernel: int, groups: int, bias: bool) -> nn.Module:
    return nn.Conv2d(c, new, kernel, padding=kernel // 2, groups=groups, bias=bias)


BUILD: dict[str, Callable[..., nn.Module]] = {
    "linear": lambda c, new, bias: nn.Linear(c, new, bias),
    "conv": convolution,
    "transposed": lambda c, new, groups: nn.ConvTranspose2d(c, new, 2, 2, groups=groups),
    "conv1d": lambda c, new, groups: nn.Conv1d(c, new, 3, padding=1, groups=groups),
    "conv3d": lambda c, new, groups: nn.Conv3d(c, new, (1, 3, 3), padding=(0, 1, 1), groups=groups),
    "transposed1d": lambda c, new: nn.ConvTranspose1d(c, new, 3, padding=1),
    "standardised": Standardised,
    "batch_norm": nn.BatchNorm2d,
    "batch_norm_of_rows": nn.BatchNorm1d,
    "instance_norm": lambda c: nn.InstanceNorm2d(c, affine=True),
    "group_norm": nn.GroupNorm,
    "layer_norm": nn.LayerNorm,
    "rms_norm": nn.RMSNorm,
    "response_norm": ResponseNorm,
    "scale": Scale,
    "position": Position,
    "class_token": ClassToken,
    "embedding": Embedding,
    "identity": lambda _: nn.Identity(),
    "dropout": lambda: nn.Dropout(0.0),
}


# --- steps ------------------------------------------------------------------------------------


def act(x: Tensor, name: str) -> Tensor:
    result: Tensor = getattr(F, name)(x)
    return result


def dropped(y: Tensor, training: bool, rate: float) -> Tensor:
    """Stochastic depth: the branch is left out for a sample, at `rate`."""
    if not training or rate == 0.0:
        return y
    keep = torch.empty(y.shape[0], *([1] * (y.dim() - 1)), dtype=y.dtype, device=y.device)
    return y * keep.bernoulli_(1 - rate) / (1 - rate)


def bottleneck(x: Tensor, down: Any, norm: Layer, up: Layer, name: str, rate: float) -> Tensor:
    return x + dropped(up(act(norm(down(x)), name)), down.training, rate)


def mlp(x: Tensor, fc1: Any, fc2: Layer, name: str, rate: float) -> Tensor:
    return x + dropped(fc2(act(fc1(x), name)), fc1.training, rate)


def mix_tokens(x: Tensor, fc1: Layer, fc2: Layer, name: str) -> Tensor:
    return x + fc2(act(fc1(x.transpose(1, 2)), name)).transpose(1, 2)


def squeeze_excite(x: Tensor, down: Layer, up: Layer, name: str) -> Tensor:
    return x * up(act(down(x.mean((2, 3), keepdim=True)), name)).sigmoid()


def windows(x: Tensor, layer: Layer, name: str) -> Tensor:
    b, c, height, width = x.shape
    cells = x.reshape(b, c, height // 2, 2, width // 2, 2).permute(0, 2, 4, 3, 5, 1)
    cells = act(layer(cells.reshape(-1, 4, c)), name)
    cells = cells.reshape(b, height // 2, width // 2, 2, 2, c)
    return x + cells.permute(0, 5, 1, 3, 2, 4).reshape(b, c, height, width)


def glu(x: Tensor, axis: int, name: str) -> Tensor:
    a, gate = x.chunk(2, dim=axis)
    return a * act(gate, name)


def split(x: Tensor, axis: int, first: int, one: str, other: str) -> Tensor:
    a, b = x.split([first, x.shape[axis] - first], dim=axis)
    return torch.cat([act(b, one), act(a, other)], axis)


def shuffle(x: Tensor, axis: int, groups: int) -> Tensor:
    x = x.movedim(axis, -1)
    parts = x.reshape(*x.shape[:-1], groups, x.shape[-1] // groups).transpose(-1, -2)
    return parts.reshape(x.shape).movedim(-1, axis)


def roll(x: Tensor, axis: int, by: int, added: bool) -> Tensor:
    rolled = x.roll(by, axis)
    return (x + rolled).tanh() if added else rolled


def heads_of(x: Tensor, heads: int) -> Tensor:
    return x.view(x.shape[0], x.shape[1], heads, -1).transpose(1, 2)


def attention(x: Tensor, q: Layer, k: Layer, v: Layer, out: Layer, heads: int) -> Tensor:
    parts = (heads_of(layer(x), heads) for layer in (q, k, v))
    return x + out(F.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2))


def attention_by_hand(x: Tensor, q: Layer, k: Layer, v: Layer, out: Layer, heads: int) -> Tensor:
    a, b, c = (heads_of(layer(x), heads) for layer in (q, k, v))
    weights = (a @ b.transpose(-2, -1) * a.shape[-1] ** -0.5).softmax(-1)
    return x + out((weights @ c).transpose(1, 2).reshape(x.shape))


def fused_attention(x: Tensor, qkv: Layer, out: Layer, heads: int) -> Tensor:
    b, n, c = x.shape
    q, k, v = qkv(x).reshape(b, n, 3, heads, c // heads).permute(2, 0, 3, 1, 4).unbind(0)
    return x + out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, c))


def along_tokens(x: Tensor, layer: Layer) -> Tensor:
    """A layer on ``[B, C, N]``."""
    return layer(x.transpose(1, 2)).transpose(1, 2)


def in_depth(x: Tensor, layer: Layer) -> Tensor:
    """A three-dimensional layer on two slices of the map, ``[B, C, 2, H / 2, W]``."""
    b, _, height, width = x.shape
    return layer(x.view(b, -1, 2, height // 2, width)).reshape(b, -1, height, width)


RUN: dict[str, Callable[..., Tensor]] = {
    "layer": lambda x, layer: layer(x),
    "activation": act,
    "bottleneck": bottleneck,
    "mlp": mlp,
    "mix_tokens": mix_tokens,
    "gate": lambda x, one, other, name: act(one(x), name) * other(x).sigmoid(),
    "concat": lambda x, layer, name: torch.cat([x, act(layer(x), name)], 1),
    "with_itself": lambda x, axis, name: torch.cat([x, act(x, name)], axis),
    "squeeze_excite": squeeze_excite,
    "pixel_shuffle": lambda x, layer: F.pixel_shuffle(layer(x), 2),
    "pixel_unshuffle": lambda x: F.pixel_unshuffle(x, 2),
    "windows": windows,
    "pool": lambda x, kind: getattr(F, f"{kind}_pool2d")(x, 2),
    "upsample": lambda x, mode: F.interpolate(x, scale_factor=2, mode=mode),
    "glu": glu,
    "split": split,
    "shuffle": shuffle,
    "roll": roll,
    "twice": lambda x, layer, name: x + act(layer(act(layer(x), name)), name),
    "attention": attention,
    "attention_by_hand": attention_by_hand,
    "fused_attention": fused_attention,
    "along_tokens": along_tokens,
    "in_depth": in_depth,
    "to_tokens": lambda x: x.flatten(2).transpose(1, 2),
    "flatten": lambda x: x.flatten(1),
    "mean_of_map": lambda x: x.mean((2, 3)),
    "mean_of_tokens": lambda x: x.mean(1),
    "first_token": lambda x: x[:, 0],
    "to_map": lambda x: x.view(x.shape[0], -1, 2, 2),
}
