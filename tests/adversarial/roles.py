"""Who scales: consumers, effective weights, and parameters that are used twice."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from tests.adversarial.case import HIDDEN, MAPS, TOKENS, Case, Maps, Rows, parameter, rows

FREE = {"i.weight:0": "", "o.weight:1": ""}
"""Frozen, whatever the reason says."""


class GramBesideLinear(Rows):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.i(x)
        return self.o(h), h @ h.transpose(1, 2)


class Effective(Rows):
    """A linear layer whose weight is computed from the parameter."""

    def weight(self, w: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.i(x).tanh(), self.weight(self.o.weight))


def effective(compute: object) -> type[Effective]:
    return type("Effective", (Effective,), {"weight": lambda self, w: compute(w)})  # type: ignore[operator]


class TiedAutoencoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = parameter(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        return (x @ self.w.t()).relu() @ self.w


class LowRank(Rows):
    def add(self) -> None:
        self.a, self.b = parameter(3, 4), parameter(4, 8)

    def forward(self, x: Tensor) -> Tensor:
        h = self.i(x).relu()
        return F.linear(h, self.a @ self.b) + self.o(h)


class LoraOnActivations(Rows):
    def add(self) -> None:
        self.down, self.up = nn.Linear(8, 4, bias=False), nn.Linear(4, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = self.i(x).relu()
        return self.o(h) + 0.5 * self.up(self.down(h))


class LoraMerged(Rows):
    def add(self) -> None:
        self.down, self.up = parameter(4, 8), parameter(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.i(x).relu(), self.o.weight + 0.5 * self.up @ self.down)


class GatedWeight(Rows):
    def add(self) -> None:
        self.g = parameter(8)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.i(x).relu(), self.o.weight * self.g)


class ProducerAndConsumer(Rows):
    def add(self) -> None:
        self.p = parameter(8)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.i(x).relu() + self.p
        return self.o(h), h @ self.p


class PenaltyOnConsumer(Rows):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.o(self.i(x).relu()), self.o.weight.pow(2).sum()


class ConsumerRowAdded(Rows):
    def forward(self, x: Tensor) -> Tensor:
        return self.o(self.i(x).relu() + self.o.weight[0])


class UsedTwiceTransposed(Rows):
    def add(self) -> None:
        self.w = parameter(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        h = (self.i(x) @ self.w).relu()
        return self.o((h @ self.w.t()).relu())


class SymmetricWeight(Rows):
    def add(self) -> None:
        self.w = parameter(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        h = self.i(x)
        return self.o(h + (h @ (self.w + self.w.t())).tanh())


class SharedConsumer(Rows):
    def add(self) -> None:
        self.j = nn.Linear(6, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.o(self.i(x).relu()) * self.o(self.j(x).tanh())


class CalledTwice(Rows):
    def add(self) -> None:
        self.m = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.o(self.m(self.m(self.i(x).relu()).relu()))


class TiedToTwoLayers(Rows):
    def add(self) -> None:
        self.j, self.p = nn.Linear(6, 8), nn.Linear(8, 3)
        self.j.weight, self.p.weight = self.i.weight, self.o.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.o(self.i(x).relu()) + self.p(self.j(x).tanh())


class SumOfWeights(Rows):
    def add(self) -> None:
        self.w = parameter(3, 8)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.i(x).relu(), self.o.weight + 2 * self.w)


class ConcatenatedWeights(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.i, self.a, self.b = nn.Linear(6, 8), parameter(3, 4), parameter(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.i(x).relu(), torch.cat([self.a, self.b], 1))


class MaskedWeight(Rows):
    def add(self) -> None:
        self.register_buffer("mask", (torch.rand(3, 8) > 0.3).double())

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.i(x).relu(), self.o.weight * self.mask)


class ScaledByScalars(Rows):
    def add(self) -> None:
        self.s, self.t = nn.Parameter(torch.tensor(1.7)), nn.Parameter(torch.tensor([0.6]))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.i(x).tanh() * self.s, self.o.weight / self.t, self.o.bias)


class FlatWeight(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.i, self.w = nn.Linear(6, 8), parameter(24)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.i(x).relu(), self.w.view(3, 8))


class WeightFromNetwork(Rows):
    """The consumer is the output of a small network made of parameters alone."""

    def add(self) -> None:
        self.codes, self.fc1, self.fc2 = parameter(5), nn.Linear(5, 8), nn.Linear(8, 24)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.i(x).relu(), self.fc2(self.fc1(self.codes).relu()).view(3, 8))


class BiasFromNetwork(Rows):
    """Relative-position biases: a network of parameters alone beside the signal."""

    def add(self) -> None:
        self.register_buffer("table", torch.randn(5, 2))
        self.fc1, self.fc2 = nn.Linear(2, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.o((self.i(x) + self.fc2(self.fc1(self.table).relu())).tanh())


class WeightFromActivation(Rows):
    def add(self) -> None:
        self.gen = nn.Linear(6, 24)

    def forward(self, x: Tensor) -> Tensor:
        h = self.i(x).relu()
        return self.o(h) + (self.gen(x).view(-1, 3, 8) @ h[:, :, None])[:, :, 0]


class TiedConvAutoencoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = parameter(8, 3, 3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv_transpose2d(F.conv2d(x, self.w).relu(), self.w)


class TiedEmbedding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.e, self.fc1, self.fc2 = nn.Embedding(10, 8), nn.Linear(8, 12), nn.Linear(12, 8)

    def forward(self, index: Tensor) -> Tensor:
        h = self.e(index)
        h = h + self.fc2(self.fc1(h).relu())
        return F.linear(h, self.e.weight)


class Quadratic(Rows):
    def add(self) -> None:
        self.m = nn.Bilinear(8, 8, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.i(x).tanh()
        return self.m(h, h) + self.o(h)


class OuterProduct(Rows):
    def add(self) -> None:
        self.j, self.p = nn.Linear(6, 4), nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        h, g = self.i(x).tanh(), self.j(x).relu()
        return self.o(h) + self.p((h[:, :, None] * g[:, None, :]).flatten(1))


class BufferAsConsumer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.i = nn.Linear(6, 8)
        self.register_buffer("m", torch.randn(8, 5))

    def forward(self, x: Tensor) -> Tensor:
        return self.i(x).relu() @ self.m


class ConstantAsConsumer(BufferAsConsumer):
    def forward(self, x: Tensor) -> Tensor:
        return self.i(x).relu() @ torch.eye(8, 5, dtype=torch.float64)


class AllOnesChannel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.i, self.o = nn.Linear(6, 8), nn.Linear(9, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.i(x).relu()
        return self.o(torch.cat([h, torch.ones_like(h[:, :1])], 1))


class BatchNormOnWeights(Maps):
    def add(self) -> None:
        self.m = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        w = F.batch_norm(self.m.weight.reshape(1, 8, -1), None, None, training=True)
        return self.o(F.conv2d(self.i(x).relu(), w.view_as(self.m.weight)).relu())


class MaskFirst(Rows):
    """A mask takes no share, though it comes first in the product."""

    def add(self) -> None:
        self.m = nn.Linear(8, 8)
        self.register_buffer("mask", (torch.arange(64.0).view(8, 8) % 3).clamp(max=1.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.o(F.linear(self.i(x).relu(), self.mask * self.m.weight).relu())


def normed(wrap: object) -> object:
    class Normed(Rows):
        def add(self) -> None:
            self.m = wrap(nn.Linear(8, 8))  # type: ignore[operator]

        def forward(self, x: Tensor) -> Tensor:
            return self.o(self.m(self.i(x).relu()).relu())

    return Normed


STUCK = {"i.weight:0": "", "o.weight:1": ""}
MEAN = "o.weight:1"

CASES = (
    Case(
        "activation_times_itself_contracted",
        GramBesideLinear,
        (TOKENS,),
        frozen={"i.weight:0": "two activations", "o.weight:1": "two activations"},
    ),
    Case("tied_autoencoder", TiedAutoencoder, frozen={"w:0": "same parameter|itself", "w:1": ""}),
    Case("low_rank_weight", LowRank),
    Case(
        "lora_on_activations",
        LoraOnActivations,
        exact={**HIDDEN, "down.weight:1": "1x8", "down.weight:0": "1x4", "up.weight:1": "1x4"},
    ),
    Case("lora_merged_into_the_weight", LoraMerged),
    Case("weight_times_gate_on_one_axis", GatedWeight),
    Case(
        "parameter_as_producer_and_consumer",
        ProducerAndConsumer,
        frozen={"p:0": "same parameter|used", "i.weight:0": ""},
    ),
    Case("penalty_on_the_consumer", PenaltyOnConsumer, frozen=STUCK),
    Case("row_of_the_consumer_added", ConsumerRowAdded, frozen=STUCK),
    Case(
        "weight_used_twice_transposed",
        UsedTwiceTransposed,
        frozen={"w:0": "", "w:1": "", "i.weight:0": "", "o.weight:1": ""},
    ),
    Case("symmetric_weight", SymmetricWeight),
    Case("consumer_shared_by_two_signals", SharedConsumer, exact={**HIDDEN, "j.weight:0": "1x8"}),
    Case(
        "module_called_twice",
        CalledTwice,
        exact={**HIDDEN, "m.weight:0": "1x8", "m.weight:1": "1x8"},
    ),
    Case("weights_tied_across_layers", TiedToTwoLayers, exact={**HIDDEN, "j.bias:0": "1x8"}),
    Case("sum_of_two_weights", SumOfWeights, exact={**HIDDEN, "w:1": "1x8"}),
    Case(
        "concatenated_weights",
        ConcatenatedWeights,
        exact={"i.weight:0": "1x4+1x4", "a:1": "1x4", "b:1": "1x4"},
    ),
    Case("weight_times_mask_buffer", MaskedWeight, exact={**HIDDEN, "mask:1": "1x8"}),
    Case("learned_scalar_and_temperature", ScaledByScalars, exact=HIDDEN),
    Case("weight_stored_flat", FlatWeight),
    Case("weight_from_a_network_of_parameters", WeightFromNetwork),
    Case(
        "bias_from_a_network_of_parameters",
        BiasFromNetwork,
        (TOKENS,),
        exact={"fc1.weight:0": "1x8", "fc2.weight:1": "1x8"},
    ),
    Case(
        "weight_from_an_activation",
        WeightFromActivation,
        frozen={"i.weight:0": "two activations", "gen.weight:0": "two activations"},
    ),
    Case("tied_convolution_autoencoder", TiedConvAutoencoder, (MAPS,), frozen={"w:0": ""}),
    Case(
        "tied_embedding",
        TiedEmbedding,
        indices=(4, 5),
        exact={"fc1.weight:0": "1x12", "fc2.weight:1": "1x12"},
        frozen={"e.weight:0": "", "e.weight:1": "", "fc2.weight:0": "", "fc1.weight:1": ""},
    ),
    Case("bilinear_in_one_signal", Quadratic),
    Case("outer_product_flattened", OuterProduct),
    Case("buffer_as_consumer", BufferAsConsumer),
    Case("constant_as_consumer", ConstantAsConsumer, frozen={"i.weight:0": ""}),
    Case("channel_of_ones_appended", AllOnesChannel, exact=HIDDEN),
    Case(
        "batch_norm_on_weights",
        BatchNormOnWeights,
        (MAPS,),
        exact={"m.weight:0": "1x8", "o.weight:1": "1x8"},
        frozen={"m.weight:1": "", "i.weight:0": ""},
    ),
    Case(
        "weight_norm",
        normed(parametrizations.weight_norm),
        exact={
            "m.parametrizations.weight.original0:0": "1x8",
            "m.parametrizations.weight.original1:0": "1x8",
            "o.weight:1": "1x8",
        },
        frozen={"m.parametrizations.weight.original1:1": "", "i.weight:0": ""},
    ),
    Case(
        "spectral_norm",
        normed(parametrizations.spectral_norm),
        frozen={
            "m.parametrizations.weight.original:0": "",
            "m.parametrizations.weight.original:1": "",
            "i.weight:0": "",
            "o.weight:1": "",
        },
    ),
    Case("mask_times_weight", MaskFirst, exact={"i.weight:0": "1x8", "mask:1": "1x8"}),
    Case(
        "orthogonal_weight",
        normed(parametrizations.orthogonal),
        frozen={
            "m.parametrizations.weight.0.base:0": "holds to something between the rows",
            "i.weight:0": "",
            "o.weight:1": "",
        },
    ),
    Case("exp_of_a_weight", effective(torch.exp), frozen=STUCK),
    Case("weight_plus_a_constant", effective(lambda w: w + 0.5), frozen=STUCK),
    Case("constant_minus_weight", effective(lambda w: 1 - w), frozen=STUCK),
    Case("absolute_weight", effective(torch.abs), frozen=STUCK),
    Case("rectified_negated_weight", effective(lambda w: F.relu(-w)), frozen=STUCK),
    Case("squared_weight", effective(lambda w: w * w), frozen=STUCK),
    Case("weight_over_weight", effective(lambda w: w * w / (w + 3)), frozen=STUCK),
    Case("reciprocal_weight", effective(lambda w: 1 / (w + 9)), frozen=STUCK),
    Case(
        "weight_over_its_norm", effective(lambda w: w / w.norm(dim=1, keepdim=True)), frozen=STUCK
    ),
    Case(
        "weight_over_its_norm_per_channel",
        effective(lambda w: w / w.norm(dim=0, keepdim=True)),
        frozen=STUCK,
    ),
    Case("softmax_of_a_weight", effective(lambda w: w.softmax(1)), frozen=STUCK),
    Case("sign_of_a_weight", effective(torch.sign), frozen=STUCK),
    Case("clamped_weight", effective(lambda w: w.clamp(-0.2, 0.2)), frozen=STUCK),
    Case("centred_weight", effective(lambda w: w - w.mean(1, keepdim=True)), frozen=STUCK),
    Case("weight_times_its_mean", effective(lambda w: w * w.mean()), frozen=STUCK),
    Case("cumulated_weight", effective(lambda w: w.cumsum(1)), frozen=STUCK),
    Case("triangle_of_a_weight", effective(torch.tril), frozen={"i.weight:0": r"aten\.tril"}),
    Case("weight_filled_where_small", effective(lambda w: w.masked_fill(w < 0, 0.5)), frozen=STUCK),
    Case(
        "weight_where_else_one",
        effective(lambda w: torch.where(w > 0, w, torch.ones_like(w))),
        frozen=STUCK,
    ),
    Case("weight_times_matrix", effective(lambda w: w @ w.t() @ w), frozen=STUCK),
    Case("dropout_on_the_weight", effective(lambda w: F.dropout(w, 0.0))),
    Case("negated_and_shifted_back", effective(lambda w: -(w * 2) + w), exact=HIDDEN),
    Case("weight_reversed", effective(lambda w: w.flip(1)), exact=HIDDEN),
    Case(
        "weight_cast_and_cloned",
        effective(lambda w: w.clone().contiguous().to(w.dtype)),
        exact=HIDDEN,
    ),
    Case("rounded_signal", rows(lambda: lambda h: h + (h.round() - h).detach()), exact=HIDDEN),
    Case("affine_signal", rows(lambda: lambda h: 2 * h.tanh() - 1), exact=HIDDEN),
)
