"""Slot coverage: what counts, with which weight, and what rows do to it."""

import pytest
import torch
from torch import nn

from fxplastic.coverage import coverage, covered_share, frozen_reasons
from fxplastic.groups import ChannelGroup, FrozenAxis, Site


def site(axis: int, positions: list[list[int]], rows: list[list[int]] | None = None) -> Site:
    where = None if rows is None else torch.tensor(rows)
    return Site("weight", axis, "consumer", torch.tensor(positions), where)


def group(*sites: Site, exact: bool = True) -> dict[str, ChannelGroup]:
    size = sites[0].positions.shape[0]
    return {"g": ChannelGroup("g", size, exact, sites, (0,) * size)}


def test_axes_are_weighted_by_the_elements_of_their_parameter():
    linear = nn.Linear(2, 3)  # weight 6 elements on two axes, bias 3 on one: 15 in all
    bias = Site("bias", 0, "producer", torch.arange(3)[:, None])
    assert coverage(linear.named_parameters(), group(bias)).share == pytest.approx(3 / 15)
    half = site(1, [[0]])
    assert coverage(linear.named_parameters(), group(half)).share == pytest.approx(3 / 15)


def test_only_exact_groups_and_parameters_count():
    linear = nn.Linear(2, 3)
    assert coverage(linear.named_parameters(), group(site(0, [[0], [1]]), exact=False)).share == 0
    buffer = Site("running_mean", 0, "producer", torch.arange(3)[:, None])
    assert coverage(linear.named_parameters(), group(buffer)).share == 0


def test_kernel_axes_do_not_count():
    weight = torch.Size((4, 2, 3))
    assert covered_share(weight, 0, [site(0, [[0], [1], [2], [3]])]) == 1.0
    conv = nn.Conv1d(2, 4, 3, bias=False)
    assert coverage(conv.named_parameters(), group(site(2, [[0], [1]]))).share == 0


def test_a_position_in_two_sites_counts_once():
    assert covered_share(torch.Size((4, 4)), 1, [site(1, [[0], [1]]), site(1, [[1], [2]])]) == 0.75


def test_rows_cover_pairs_of_row_and_position():
    # Two groups of a grouped convolution, [4, 2]: rows 0-1 see neurons 0-1, rows 2-3 neurons 2-3.
    first_group = site(1, [[0], [1]], rows=[[0, 1], [0, 1]])
    second_group = site(1, [[0], [1]], rows=[[2, 3], [2, 3]])
    assert covered_share(torch.Size((4, 2)), 1, [first_group]) == 0.5
    assert covered_share(torch.Size((4, 2)), 1, [first_group, second_group]) == 1.0


def test_neurons_and_their_slots_are_counted():
    flat = site(1, [[0, 1], [2, 3]])  # flatten: each neuron has two inputs of the linear
    reach = coverage(nn.Linear(4, 2).named_parameters(), group(flat, site(0, [[0], [1]])))
    assert (reach.neurons, reach.slots_per_neuron) == (2, 3.0)


def test_a_model_without_parameters_has_no_coverage():
    assert coverage([], {}).share == 0.0


def test_reasons_are_summed_and_sorted_by_positions():
    axes = [FrozenAxis("a", 0, "rare", "", "", 1), FrozenAxis("b", 0, "often", "", "", 2)]
    assert frozen_reasons([*axes, FrozenAxis("c", 1, "often", "", "", 3)]) == (
        ("often", 5),
        ("rare", 1),
    )
