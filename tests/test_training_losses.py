"""Losses for long-tailed classes, against values computed by hand."""

import math

import pytest
import torch

from fxplastic.errors import ScoreError, TrainingError
from fxplastic.training import check_labels, make_loss

COUNTS = (6, 3, 1)
LOGITS = torch.tensor([[2.0, 1.0, 0.0], [0.5, -1.0, 0.25]])
LABELS = torch.tensor([0, 2])


def log_softmax(row: list[float], label: int) -> float:
    return row[label] - math.log(sum(math.exp(value) for value in row))


def losses(offset: tuple[float, ...] = (0.0, 0.0, 0.0)) -> list[float]:
    rows = [[a + b for a, b in zip(row, offset, strict=True)] for row in LOGITS.tolist()]
    return [-log_softmax(row, label) for row, label in zip(rows, LABELS.tolist(), strict=True)]


def test_cross_entropy_is_the_mean_over_samples():
    loss = make_loss("cross_entropy", COUNTS)
    assert float(loss(LOGITS, LABELS, 1)) == pytest.approx(sum(losses()) / 2, abs=1e-6)


def test_weighted_multiplies_each_sample_by_its_classs_weight():
    # Inverse frequency with a mean of 1 over the ten samples: 10 / (3 classes * count).
    weights = [10 / (3 * COUNTS[label]) for label in (0, 2)]
    expected = sum(w * value for w, value in zip(weights, losses(), strict=True)) / 2
    loss = make_loss("weighted", COUNTS)
    assert float(loss(LOGITS, LABELS, 1)) == pytest.approx(expected, rel=1e-5)


def test_deferred_reweighting_is_plain_and_then_by_the_effective_number():
    loss = make_loss("drw", COUNTS, start=5)
    assert float(loss(LOGITS, LABELS, 4)) == pytest.approx(sum(losses()) / 2, abs=1e-6)
    weights = [1e-4 / (1 - 0.9999 ** COUNTS[label]) for label in (0, 2)]
    products = [w * value for w, value in zip(weights, losses(), strict=True)]
    assert float(loss(LOGITS, LABELS, 5)) == pytest.approx(sum(products) / sum(weights), rel=1e-5)


@pytest.mark.parametrize("tau", [1.0, 0.5])
def test_logit_adjustment_adds_the_log_prior_to_the_logits(tau: float):
    offset = tuple(tau * math.log(count / 10) for count in COUNTS)
    loss = make_loss("logit_adjustment", COUNTS, tau=tau)
    assert float(loss(LOGITS, LABELS, 1)) == pytest.approx(sum(losses(offset)) / 2, abs=1e-6)


def test_an_unknown_loss_is_refused_with_the_known_ones():
    with pytest.raises(TrainingError, match=r"loss='focal'; give one of cross_entropy, weighted"):
        make_loss("focal", COUNTS)


@pytest.mark.parametrize("name", ["cross_entropy", "weighted", "drw", "logit_adjustment"])
def test_no_loss_takes_a_class_without_samples(name: str):
    with pytest.raises(ScoreError, match="class 1 has 0 samples"):
        make_loss(name, [4, 0])


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1, 3], "sample 2 has label 3.*from 0 to 2"),
        ([0, -1, 2], "sample 1 has label -1"),
        ([0, 2, 2], "class 1 has no training sample"),
    ],
)
def test_bad_labels_are_named(labels: list[int], message: str):
    with pytest.raises(TrainingError, match=message):
        check_labels(torch.tensor(labels), 3)


def test_labels_of_another_type_are_refused():
    with pytest.raises(TrainingError, match=r"labels are torch.float32 of shape \(2,\)"):
        check_labels(torch.zeros(2), 3)


def test_the_loss_of_few_shot_classes_leaves_the_others_out():
    counts = [100, 10, 5]
    loss = make_loss("few", counts)
    logits, labels = torch.randn(6, 3), torch.tensor([0, 0, 1, 2, 1, 0])
    own = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    scale = 115 / 2  # so that the mean weight over all samples is one: 10 w1 = 5 w2 = 115 / 2
    expected = (own * torch.tensor([0.0, scale / 10, scale / 5])[labels]).mean()
    torch.testing.assert_close(loss(logits, labels, 1), expected)
    with pytest.raises(TrainingError, match="fewer than 20 samples, and the rarest has 20"):
        make_loss("few", [100, 20])


@pytest.mark.parametrize("tau", [0.0, -1.0, float("nan"), float("inf")])
def test_the_strength_of_an_adjustment_is_a_number_above_0(tau: float):
    with pytest.raises(TrainingError, match="give a number above 0"):
        make_loss("logit_adjustment", [3, 1], tau=tau)
