"""Why neurons are frozen: the first reason counts, and the record says how much it concerns."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import fxplastic
from fxplastic import PlasticModule


class Free(nn.Module):
    """Eight neurons between two layers, and a forward to be given."""

    def __init__(self, run: Callable[[Any, Tensor], Any], **buffers: Tensor) -> None:
        super().__init__()
        self.a, self.b, self.run = nn.Linear(5, 8), nn.Linear(8, 3), run
        for name, value in buffers.items():
            self.register_buffer(name, value)

    def forward(self, x: Tensor) -> Any:
        return self.run(self, self.a(x))


def found(run: Callable[[Any, Tensor], Any], freeze: tuple[str, ...] = (), **buffers: Tensor) -> (
    PlasticModule
):  # fmt: skip
    return fxplastic.plasticize(Free(run, **buffers), torch.zeros(2, 5), freeze=freeze)


def reasons(plastic: PlasticModule) -> list[tuple[str, int]]:
    """Why neurons of the layer between are frozen, and how many."""
    return [(r.reason, r.positions) for r in plastic.frozen if r.parameter == "a.bias"]


def test_what_was_asked_for_comes_before_what_was_found() -> None:
    def run(s: Any, h: Tensor) -> Tensor:
        return s.b(h.softmax(1))

    assert reasons(found(run)) == [("aten._softmax.default runs over it", 8)]
    assert reasons(found(run, freeze=("a.*",))) == [("you asked for it (freeze='a.*')", 8)]


def test_a_neuron_that_is_an_output_alone_is_frozen_and_no_other() -> None:
    plastic = found(lambda s, h: (s.b(h), h[:, 3]))
    ((reason, count),) = reasons(plastic)
    assert "output of the model" in reason
    assert count == 1
    (group,) = plastic.groups.values()
    positions = next(site.positions for site in group.sites if site.parameter == "a.bias")
    assert positions.flatten().tolist() == [0, 1, 2, 4, 5, 6, 7]


def test_what_one_op_says_of_several_neurons_is_one_record() -> None:
    plastic = found(lambda s, h: s.b(h.relu()) + h[:, 0:1] * h[:, 3:4])
    ((reason, count),) = reasons(plastic)
    assert "uses this neuron alone" in reason
    assert count == 2


def test_a_number_that_counts_is_no_index_that_stays() -> None:
    """A buffer that is a single number is there to be changed between calls."""

    def run(s: Any, h: Tensor) -> Tensor:
        return s.b(h) + h.index_select(1, s.step.reshape(1))

    assert reasons(found(run, step=torch.tensor([3])))[0][1] == 1
    ((reason, count),) = reasons(found(run, step=torch.tensor(3)))
    assert "values that are not known" in reason
    assert count == 8


def test_what_nothing_takes_up_is_no_group() -> None:
    plastic = found(lambda s, h: s.b(torch.ones(2, 8)))
    assert not plastic.groups
    ((reason, count),) = reasons(plastic)
    assert "no parameter takes its signal up" in reason
    assert count == 8


def test_an_axis_that_is_scaled_and_used_as_it_stands_is_frozen() -> None:
    plastic = found(lambda s, h: s.b(h + s.b.weight[0]))
    assert not plastic.groups
    assert any("takes the signal up in one place" in reason for reason, _ in reasons(plastic))
