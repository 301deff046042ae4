from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import expit


@pytest.mark.parametrize("weighted", [False, True])
def test_is_predicted_over_observed_clicks(value, clicks, weighted):
    logits, labels, weight, _ = clicks
    labels, weight = labels.astype(np.float64), weight.astype(np.float64)
    used = weight if weighted else np.ones_like(weight)
    expected = np.average(expit(logits.astype(np.float64)), weights=used) / np.average(labels, weights=used)
    assert value("calibration", logits, labels, weight if weighted else None) == pytest.approx(expected, rel=1e-12)


def test_too_much_promised_is_above_one(value):
    assert value("calibration", [0.0, 0.0, 0.0, 0.0], [1, 0, 0, 0]) == 2.0


def test_no_click_is_nan(value):
    assert math.isnan(value("calibration", [0.0, 1.0], [0, 0]))
