"""Python around the tensors: branches, state, modes, constants, custom gradients, outputs."""

from collections import OrderedDict
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from fxplastic.errors import DiscoverError, TraceError
from tests.adversarial.case import HIDDEN, MAPS, TOKENS, Case, Maps, Rows, parameter, plain, rows

STUCK = {"i.weight:0": "", "o.weight:1": ""}


class DataDependentBranch(Rows):
    def forward(self, x: Tensor) -> Tensor:
        h = self.i(x)
        return self.o(h.relu() if h.sum() > 0 else h.tanh())


class DataDependentShape(Rows):
    def forward(self, x: Tensor) -> Tensor:
        h = self.i(x)
        return self.o(h[h[:, 0] > 0])


class ValueOfATensor(Rows):
    def forward(self, x: Tensor) -> Tensor:
        h = self.i(x)
        return self.o(h * h.mean().item())


class ShapeBranch(Rows):
    def forward(self, x: Tensor) -> Tensor:
        h = self.i(x)
        return self.o(h.relu() if h.shape[-1] > 4 and h.dim() == 2 else h.tanh())


class Straight(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, h: Tensor) -> Tensor:
        return h.round()

    @staticmethod
    def backward(ctx: object, grad: Tensor) -> Tensor:
        return grad


class CustomFunction(Rows):
    def forward(self, x: Tensor) -> Tensor:
        return self.o(Straight.apply(3 * self.i(x)))


class Tripled(torch.autograd.Function):
    """Makes a tensor of a number, out of sight of tracing."""

    @staticmethod
    def forward(ctx: object, h: Tensor) -> Tensor:
        return h * torch.tensor(3.0, dtype=h.dtype, device=h.device)

    @staticmethod
    def backward(ctx: object, grad: Tensor) -> Tensor:
        return 3 * grad


class CustomFunctionWithANumber(Rows):
    def forward(self, x: Tensor) -> Tensor:
        return self.o(Tripled.apply(self.i(x)).relu())


class Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, h: Tensor) -> Tensor:
        return h.relu() + h.sum(1, keepdim=True)

    @staticmethod
    def backward(ctx: object, grad: Tensor) -> Tensor:
        return grad


class CustomFunctionOverChannels(Rows):
    def forward(self, x: Tensor) -> Tensor:
        return self.o(Rotate.apply(self.i(x)))


class ConstantBuffer(Rows):
    def add(self) -> None:
        self.register_buffer("c", torch.randn(8))

    def forward(self, x: Tensor) -> Tensor:
        return self.o((self.i(x) * self.c).relu())


class UnsavedBuffer(ConstantBuffer):
    def add(self) -> None:
        self.register_buffer("c", torch.randn(8), persistent=False)


class BooleanBuffer(Rows):
    def add(self) -> None:
        self.register_buffer("c", torch.tensor([True, False] * 4))

    def forward(self, x: Tensor) -> Tensor:
        h = self.i(x)
        return self.o(torch.where(self.c, h.relu(), h.tanh()))


class IntegerBuffer(Rows):
    def add(self) -> None:
        self.register_buffer("c", torch.tensor([1, 2, 3, 1, 2, 3, 1, 2]))

    def forward(self, x: Tensor) -> Tensor:
        return self.o((self.i(x) * self.c).relu())


class PlainConstant(Rows):
    def add(self) -> None:
        self.c = torch.randn(8, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        return self.o((self.i(x) * self.c).relu())


class ListedConstant(Rows):
    def forward(self, x: Tensor) -> Tensor:
        c = torch.tensor([1.0, 2, 3, 4, 5, 6, 7, 8], dtype=torch.float64)
        return self.o((self.i(x) + c).relu())


class OnlyInTraining(Rows):
    def add(self) -> None:
        self.t = parameter(8)

    def forward(self, x: Tensor) -> Tensor:
        h = self.i(x)
        return self.o((h + self.t if self.training else h).relu())


class AuxiliaryHead(Rows):
    def add(self) -> None:
        self.aux = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, ...] | Tensor:
        h = self.i(x).relu()
        return (self.o(h), self.aux(h)) if self.training else self.o(h)


