from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score


def test_equals_scikit_learn(value, clicks):
    logits, labels, _, _ = clicks
    assert value("auc", logits, labels) == pytest.approx(roc_auc_score(labels, logits), abs=1e-15)


def test_weighted_equals_scikit_learn(value, clicks):
    logits, labels, weight, _ = clicks
    expected = roc_auc_score(labels, logits, sample_weight=weight)
    assert expected != pytest.approx(roc_auc_score(labels, logits), abs=1e-4)  # the weights matter here
    assert value("auc", logits, labels, weight) == pytest.approx(expected, abs=1e-13)


@pytest.mark.parametrize(
    ("logits", "labels", "expected"),
    [
        ([1, 2, 3, 4], [0, 0, 1, 1], 1.0),
        ([4, 3, 2, 1], [0, 0, 1, 1], 0.0),
        ([5, 5, 5, 5], [0, 1, 0, 1], 0.5),
        ([1, 2, 2, 3], [0, 1, 0, 1], 0.875),  # of 4 pairs: 3 right, 1 tie
        ([-math.inf, 0, math.inf], [0, 0, 1], 1.0),
        ([-0.0, 0.0], [0, 1], 0.5),
    ],
)
def test_by_hand(value, logits, labels, expected):
    assert value("auc", logits, labels) == expected


def test_one_ulp_is_no_tie(value):
    score = np.float32(13.37)
    assert value("auc", np.array([score, np.nextafter(score, np.float32(99))]), [0, 1]) == 1.0


@pytest.mark.parametrize("labels", [[0, 0, 0], [1, 1, 1]])
def test_one_class_is_nan(value, labels):
    assert math.isnan(value("auc", [1.0, 2.0, 3.0], labels))


def test_a_class_of_weight_zero_is_nan(value):
    assert math.isnan(value("auc", [1.0, 2.0, 3.0], [1, 0, 0], np.array([0.0, 1.0, 1.0])))


def test_counts_are_exact_where_float32_is_not(value):
    # 2^24 + 1 pairs do not fit float32: 4,097 x 4,097 pairs with a single wrong one
    count = 4097
    logits = np.concatenate([np.zeros(count), np.ones(count)]).astype(np.float32)
    labels = np.concatenate([np.zeros(count), np.ones(count)])
    logits[0] = 1.0  # ties with all positives
    assert value("auc", logits, labels) == 1 - 0.5 * count / count**2


def test_state_is_small(build, rows, clicks):
    logits, labels, weight, _ = clicks
    state = build("auc").update(*rows(logits, labels))
    assert sum(tensor.nbytes for tensor in state.values()) == 5 * len(logits)
    state = build("auc", weighted=True).update(*rows(logits, labels, weight))
    assert sum(tensor.nbytes for tensor in state.values()) == 9 * len(logits)


def test_state_does_not_share_the_batch_buffers(build, rows, clicks):
    logits, labels, weight, _ = clicks
    metric = build("auc", weighted=True)
    outputs, batch = rows(logits, labels, weight)
    state = metric.update(outputs, batch)
    before = metric.compute(state)
    outputs["logit"].fill_(0)
    batch.labels.fill_(0)
    batch.weight.fill_(0)
    assert metric.compute(state) == before
