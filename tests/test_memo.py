"""What is said of calls on meta without executing them is what executing them gives."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from fxplastic import memo

batch_norm = torch.ops.aten.native_batch_norm.default


def meta(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, device="meta", dtype=dtype)


def looks(result: Any) -> list[tuple[Any, ...]]:
    outs = result if isinstance(result, tuple) else (result,)
    return [(tuple(t.shape), t.stride(), t.dtype, t.device.type) for t in outs]


def remembered(func: Any, *args: Any) -> Any:
    return memo.on_meta_tensors(func, args, {}, memo.key_of(func, args, {}))


SHAPES = [(2, 6), (2, 6, 5), (2, 6, 4, 3), (1, 6, 1, 1), (2, 6, 2, 3, 4)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_gives_what_is_foretold(
    shape: tuple[int, ...], dtype: torch.dtype, training: bool
) -> None:
    told = 0
    for with_weight, with_statistics in itertools.product([True, False], repeat=2):
        if not (training or with_statistics) or (training and shape == (1, 6, 1, 1)):
            continue
        vectors = [meta(6, dtype=dtype) if w else None for w in [with_weight] * 2]
        vectors += [meta(6, dtype=dtype) if s else None for s in [with_statistics] * 2]
        args = (meta(*shape, dtype=dtype), *vectors, training, 0.1, 1e-5)
        told += memo.batch_norm_gives(*args) is not None
        expected = looks(batch_norm(*args))
        assert looks(remembered(batch_norm, *args)) == expected
        assert looks(remembered(batch_norm, *args)) == expected
    assert (told > 0) == (dtype != torch.bfloat16 and not (training and shape[0] == 1))


@pytest.mark.parametrize("layout", [torch.channels_last, None])
def test_nothing_is_foretold_of_other_layouts(layout: torch.memory_format | None) -> None:
    x = meta(2, 6, 4, 3)
    x = x.transpose(2, 3) if layout is None else x.to(memory_format=layout)
    args = (x, *[meta(6)] * 4, True, 0.1, 1e-5)
    assert memo.batch_norm_gives(*args) is None
    assert looks(remembered(batch_norm, *args)) == looks(batch_norm(*args))


def test_sizes_that_do_not_fit_still_fail() -> None:
    args = (meta(2, 6, 4, 3), *[meta(7)] * 4, True, 0.1, 1e-5)
    with pytest.raises(RuntimeError):
        remembered(batch_norm, *args)
    args = (meta(1, 6, 1, 1), *[meta(6)] * 4, True, 0.1, 1e-5)  # one value has no variance
    with pytest.raises(ZeroDivisionError):
        remembered(batch_norm, *args)


def test_what_writes_to_its_first_argument_gives_it_back() -> None:
    for _ in range(2):
        x = meta(2, 6)
        assert remembered(torch.ops.aten.add_.Tensor, x, meta(6)) is x
        y = meta(2, 6)
        assert remembered(torch.ops.aten.t_.default, y) is y
        assert y.shape == (6, 2)  # a layout that changes is changed each time
        with pytest.raises(RuntimeError):
            remembered(torch.ops.aten.add_.Tensor, meta(2, 6), meta(5))


def test_equal_numbers_of_other_types_are_other_calls() -> None:
    memo.forget()
    add, flags = torch.ops.aten.add.Tensor, meta(2, 6, dtype=torch.bool)
    dtypes = [remembered(add, flags, number).dtype for number in (1, 1.0, True)]
    assert dtypes == [torch.int64, torch.float32, torch.bool]


def test_a_call_on_tensors_with_values_is_no_repeat_of_one_on_meta() -> None:
    memo.forget()
    for func in (torch.ops.aten.add.Tensor, torch.ops.aten.add_.Tensor):
        remembered(func, meta(2), meta(2))
        assert remembered(func, torch.ones(2), torch.ones(2)).tolist() == [2.0, 2.0]


def test_what_shows_the_memory_of_an_argument_is_made_each_time() -> None:
    memo.forget()
    x = meta(2, 6)
    for _ in range(2):  # its schema does not say that it is a view
        shown = remembered(torch.ops.aten._unsafe_view.default, x, [12])
        assert shown.untyped_storage()._cdata == x.untyped_storage()._cdata
