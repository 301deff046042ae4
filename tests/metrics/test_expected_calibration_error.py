from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit


def loop(probabilities, labels, weight, bins):
    labels, weight = labels.astype(np.float64), weight.astype(np.float64)
    total = 0.0
    for b in range(bins):
        mine = (probabilities >= b / bins) & ((probabilities < (b + 1) / bins) | (b == bins - 1))
        if weight[mine].sum() > 0:
            gap = np.average(labels[mine], weights=weight[mine]) - np.average(probabilities[mine], weights=weight[mine])
            total += weight[mine].sum() / weight.sum() * abs(gap)
    return total


@pytest.mark.parametrize("bins", [1, 10, 15])
@pytest.mark.parametrize("weighted", [False, True])
def test_equals_a_plain_loop(value, clicks, bins, weighted):
    logits, labels, weight, _ = clicks
    used = weight if weighted else np.ones_like(weight)
    expected = loop(expit(logits.astype(np.float64)), labels, used, bins)
    result = value("expected_calibration_error", logits, labels, weight if weighted else None, bins=bins)
    assert result == pytest.approx(expected, rel=1e-9)
    assert result > 1e-3


def test_errors_of_both_signs_do_not_cancel_between_bins(value):
    logits = np.log([0.2 / 0.8, 0.8 / 0.2])  # right on average, wrong in each bin
    assert value("expected_calibration_error", logits, [1, 0]) == pytest.approx(0.8)
    assert value("expected_calibration_error", logits, [1, 0], bins=1) == pytest.approx(0.0, abs=1e-7)


def test_probability_one_falls_into_the_last_bin(value):
    assert value("expected_calibration_error", [100.0, -1000.0], [1, 0]) == pytest.approx(0.0, abs=1e-12)
