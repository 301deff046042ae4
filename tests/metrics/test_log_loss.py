from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit
from sklearn.metrics import log_loss


@pytest.mark.parametrize("weighted", [False, True])
def test_equals_scikit_learn(value, clicks, weighted):
    logits, labels, weight, _ = clicks
    weight = weight if weighted else None
    expected = log_loss(labels, expit(logits.astype(np.float64)), sample_weight=weight)
    assert value("log_loss", logits, labels, weight) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("logit", "label", "expected"), [(1e4, 1, 0.0), (1e4, 0, 1e4), (-1e4, 1, 1e4), (0, 1, np.log(2))]
)
def test_extreme_logits(value, logit, label, expected):
    assert value("log_loss", [logit], [label]) == pytest.approx(expected, rel=1e-12)


def test_small_losses_keep_their_digits(value):
    assert value("log_loss", [30.0], [1]) == pytest.approx(np.log1p(np.exp(-30.0)), rel=1e-12)
