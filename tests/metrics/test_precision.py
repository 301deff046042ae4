from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import expit
from sklearn.metrics import precision_score


@pytest.mark.parametrize("threshold", [0.1, 0.5, 0.83])
@pytest.mark.parametrize("weighted", [False, True])
def test_equals_scikit_learn(value, clicks, weighted, threshold):
    logits, labels, weight, _ = clicks
    weight = weight if weighted else None
    called = expit(logits.astype(np.float64)) > threshold
    expected = precision_score(labels, called, sample_weight=weight)
    assert value("precision", logits, labels, weight, threshold=threshold) == pytest.approx(expected, rel=1e-12)


def test_a_logit_of_zero_is_not_called(value):
    assert value("precision", [0.0, 1e-30, 2.0], [1, 0, 1]) == 0.5


def test_nothing_called_is_nan(value):
    assert math.isnan(value("precision", [-1.0, -2.0], [1, 0]))
