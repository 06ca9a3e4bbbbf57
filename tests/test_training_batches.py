"""Batches depend on seed and epoch alone, whatever the kind of the data set."""

import ast
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset

import fxplastic
from fxplastic.data import LongTailed, load
from fxplastic.training import Config
from fxplastic.training.batches import test_batches as batches_of_test
from fxplastic.training.batches import training_batches

SAMPLES = 9


class Files(Dataset[tuple[Tensor, int]]):
    """Stands for images in files: a sample is its index, and a number drawn when it is loaded."""

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.tensor([[[float(index), float(torch.rand(()))]]]), index % 2


def in_files() -> LongTailed:
    labels = torch.arange(SAMPLES) % 2
    return LongTailed("files", Files(), Files(), ("a", "b"), (5, 4), (1, 1, 2), labels)


@pytest.fixture(scope="module")
def digits() -> LongTailed:
    return load("digits-lt", imbalance=400)


def drawn(data: LongTailed, how: Config, epoch: int) -> list[Tensor]:
    return [images for images, _ in training_batches(data, how, epoch)]


def equal(ours: list[Tensor], theirs: list[Tensor]) -> bool:
    return len(ours) == len(theirs) and all(map(torch.equal, ours, theirs))


def test_sets_in_memory_give_the_same_batches_whatever_else_is_drawn(digits: LongTailed):
    how = Config(batch=64, seed=3)
    first = drawn(digits, how, 2)
    torch.rand(5)
    assert equal(drawn(digits, how, 2), first)
    assert not equal(drawn(digits, how, 3), first)
    assert not equal(drawn(digits, replace(how, seed=4), 2), first)


@pytest.mark.parametrize("workers", [0, 1])
def test_image_files_give_the_same_batches_from_the_same_seed(workers: int):
    how = Config(batch=3, workers=workers)
    torch.manual_seed(7)
    first = drawn(in_files(), how, 1)
    torch.manual_seed(7 if workers == 0 else 8)  # workers are seeded from the epoch
    assert equal(drawn(in_files(), how, 1), first)
    assert sorted(int(row[0, 0, 0]) for images in first for row in images) == list(range(SAMPLES))


def test_a_last_batch_of_one_is_left_out():
    sizes = [len(images) for images in drawn(in_files(), Config(batch=4), 1)]
    assert sizes == [4, 4]
    assert [len(images) for images in drawn(in_files(), Config(batch=5), 1)] == [5, 4]


def test_the_test_set_comes_whole_in_order_and_as_it_is(digits: LongTailed):
    pairs = list(batches_of_test(digits, len(digits.test), Config(batch=128)))
    assert torch.equal(torch.cat([labels for _, labels in pairs]), digits.test.labels)
    assert torch.equal(pairs[0][0][5], digits.test[5][0])
    files = list(batches_of_test(in_files(), SAMPLES, Config(batch=8)))
    assert [len(labels) for _, labels in files] == [8, 1]


def test_neither_the_pass_nor_the_data_imports_training():
    root = Path(fxplastic.__file__).parent
    folders = [root, root / "rules", root / "data"]
    for path in [path for folder in folders for path in folder.glob("*.py")]:
        if path.name == "cli.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            assert not any(name.startswith("fxplastic.training") for name in names), path
