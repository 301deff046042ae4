from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import mean_squared_error

from rechub_ray.errors import ConfigError


@pytest.mark.parametrize("weighted", [False, True])
def test_equals_scikit_learn(build, rows, clicks, weighted):
    logits, _, weight, _ = clicks
    targets = np.random.default_rng(1).normal(3, 2, len(logits)).astype(np.float32)
    metric = build("mse", kind="regression", weighted=weighted)
    result = metric.compute(metric.update(*rows(logits, targets, weight if weighted else None)))
    expected = mean_squared_error(targets, logits, sample_weight=weight if weighted else None)
    assert result == pytest.approx(expected, rel=1e-6)


def test_refuses_a_binary_label(build):
    with pytest.raises(ConfigError, match=r"'mse' is not defined for the binary label 'label'.*regression"):
        build("mse")
