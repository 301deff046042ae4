from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import average_precision_score


@pytest.mark.parametrize("weighted", [False, True])
def test_equals_scikit_learn(value, clicks, weighted):
    logits, labels, weight, _ = clicks
    weight = weight if weighted else None
    expected = average_precision_score(labels, logits, sample_weight=weight)
    assert value("pr_auc", logits, labels, weight) == pytest.approx(expected, rel=1e-12)


def test_all_rows_tied_is_the_click_rate(value):
    assert value("average_precision", np.zeros(8), [1, 0, 0, 0, 1, 0, 0, 0]) == 0.25


def test_first_rows_of_weight_zero_do_not_count(value):
    weight = np.array([0.0, 1.0, 1.0])
    assert value("pr_auc", [3.0, 2.0, 1.0], [0, 0, 1], weight) == 0.5


def test_one_class(value):
    assert math.isnan(value("pr_auc", [1.0, 2.0], [0, 0]))
    assert value("pr_auc", [1.0, 2.0], [1, 1]) == 1
