from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import mean_absolute_error


@pytest.mark.parametrize("weighted", [False, True])
def test_equals_scikit_learn(build, rows, clicks, weighted):
    logits, _, weight, _ = clicks
    targets = np.random.default_rng(1).normal(3, 2, len(logits)).astype(np.float32)
    metric = build("mae", kind="regression", weighted=weighted)
    result = metric.compute(metric.update(*rows(logits, targets, weight if weighted else None)))
    expected = mean_absolute_error(targets, logits, sample_weight=weight if weighted else None)
    assert result == pytest.approx(expected, rel=1e-6)
