"""From edits of groups to recipes of tensors: what many axes have in common is found once."""

from dataclasses import replace

import torch

from fxplastic.gather import recipes
from fxplastic.plan import Plan
from tests.hand_made import Chain, build


def test_equal_axes_have_one_map_and_new_positions_count() -> None:
    """Two axes with the same edit, of which one has its new neurons in another order."""
    model = build(Chain)
    first, second = model.groups.values()
    take = [0, 1, 2, 3, 4, 5, 0]
    plan = Plan.from_takes(model, {first.name: take})
    wide = {
        site.parameter: replace(site, positions=torch.arange(7)[:, None]) for site in first.sites
    }
    wide["shift"] = replace(wide["shift"], positions=torch.arange(7).flip(0)[:, None])
    targets = {first.name: list(wide.values()), second.name: list(second.sites)}
    shapes = {
        "first": (4, 7), "shift": (7,), "second.weight": (6, 7), "wide.weight": (3, 11),
    }  # fmt: skip
    index = {r.name: r.maps[0].index.tolist() for r in recipes(model, plan, targets, shapes)}
    assert index == {
        "first": take,
        "shift": take[::-1],
        "second.weight": take,
        "wide.weight": [*take, 6, 7, 8, 9],
    }
