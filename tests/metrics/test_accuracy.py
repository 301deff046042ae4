from __future__ import annotations

import pytest
from sklearn.metrics import accuracy_score


@pytest.mark.parametrize("weighted", [False, True])
def test_equals_scikit_learn(value, clicks, weighted):
    logits, labels, weight, _ = clicks
    weight = weight if weighted else None
    expected = accuracy_score(labels, logits > 0, sample_weight=weight)
    assert value("accuracy", logits, labels, weight) == pytest.approx(expected, rel=1e-12)
