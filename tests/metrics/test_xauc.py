from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import somersd

from rechub_ray.metrics import Accumulator
from rechub_ray.world import World


def all_pairs(scores, labels, weight):
    """The definition, over every pair."""
    scores, labels = scores.astype(np.float64), labels.astype(np.float64)
    pair = np.outer(weight, weight) * (labels[:, None] > labels)
    return (pair * ((scores[:, None] > scores) + (scores[:, None] == scores) / 2)).sum() / pair.sum()


@pytest.fixture
def seconds(clicks):
    """Labels of so many different numbers, some negative, that go with the predictions."""

    def make(values: int) -> np.ndarray:
        noisy = clicks[0] + np.random.default_rng(3).normal(0, 2, len(clicks[0]))
        place = noisy.argsort().argsort() / len(noisy)
        return np.floor(place**2 * values).astype(np.float32) * 1.5 - 7  # the small ones are frequent

    return make


@pytest.fixture
def xauc(build, rows):
    def compute(scores, labels, weight=None):
        metric = build("xauc", kind="regression", weighted=weight is not None)
        return metric.compute(metric.update(*rows(np.asarray(scores), np.asarray(labels), weight)))

    return compute


@pytest.mark.parametrize("values", [2, 3, 4, 7, 60])
@pytest.mark.parametrize("weighted", [False, True])
def test_equals_all_pairs(xauc, clicks, seconds, values, weighted):
    scores, labels, weight = clicks[0], seconds(values), clicks[2]
    assert len(np.unique(labels)) == values
    expected = all_pairs(scores, labels, weight.astype(np.float64) if weighted else np.ones(len(scores)))
    assert xauc(scores, labels, weight if weighted else None) == pytest.approx(expected, rel=1e-12)


def test_equals_somers_d(xauc, clicks, seconds):
    expected = (somersd(seconds(60), clicks[0]).statistic + 1) / 2
    assert xauc(clicks[0], seconds(60)) == pytest.approx(expected, rel=1e-12)


def test_of_two_labels_is_the_auc(xauc, value, clicks):
    scores, labels, weight, _ = clicks
    assert xauc(scores, labels, weight) == pytest.approx(value("auc", scores, labels, weight), rel=1e-12)


def test_parts_give_the_whole(build, rows, xauc, clicks, seconds):
    scores, labels, weight = clicks[0], seconds(60), clicks[2]
    metric = build("xauc", kind="regression", weighted=True)
    accumulator = Accumulator(metric)
    for part in np.array_split(np.random.default_rng(0).permutation(len(scores)), 7):
        accumulator.add(metric.add(*rows(scores[part], labels[part], weight[part])))
    state = accumulator.merged(World(), device=torch.device("cpu"))
    assert state is not None
    assert metric.compute(state) == pytest.approx(xauc(scores, labels, weight), rel=1e-12)


def test_only_the_order_counts(xauc):
    assert xauc([-3.0, 0.1, 0.2, 900.0], [0.5, 2.0, 2.5, 1e30]) == 1.0
    assert xauc([4.0, 3.0, 2.0], [1.0, 2.0, 3.0]) == 0.0
    assert xauc([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]) == 0.5


def test_equal_labels_are_nan(xauc):
    assert math.isnan(xauc([1.0, 2.0], [3.0, 3.0]))
    assert math.isnan(xauc([1.0], [3.0]))
