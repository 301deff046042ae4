from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import root_mean_squared_error


def test_equals_scikit_learn(build, rows, clicks):
    logits, _, weight, _ = clicks
    targets = np.random.default_rng(2).normal(3, 2, len(logits)).astype(np.float32)
    metric = build("rmse", kind="regression", weighted=True)
    result = metric.compute(metric.update(*rows(logits, targets, weight)))
    assert result == pytest.approx(root_mean_squared_error(targets, logits, sample_weight=weight), rel=1e-6)