class FrozenInTraining(Rows):
    """Exact in eval mode alone: in training the channels are centred."""

    def forward(self, x: Tensor) -> Tensor:
        h = self.i(x).relu()
        return self.o(h - h.mean(1, keepdim=True) if self.training else h)


class MovingMean(Rows):
    def add(self) -> None:
        self.register_buffer("m", torch.zeros(8))

    def forward(self, x: Tensor) -> Tensor:
        h = self.i(x)
        if self.training:
            self.m.mul_(0.5).add_(0.5 * h.mean(0))
        return self.o((h - self.m).relu())


class ReplacedBuffer(MovingMean):
    def forward(self, x: Tensor) -> Tensor:
        h = self.i(x)
        self.m = 0.5 * self.m + 0.5 * h.detach().mean(0)
        return self.o((h - self.m).relu())


class Clamped(Rows):
    def add(self) -> None:
        self.low, self.high = parameter(8), parameter(8)

    def forward(self, x: Tensor) -> Tensor:
        return self.o(torch.clamp(self.i(x), self.low - 1, self.high + 1))


class Fused(Rows):
    def add(self) -> None:
        self.a, self.b = parameter(8), parameter(8)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.addcmul(self.a, self.i(x), self.b, value=0.5)
        return torch.addmm(self.o.bias, torch.lerp(h, self.a, 0.3), self.o.weight.t(), alpha=2)


class Checkpointed(Rows):
    def forward(self, x: Tensor) -> Tensor:
        return self.o(checkpoint(torch.relu, self.i(x), use_reentrant=False))


class StochasticDepth(Rows):
    def add(self) -> None:
        self.m = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        h, y = self.i(x), self.m(self.i(x).relu())
        if self.training:
            y = y * torch.empty_like(y[:, :1]).bernoulli_(0.5) * 2
        return self.o((h + y).relu())


class ScaledByWidth(Rows):
    def forward(self, x: Tensor) -> Tensor:
        h = self.i(x)
        return self.o(h.relu() * h.shape[-1] ** -0.5)


class Pair(NamedTuple):
    scores: Tensor
    features: Tensor


class ReturnsFeatures(Rows):
    def forward(self, x: Tensor) -> Pair:
        h = self.i(x).relu()
        return Pair(self.o(h), h)


class ReturnsMapping(Rows):
    def add(self) -> None:
        self.p = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        h = self.i(x).relu()
        return OrderedDict(scores=self.o(h), others=self.p(h))


class ReturnsNormOfFeatures(Rows):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.i(x).relu()
        return self.o(h), h.pow(2).sum(1)


class ComparesFeatures(Rows):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.i(x).relu()
        return self.o(h), torch.cdist(h, h)


class Unconsumed(Rows):
    def add(self) -> None:
        self.m = nn.Linear(6, 8)

    def forward(self, x: Tensor) -> Tensor:
        self.m(x)
        return self.o(self.i(x).relu())


