"""The ledger's shortcuts: what is said once, and what counts as said since a mark."""

import numpy as np
import pytest

from fxplastic.identity import Field
from fxplastic.ledger import Ledger, Place


def fields(ledger: Ledger, *lengths: int) -> list[Field]:
    """One field for each new site."""
    numbers = [ledger.new_site("weight", axis, n) for axis, n in enumerate(lengths)]
    return [Field.of_site(ledger.atoms(number), number) for number in numbers]


def open_after(ledger: Ledger, f: Field, mark: tuple[int, int, int, int]) -> list[int]:
    return sorted(ledger.unaccounted([f], mark).tolist())


def test_only_what_is_said_after_the_mark_accounts_for_an_atom() -> None:
    for say in (
        lambda ledger, f, g: ledger.unite(f.array, g.array),
        lambda ledger, f, g: ledger.unite_whole(f, g),
        lambda ledger, f, g: ledger.use(f.array, np.zeros(1, np.uint64)),
        lambda ledger, f, g: ledger.freeze(f.array, "why", "attention"),
    ):
        ledger = Ledger()
        f, g = fields(ledger, 3, 3)
        before = ledger.mark()
        say(ledger, f, g)
        after = ledger.mark()
        assert open_after(ledger, f, before) == []
        assert open_after(ledger, f, after) == [1, 2, 3]


def test_what_is_fixed_or_told_apart_by_group_needs_no_word() -> None:
    ledger = Ledger()
    f, g = fields(ledger, 3, 2)
    ledger.freeze(f.array[:1], "why", "law")
    ledger.split_site(1, 2)
    assert open_after(ledger, f, ledger.mark()) == [2, 3]
    assert open_after(ledger, g, ledger.mark()) == []


def test_a_kind_that_an_option_opens_is_not_fixed_for_good() -> None:
    ledger = Ledger()
    f, g = fields(ledger, 2, 2)
    ledger.freeze(f.array, "why", "attention")
    ledger.freeze(g.array, "why", "law")
    assert not ledger.fixed.holds(f.array).any()
    assert ledger.fixed.holds(g.array).all()


def test_what_one_node_says_again_is_written_down_once() -> None:
    ledger = Ledger(place=Place("add"), op="aten.add.Tensor")
    f, g = fields(ledger, 6, 6)
    square = Field(f.ids.reshape(2, 3)), Field(g.ids.reshape(2, 3))
    other = f.laid_out(f.ids.reshape(2, 3)), g.laid_out(g.ids.reshape(3, 2).t())
    assert other[0].root is f.root
    for a, b in ((f, g), (f, g), other, other, square):
        ledger.unite_whole(a, b)
    assert [e.partners[0].tolist() for e in ledger.events] == [
        [7, 8, 9, 10, 11, 12],
        [7, 9, 11, 8, 10, 12],  # the same atoms in another layout are other pairs
        [7, 8, 9, 10, 11, 12],
    ]
    ledger.place = Place("add_1")
    ledger.unite_whole(f, g)
    assert ledger.events[-1].place.node == "add_1"
    ledger.op = "aten.mul.Tensor"
    ledger.unite_whole(f, g)
    assert [e.op for e in ledger.events[-2:]] == ["aten.add.Tensor", "aten.mul.Tensor"]


@pytest.mark.parametrize("first", [True, False])
def test_a_neuron_that_meets_an_axis_without_neurons_is_frozen(first: bool) -> None:
    ledger = Ledger()
    (f,) = fields(ledger, 3)
    met = np.array([-1, 0, -3], np.int32)
    ledger.unite(*((f.array, met) if first else (met, f.array)))
    assert [freeze.ids.tolist() for freeze in ledger.freezes] == [[1, 3]]
    assert [event.ids.tolist() for event in ledger.events] == [[1, 2, 3]]


def test_training_has_its_own_list_of_what_eval_mode_worked_on() -> None:
    ledger = Ledger(place=Place("linear"), witness={})
    ledger.bear_witness("a number")
    ledger.same_in_training()
    ledger.bear_witness("another")
    assert ledger.witness == {
        (False, "linear"): ["a number", "another"],
        (True, "linear"): ["a number"],
    }
