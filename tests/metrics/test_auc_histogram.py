from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score


@pytest.mark.parametrize("bins", [2, 7, 100, 65536])
@pytest.mark.parametrize("weighted", [False, True])
def test_error_is_within_the_bound(build, rows, bins, weighted):
    random = np.random.default_rng(bins)
    logits = random.normal(-2, 3, 5000).astype(np.float32)
    labels = (random.random(5000) < 1 / (1 + np.exp(-logits))).astype(np.float32)
    weight = random.choice([0.0, 1.0, 2.5], 5000) if weighted else None
    metric = build("auc_histogram", weighted=weighted, bins=bins)
    state = metric.update(*rows(logits, labels, weight))
    exact = roc_auc_score(labels, logits, sample_weight=weight)
    bound = metric.error_bound(state)
    assert abs(metric.compute(state) - exact) <= bound + 1e-12
    assert bound < {2: 0.5, 7: 0.3, 100: 0.02, 65536: 3e-5}[bins]


def test_bound_is_reached_when_every_tie_hides_a_right_pair(build, rows):
    metric = build("auc_histogram", bins=2)
    state = metric.update(*rows(np.array([1.0, 2.0]), np.array([0.0, 1.0])))
    assert (metric.compute(state), metric.error_bound(state)) == (0.5, 0.5)


def test_bins_that_part_all_scores_give_the_exact_auc(value, clicks):
    logits, labels, weight, _ = clicks  # multiples of 0.1 within +-16; 320 bins of 0.1, shifted off the edges
    logits = logits + np.float32(0.05)
    assert value("auc_histogram", logits, labels, weight, bins=320) == pytest.approx(
        roc_auc_score(labels, logits, sample_weight=weight), abs=1e-13
    )


def test_far_logits_share_the_end_bins(value):
    # against the row at -1e30: a tie at -17, in order at 0; against the row at 16: a tie at infinity
    assert value("auc_histogram", [-1e30, -17.0, 0.0], [0, 1, 1]) == 0.75
    assert value("auc_histogram", [0.0, 16.0, np.inf], [0, 0, 1]) == 0.75
    assert value("auc_histogram", [-np.inf, 1e30], [0, 1]) == 1.0


def test_state_does_not_grow_with_rows(build, rows):
    metric = build("auc_histogram", bins=1000)
    for count in (10, 10_000):
        state = metric.update(*rows(np.linspace(-3, 3, count), np.arange(count) % 2))
        assert sum(tensor.nbytes for tensor in state.values()) == 16 * 1000 + 8
