from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import expit
from sklearn.metrics import log_loss


@pytest.mark.parametrize("weighted", [False, True])
def test_is_the_log_loss_over_that_of_the_click_rate(value, clicks, weighted):
    logits, labels, weight, _ = clicks
    weight = weight.astype(np.float64) if weighted else None
    rate = np.full(len(labels), np.average(labels.astype(np.float64), weights=weight))
    expected = log_loss(labels, expit(logits.astype(np.float64)), sample_weight=weight) / log_loss(
        labels, rate, sample_weight=weight
    )
    assert value("normalized_entropy", logits, labels, weight) == pytest.approx(expected, rel=1e-12)
    assert expected < 0.9


def test_the_click_rate_itself_gives_one(value):
    assert value("ne", [math.log(1 / 3)] * 4, [1, 0, 0, 0]) == pytest.approx(1, rel=1e-6)


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_is_nan(value, label):
    assert math.isnan(value("ne", [0.5, -1.0], [label, label]))
