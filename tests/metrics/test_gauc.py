from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from rechub_ray.errors import ConfigError
from rechub_ray.metrics import GAUC
from rechub_ray.schema import Label, Schema


def loop(logits, labels, weight, group, *, weighting):
    """The definition, one group after the other."""
    labels, weight = labels.astype(np.float64), weight.astype(np.float64)
    total = size = skipped = 0.0
    for name in np.unique(group):
        mine = (group == name) & (weight > 0)
        if len(np.unique(labels[mine])) < 2:
            skipped += 1
            continue
        n = {"impressions": weight[mine].sum(), "clicks": (weight[mine] * labels[mine]).sum(), "equal": 1}[weighting]
        total += n * roc_auc_score(labels[mine], logits[mine], sample_weight=weight[mine])
        size += n
    assert skipped > 5  # the data has groups of one class
    return total / size


@pytest.mark.parametrize("weighting", ["impressions", "clicks", "equal"])
@pytest.mark.parametrize("weighted", [False, True])
def test_equals_a_plain_loop(value, clicks, weighting, weighted):
    logits, labels, weight, group = clicks
    expected = loop(logits, labels, weight if weighted else np.ones_like(weight), group, weighting=weighting)
    result = value("gauc", logits, labels, weight if weighted else None, group, weighting=weighting)
    assert result == pytest.approx(expected, abs=1e-12)


def test_weightings_differ(value, clicks):
    logits, labels, _, group = clicks
    by_rows = value("gauc", logits, labels, None, group)
    by_clicks = value("gauc", logits, labels, None, group, weighting="clicks")
    equal = value("session_auc", logits, labels, None, group, weighting="equal")
    assert min(abs(by_rows - by_clicks), abs(by_rows - equal), abs(by_clicks - equal)) > 1e-4


def test_a_constant_for_each_user_changes_nothing(value, clicks):
    logits, labels, _, group = clicks
    shifted = np.round(logits + (group % 7).astype(np.float32) * 64, 1)  # rounded, so that ties stay ties
    assert value("gauc", shifted, labels, None, group) == pytest.approx(value("gauc", logits, labels, None, group))
    assert value("auc", shifted, labels) != pytest.approx(value("auc", logits, labels), abs=1e-3)


def test_one_group_is_the_auc(value, clicks):
    logits, labels, weight, _ = clicks
    group = np.full(len(logits), 2**62)
    assert value("gauc", logits, labels, weight, group) == pytest.approx(value("auc", logits, labels, weight))


def test_no_group_with_both_classes_is_nan(value):
    assert math.isnan(value("gauc", [1.0, 2.0, 3.0], [0, 1, 1], None, np.array([1, 2, 2])))


def test_needs_a_group_column():
    with pytest.raises(ConfigError, match=r"'gauc' needs a group column"):
        GAUC(Schema(features=(), labels=(Label("click"),)))
