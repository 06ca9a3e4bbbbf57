"""Norms that are written out, layers along other axes than usual, strides that change."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.adversarial.case import HIDDEN, MAPS, TOKENS, Case, Maps, Rows, maps, plain, rows

AVERAGED = "averages over it"


class RootMeanSquare(Rows):
    """A norm as language models write it."""

    def add(self) -> None:
        self.g = nn.Parameter(torch.rand(8) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        h = self.i(x)
        return self.o(self.g * h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + 1e-6))


class Standardised(Rows):
    """Mean and variance over the channels, by hand."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.i(x)
        variance, mean = torch.var_mean(h, -1, keepdim=True)
        return self.o((h - mean) / (variance + 1e-5).sqrt())


class Agreement(Maps):
    """The mean of all channels gates the map: a norm's kin."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.i(x)
        return self.o(h * h.mean(1, keepdim=True).sigmoid())


class TokensJoined(nn.Module):
    """A convolution with a kernel of one over stacked tokens: its channels are tokens."""

    def __init__(self, kernel: int) -> None:
        super().__init__()
        self.i, self.o = nn.Linear(6, 8), nn.Linear(8, 3)
        self.m = nn.Conv1d(2, 1, kernel, padding=kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.i(x)
        pair = torch.stack([h[:, 0], h[:, 1].tanh()], dim=1)
        return self.o(self.m(pair).squeeze(1))


def pooled(h: Tensor) -> Tensor:
    """On channels-last maps this pooling sets strides by hand."""
    return F.adaptive_avg_pool2d(h.to(memory_format=torch.channels_last), 1)


def shifted(h: Tensor) -> Tensor:
    return h + h.as_strided((4, 7), (8, 1), 1).sum() * 0.1


def transposed(h: Tensor) -> Tensor:
    return h.clone().as_strided_((4, 8), (1, 4)) + h


CASES = (
    Case("norm_by_root_mean_square", RootMeanSquare, frozen={"i.weight:0": AVERAGED}),
    Case("norm_by_var_mean", Standardised, frozen={"i.weight:0": AVERAGED}),
    Case("gate_by_the_mean_of_channels", Agreement, (MAPS,), frozen={"i.weight:0": AVERAGED}),
    Case("kernel_of_one_along_the_channels", lambda: TokensJoined(1), (TOKENS,), exact=HIDDEN),
    Case(
        "kernel_of_three_along_the_channels",
        lambda: TokensJoined(3),
        (TOKENS,),
        frozen={"i.weight:0": "slides along it"},
    ),
    Case("pooled_to_other_strides", maps(plain(pooled)), (MAPS,), exact=HIDDEN),
    Case("strides_that_start_elsewhere", rows(plain(shifted)), frozen={"i.weight:0": "no rule"}),
    Case("strides_that_transpose", rows(plain(transposed)), frozen={"i.weight:0": "no rule"}),
)
