"""Sets of atoms, which names tell others apart, and calls that are remembered."""

from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch import Tensor, nn

import fxplastic
from fxplastic import identity
from fxplastic.atom_set import AtomSet
from fxplastic.identity import Field, add_field, determines
from fxplastic.memo import key_of, on_meta_tensors

IDS = arrays.arrays(np.int32, st.integers(1, 12), elements=st.integers(-4, 3000) | st.just(10**7))


@given(st.lists(IDS, max_size=4), IDS)
def test_a_set_of_atoms_holds_what_was_added_and_no_position_that_is_no_atom(added, asked):
    atoms, plain = AtomSet(), set()
    for ids in added:
        atoms.add(ids)
        plain |= {int(i) for i in ids if i > 0}
    assert atoms.empty == (not plain)
    assert atoms.holds(asked).tolist() == [int(i) in plain for i in asked]


NAME = st.sampled_from([-3, -2, -1, 0, 1, 2, 3, 10**6])
SMALL = st.lists(st.tuples(NAME, NAME), min_size=1, max_size=12)


@given(SMALL, st.sampled_from([1, 2, 4096]))
def test_a_name_determines_another_if_equal_names_stand_beside_equal_ones(pairs, glance):
    finer, coarser = (np.array(column, np.int32) for column in zip(*pairs, strict=True))
    told = {}
    expected = all(told.setdefault(a, b) == b for a, b in pairs)
    with mock.patch.object(identity, "_GLANCE", glance):
        assert determines(finer, coarser) == expected


@given(IDS)
def test_facts_about_a_field_survive_other_carriers(ids):
    field = Field(torch.from_numpy(ids), frozenset({1}))
    before = (field.axes, field.neural, field.distinct)
    other = field.with_carriers(None)
    assert (other.axes, other.neural, other.distinct, other.carriers) == (*before, None)
    fresh = Field(torch.from_numpy(ids))
    assert before == (fresh.axes, fresh.neural, fresh.distinct)
    assert field.distinct == (np.unique(ids).size == ids.size)


LINES = st.lists(
    st.lists(st.integers(-3, 0), min_size=6, max_size=6), min_size=identity.MAX_OPAQUE + 1,
    max_size=identity.MAX_OPAQUE + 6,
)  # fmt: skip


@given(LINES)
def test_many_opaque_names_along_one_axis_become_what_they_tell_together(lines):
    fields = [Field(torch.arange(1, 3, dtype=torch.int32).reshape(1, 2))]
    for line in lines:
        add_field(fields, Field(torch.tensor(line, dtype=torch.int32).reshape(6, 1)))
    found = [f for f in fields if not f.neural]
    assert len(found) <= identity.MAX_OPAQUE
    assert sum(f.neural for f in fields) == 1
    told = list(zip(*(f.ids.flatten().tolist() for f in found), strict=True)) or [()] * 6
    wanted = list(zip(*lines, strict=True))
    for i in range(6):
        assert [told[i] == told[j] for j in range(6)] == [wanted[i] == wanted[j] for j in range(6)]


class Dense(nn.Module):
    """Each layer adds a piece to the axis that all the others read."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(6 + 4 * i, 4) for i in range(14))
        self.first, self.last = nn.Linear(5, 6), nn.Linear(6 + 4 * 14, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for layer in self.layers:
            x = torch.cat([x, torch.relu(layer(x))], -1)
        return self.last(x)


def test_many_pieces_on_one_axis_stay_groups():
    model = Dense().double()
    x = torch.randn(3, 5, dtype=torch.float64)
    plastic = fxplastic.plasticize(model, x, verify=True)
    assert {g.size for g in plastic.groups.values()} == {4, 6}
    assert len(plastic.groups) == 15


A = torch.ops.aten
CALLS = [
    (A.add.Tensor, lambda t: (t(2, 3), t(3))),
    (A.mean.default, lambda t: (t(2, 3),)),
    (A.add.Tensor, lambda t: (t(2, 3), 1)),
    (A.add.Tensor, lambda t: (t(2, 3).t(), 1.0)),
    (A.var_mean.correction, lambda t: (t(2, 3), [1])),
    (A.max.dim, lambda t: (t(2, 3), 1)),
    (A.eq.Scalar, lambda t: (t(2, 3), 0)),
    (A.clone.default, lambda t: (t(2, 3).t(),)),
]


def executed(func, args, kwargs):
    return on_meta_tensors(func, args, kwargs, key_of(func, args, kwargs))


@pytest.mark.parametrize("number", range(len(CALLS)))
def test_a_remembered_call_gives_what_the_call_gives(number):
    func, make = CALLS[number]
    args = make(lambda *shape: torch.empty(shape, device="meta"))
    plain = func(*args)
    for _ in range(2):
        found = executed(func, args, {})
        ours, theirs = (x if isinstance(x, tuple) else (x,) for x in (found, plain))
        assert isinstance(found, tuple) == isinstance(plain, tuple)
        for one, other in zip(ours, theirs, strict=True):
            assert (one.shape, one.stride(), one.dtype) == (
                other.shape, other.stride(), other.dtype,
            )  # fmt: skip
            assert one.is_meta
            assert one is not other


def test_views_and_writes_are_never_remembered():
    x = torch.empty(2, 3, device="meta")
    for _ in range(2):
        assert executed(A.t.default, (x,), {})._base is x
        assert executed(A.add_.Tensor, (x, 1), {}) is x
        assert executed(A.arange.default, (3,), {"device": "cpu"}).tolist() == [0, 1, 2]
