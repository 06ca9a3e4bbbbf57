"""Counts and weights of classes."""

from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from fxplastic import class_counts, class_weights
from fxplastic.errors import ScoreError


def test_labels_are_counted_from_tensors_sequences_and_loaders() -> None:
    labels = torch.tensor([0, 2, 2, 1, 2])
    expected = torch.tensor([1, 1, 3, 0])
    assert torch.equal(class_counts(labels, 4), expected)
    assert torch.equal(class_counts(labels.tolist(), 4), expected)
    assert torch.equal(class_counts(iter(labels.tolist()), 4), expected)
    loader = DataLoader(TensorDataset(torch.zeros(5, 3), labels), batch_size=2)
    assert torch.equal(class_counts(loader, 4), expected)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 4], "label 4 is out of range: with 4 classes, labels are 0 to 3"),
        ([-1, 0], "label -1 is out of range"),
        ([], "there are no labels to count"),
        (torch.zeros(0, dtype=torch.long), "there are no labels"),
        (torch.ones(3), "labels are torch.float32; give class indices"),
        ([(torch.zeros(2),)], "a batch of 1 entries has no labels"),
        ([{"x": 1}], "a batch is a dict; count from the labels"),
        (torch.eye(4, dtype=torch.long), r"labels have shape \(4, 4\); give one class index"),
    ],
)
def test_bad_labels_are_refused(labels: Any, message: str) -> None:
    with pytest.raises(ScoreError, match=message):
        class_counts(labels, 4)


@pytest.mark.parametrize("counts", [[3, 1], [10, 20, 30]])
def test_given_weights_keep_their_ratios_and_have_mean_one_over_samples(counts: list[int]) -> None:
    given = torch.arange(1.0, len(counts) + 1)
    weights = class_weights(counts, given)
    number = torch.tensor(counts, dtype=torch.float32)
    torch.testing.assert_close(weights / weights[0], given)
    assert float((weights * number).sum() / number.sum()) == pytest.approx(1.0, abs=1e-6)
    assert torch.equal(weights, class_weights(counts, given.tolist()))


@pytest.mark.parametrize(
    ("scheme", "message"),
    [
        ([1.0], r"there are \(1,\) weights for 2 classes"),
        ([1.0, -2.0], r"the weight of class 1 is -2.0"),
        ([float("nan"), 1.0], r"the weight of class 0 is nan"),
        ([0.0, 0.0], r"every class is 0"),
    ],
)
def test_bad_weights_are_refused(scheme: Any, message: str) -> None:
    with pytest.raises(ScoreError, match=message):
        class_weights([3, 1], scheme)


def test_counts_are_finite() -> None:
    with pytest.raises(ScoreError, match="class 1 has inf samples"):
        class_weights(torch.tensor([1.0, float("inf")]))


@pytest.mark.parametrize("beta", [0.0, 1.0, -1.0, float("nan")])
def test_beta_lies_between_0_and_1(beta: float) -> None:
    with pytest.raises(ScoreError, match="give a number between 0 and 1"):
        class_weights([3, 1], "effective", beta=beta)


def test_effective_numbers_are_those_of_the_formula() -> None:
    weights = class_weights([100, 10], "effective", beta=0.9)
    raw = [(1 - 0.9) / (1 - 0.9**n) for n in (100, 10)]
    scale = 110 / (raw[0] * 100 + raw[1] * 10)
    assert weights.tolist() == pytest.approx([w * scale for w in raw], rel=1e-6)
