"""Sums over each neuron's slices: every position once, whatever part is summed at a time."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from fxplastic import slices
from fxplastic.slices import Slices, pieces
from tests.hand_made import MODELS, HandMade, build, group, site


@pytest.mark.parametrize("role", ["producer", "consumer"])
@pytest.mark.parametrize("kind", MODELS)
def test_sums_are_the_same_a_few_rows_at_a_time(
    kind: type[HandMade], role: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build(kind)

    def sums() -> dict[str, torch.Tensor]:
        return Slices(model, role).sums(lambda p: lambda rows: p.detach()[rows])

    whole = sums()
    for at_a_time in (1, 13, 40):
        monkeypatch.setattr(slices, "_AT_A_TIME", at_a_time)
        for name, total in sums().items():
            torch.testing.assert_close(total, whole[name], rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("shape", [(7, 3), (8, 3), (1, 5), (0, 3), (4,)])
def test_pieces_have_every_row_once(
    shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slices, "_AT_A_TIME", 6)
    tensor = torch.randn(shape)
    assert torch.equal(torch.cat([tensor[part] for part in pieces(tensor)]), tensor)


def test_a_site_with_rows_beside_one_without_is_summed_over_its_rows() -> None:
    model = HandMade()
    model.weight = nn.Parameter(torch.arange(8.0).reshape(4, 2))
    rows = torch.tensor([[2, 3]])
    whole = group(1, site("weight", 1, "consumer", torch.tensor([0])))
    part = group(1, site("weight", 1, "consumer", torch.tensor([1]), rows))
    model.groups = {name: replace(g, name=name) for name, g in (("whole", whole), ("part", part))}
    found = Slices(model, "consumer").sums(lambda p: lambda rows: p.detach()[rows])
    assert found["whole"].tolist() == [0 + 2 + 4 + 6]
    assert found["part"].tolist() == [5 + 7]


def test_two_places_of_a_group_on_one_axis_both_count() -> None:
    model = HandMade()
    model.weight = nn.Parameter(torch.arange(4.0))
    one = group(
        2,
        site("weight", 0, "producer", torch.tensor([0, 1])),
        site("weight", 0, "producer", torch.tensor([3, 2])),
    )
    model.groups = {one.name: one}
    found = Slices(model, "producer").sums(lambda p: lambda rows: p.detach()[rows])
    assert found[one.name].tolist() == [0 + 3, 1 + 2]
