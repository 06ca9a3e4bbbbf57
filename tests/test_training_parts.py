"""Parts of a run by themselves: accuracies, random states, the learning rate."""

import random

import numpy as np
import pytest
import torch

from fxplastic.data import load
from fxplastic.errors import TrainingError
from fxplastic.training import Config
from fxplastic.training.build import lr_factor
from fxplastic.training.evaluation import accuracy, predictions
from fxplastic.training.randomness import random_states, restore_random_states, seed_all


def test_predictions_that_are_not_finite_are_refused():
    data = load("digits-lt")
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(1024, 10))
    predictions(model, data, Config(), torch.device("cpu"))
    torch.nn.init.constant_(model[1].weight, float("nan"))
    with pytest.raises(TrainingError, match="logits of test images are not finite"):
        predictions(model, data, Config(), torch.device("cpu"))


def test_random_states_come_back():
    def drawn() -> tuple[float, float, float]:
        return float(torch.rand(())), float(np.random.rand()), random.random()

    seed_all(3, 1)
    np.random.randn()  # leaves a second Gaussian number behind, which is part of the state
    states = random_states()
    first = drawn()
    seed_all(3, 2)
    assert drawn() != first
    restore_random_states(states)
    assert drawn() == first


def test_accuracies_by_split_are_means_over_classes():
    truth = torch.tensor([0, 0, 0, 0, 1, 1, 2])
    found = torch.tensor([0, 0, 0, 1, 1, 0, 0])
    result = accuracy(truth, found, 4, {"many": (0, 1), "medium": (), "few": (2, 3)})
    assert result.top1 == pytest.approx(100 * 4 / 7)
    assert result.per_class == (75.0, 50.0, 0.0, None)  # class 3 has no test sample
    assert result.splits == {"many": 62.5, "medium": None, "few": 0.0}


def test_the_learning_rate_warms_up_and_then_falls_to_zero():
    rates = [lr_factor(step, 10, 50) for step in range(50)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[:10] == sorted(rates[:10])
    assert max(rates) == rates[9] == rates[10] == 1.0
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert 0 < rates[-1] < 0.01
