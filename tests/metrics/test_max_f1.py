from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import f1_score


@pytest.mark.parametrize("weighted", [False, True])
def test_is_the_best_over_every_threshold(value, clicks, weighted):
    logits, labels, weight, _ = clicks
    weight = weight if weighted else None
    scores = [f1_score(labels, logits >= threshold, sample_weight=weight) for threshold in np.unique(logits)]
    assert value("max_f1", logits, labels, weight) == pytest.approx(max(scores), rel=1e-12)
    assert scores[0] < max(scores)
    assert scores[-1] < max(scores)


def test_rows_that_tie_come_together(value):
    assert value("max_f1", [1.0, 1.0, 0.0], [1, 0, 0]) == pytest.approx(2 / 3)


def test_one_class(value):
    assert math.isnan(value("max_f1", [1.0, 2.0], [0, 0]))
    assert value("max_f1", [1.0, 2.0], [1, 1]) == 1
