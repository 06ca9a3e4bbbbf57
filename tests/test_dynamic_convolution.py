"""A convolution whose weight is computed for each sample: its output channels are no neurons."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from fxplastic import plasticize


class Mixture(nn.Module):
    """Weights mixed from experts by each sample, run as one convolution in groups (CondConv)."""

    def __init__(self, out: int = 6) -> None:
        super().__init__()
        self.out = out
        self.first = nn.Conv2d(3, 8, 1)
        self.route = nn.Linear(8, 2)
        self.experts = nn.Parameter(torch.randn(2, out * 8))
        self.norm = nn.BatchNorm2d(out)
        self.head = nn.Conv2d(out, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        batch, channels, height, width = x.shape
        route = self.route(x.mean((2, 3))).sigmoid()
        weight = (route @ self.experts).view(batch * self.out, channels, 1, 1)
        x = x.reshape(1, batch * channels, height, width)
        x = functional.conv2d(x, weight, groups=batch)
        x = x.permute(1, 0, 2, 3).view(batch, self.out, height, width)
        return self.head(self.norm(x).relu())


def test_channels_that_a_computed_weight_makes_are_not_taken_for_alike():
    model = Mixture()
    plastic = plasticize(model, torch.zeros(4, 3, 5, 5))
    sites = {(s.parameter, s.axis) for g in plastic.groups.values() for s in g.sites}
    assert not sites & {("norm.weight", 0), ("norm.running_var", 0), ("head.weight", 1)}
    assert {("norm.weight", 0), ("head.weight", 1)} <= {
        (f.parameter, f.axis) for f in plastic.frozen
    }


def test_nothing_that_is_found_there_is_refuted():
    plastic = plasticize(Mixture(), torch.zeros(4, 3, 5, 5))
    proved = plasticize(Mixture(), torch.zeros(4, 3, 5, 5), verify=True)
    assert plastic.fingerprint == proved.fingerprint