class SingleHidden(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.i, self.o = nn.Linear(6, 1), nn.Linear(1, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.o(self.i(x).tanh())


class BroadcastSingle(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.i, self.o = nn.Linear(6, 1), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.o(self.i(x).tanh().expand(-1, 8))


class FunctionalBatchNorm(Maps):
    def add(self) -> None:
        self.w = parameter(8)
        self.register_buffer("mean", torch.zeros(8))
        self.register_buffer("var", torch.ones(8))

    def forward(self, x: Tensor) -> Tensor:
        h = F.batch_norm(self.i(x), self.mean, self.var, self.w, None, self.training)
        return self.o(h.relu())


class TwoInputs(Rows):
    def add(self) -> None:
        self.j = nn.Linear(6, 8)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.o((self.i(x) * self.j(y)).relu())


CASES = (
    Case("data_dependent_branch", DataDependentBranch, raises=(TraceError,)),
    Case("data_dependent_shape", DataDependentShape, raises=(TraceError, DiscoverError)),
    Case("value_of_a_tensor", ValueOfATensor, raises=(TraceError, DiscoverError)),
    Case("branch_on_a_shape", ShapeBranch, exact=HIDDEN),
    Case("custom_gradient", CustomFunction),
    Case("custom_gradient_with_a_number", CustomFunctionWithANumber, exact=HIDDEN),
    Case("custom_gradient_over_channels", CustomFunctionOverChannels, frozen=STUCK),
    Case("buffer_with_a_value_per_channel", ConstantBuffer, exact={**HIDDEN, "c:0": "1x8"}),
    Case("buffer_that_no_checkpoint_holds", UnsavedBuffer, frozen=STUCK),
    Case("boolean_buffer_per_channel", BooleanBuffer),
    Case("integer_buffer_per_channel", IntegerBuffer),
    Case("plain_tensor_per_channel", PlainConstant, frozen=STUCK),
    Case("listed_constant_per_channel", ListedConstant, frozen=STUCK),
    Case("parameter_used_in_training_only", OnlyInTraining, exact={**HIDDEN, "t:0": "1x8"}),
    Case("auxiliary_head_in_training_only", AuxiliaryHead, exact={**HIDDEN, "aux.weight:1": "1x8"}),
    Case("averaged_in_training_only", FrozenInTraining, frozen=STUCK),
    Case("moving_mean_in_a_buffer", MovingMean),
    Case("buffer_replaced_in_forward", ReplacedBuffer, raises=(TraceError,)),
    Case("clamped_by_parameters", Clamped),
    Case("fused_arithmetic", Fused, exact={**HIDDEN, "a:0": "1x8", "b:0": "1x8"}),
    Case("checkpointed", Checkpointed, exact=HIDDEN),
    Case(
        "stochastic_depth_by_hand",
        StochasticDepth,
        exact={**HIDDEN, "m.weight:0": "1x8", "m.weight:1": "1x8"},
    ),
    Case("scaled_by_its_width", ScaledByWidth, exact=HIDDEN),
    Case("features_returned", ReturnsFeatures, frozen={"i.weight:0": "output"}),
    Case(
        "mapping_returned",
        ReturnsMapping,
        exact={**HIDDEN, "p.weight:1": "1x8"},
        frozen={"o.weight:0": "output", "p.weight:0": "output"},
    ),
    Case("norm_of_features_returned", ReturnsNormOfFeatures, frozen=STUCK),
    Case("distances_of_features_returned", ComparesFeatures, frozen=STUCK),
    Case("layer_without_a_consumer", Unconsumed, exact=HIDDEN),
    Case("single_hidden_neuron", SingleHidden, frozen={"i.weight:1": "input"}),
    Case("single_neuron_broadcast", BroadcastSingle, frozen={"o.weight:1": ""}),
    Case(
        "functional_batch_norm",
        FunctionalBatchNorm,
        (MAPS,),
        exact={**HIDDEN, "w:0": "1x8", "mean:0": "1x8", "var:0": "1x8"},
    ),
    Case("two_inputs", TwoInputs, ((4, 6), (4, 6)), exact={**HIDDEN, "j.weight:0": "1x8"}),
    Case(
        "noise_in_every_mode", rows(plain(lambda h: h.relu() + torch.randn_like(h))), frozen=STUCK
    ),
    Case(
        "noise_per_sample",
        rows(plain(lambda h: h.relu() * torch.rand_like(h[:, :1]))),
        exact=HIDDEN,
    ),
    Case(
        "sequence_reduced_in_a_loop",
        rows(plain(lambda h: sum(h[:, t].relu() for t in range(5)))),
        (TOKENS,),
        exact=HIDDEN,
    ),
)
