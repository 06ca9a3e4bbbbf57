"""Calls that a run has met before are not asked about again, and nothing differs for it."""

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn

from fxplastic import names_run, propagate
from fxplastic.discover import Discovery, discover
from fxplastic.groups import Options
from fxplastic.trace import trace

pytestmark = pytest.mark.filterwarnings("ignore")


class Drops(nn.Module):
    """Whole samples are dropped in training: a draw is no repeat of another mode's."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(5, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        return self.b(h * torch.bernoulli(torch.full((1, 8), 0.5)))


class Strided(nn.Module):
    """The same window with another start."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(5, 16), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x).relu().reshape(2, 16)
        first, last = h[:, :8], h[:, 8:]
        return self.b(first.as_strided((2, 8), (16, 1))) + self.b(last.as_strided((2, 8), (16, 1)))


class Counts(nn.Module):
    """A buffer that training writes to."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 3, 1)
        self.register_buffer("mean", torch.zeros(8))

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.a(x))
        if self.training:
            self.mean.mul_(0.9).add_(h.mean((0, 2, 3)))
        return self.b(h - self.mean[:, None, None])


def found(model: nn.Module, x: Tensor) -> Discovery:
    return discover(model, trace(model, (x,)), Options("value"), witness=True)


def facts(one: Discovery) -> object:
    groups = {
        name: (
            g.exact,
            g.block_count,
            g.coupled,
            [(s.parameter, s.axis, s.role, s.positions.tolist()) for s in g.sites],
        )
        for name, g in one.groups.items()
    }
    reasons = {(f.parameter, f.axis, f.reason) for f in one.frozen}
    return groups, reasons, set(one.ledger.witness or ())


MODELS = {
    "drops": (Drops, (2, 5)),
    "strided": (Strided, (2, 5)),
    "counts": (Counts, (2, 3, 4, 4)),
    **{
        name: (lambda name=name: timm.create_model(name), (2, 3, 96, 96))
        for name in ("test_resnet", "test_vit2", "test_convnext", "test_efficientnet")
    },
}


@pytest.mark.parametrize("name", MODELS)
def test_what_is_found_is_the_same_when_every_call_is_asked_about(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, shape = MODELS[name]
    torch.manual_seed(0)
    model = make()
    if name.startswith("test_vit"):
        shape = (2, 3, *model.patch_embed.img_size)
    once = found(model, torch.zeros(shape))
    monkeypatch.setattr(propagate, "key_of", lambda *call: None)
    again = found(model, torch.zeros(shape))
    assert facts(once) == facts(again)
    assert once.groups or name in ("drops", "counts")


def test_the_second_mode_asks_little(monkeypatch: pytest.MonkeyPatch) -> None:
    model = timm.create_model("test_convnext")
    asked = []
    tell = propagate.NamesMode._tell

    def count(mode: propagate.NamesMode, call: propagate.Call) -> object:
        asked.append(mode.ledger.training)
        return tell(mode, call)

    monkeypatch.setattr(propagate.NamesMode, "_tell", count)
    monkeypatch.setattr(names_run, "same_program", lambda *graphs: False)
    found(model, torch.zeros(2, 3, 64, 64))
    second, first = np.bincount(np.array(asked, int), minlength=2)  # training comes first
    assert second < first / 4
