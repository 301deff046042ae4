"""Metrics under Torch-RecHub's names: by hand, by scikit-learn, and by that library where it is installed."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import log_loss as sklearn_log_loss
from sklearn.metrics import roc_auc_score

from rechub_ray.compat.basic import metric
from rechub_ray.errors import ConfigError, DataError

CHOSEN = {"a": [1, 2], "b": [7], "c": [3, 4, 5]}
SHOWN = {"a": [9, 1, 2], "b": [1, 2, 3], "c": np.array([3, 9, 5])}


def test_lists_by_hand() -> None:
    found = metric.topk_metrics(CHOSEN, SHOWN, topKs=[1, 3])
    # a: found at 2 and 3 of two; b: none; c: found at 1 and 3 of three
    at = 1 / np.log2([2, 3, 4])
    ndcg = ((at[1] + at[2]) / (at[0] + at[1]) + 0 + (at[0] + at[2]) / at.sum()) / 3
    assert found["NDCG"] == [f"NDCG@1: {round(1 / 3, 4)}", f"NDCG@3: {round(ndcg, 4)}"]
    assert found["MRR"][1] == f"MRR@3: {(0.5 + 0 + 1) / 3}"
    assert found["Recall"][1] == f"Recall@3: {round((1 + 0 + 2 / 3) / 3, 4)}"
    assert found["Hit"][1] == f"Hit@3: {round(4 / 6, 4)}"
    assert found["Precision"][1] == f"Precision@3: {round((2 / 3 + 0 + 2 / 3) / 3, 4)}"
    for name in ("ndcg", "hit", "mrr", "recall", "precision"):
        key = {"ndcg": "NDCG", "mrr": "MRR"}.get(name, name.capitalize())
        assert getattr(metric, f"{name}_score")(CHOSEN, SHOWN, [1, 3]) == found[key]
    with pytest.raises(DataError, match="4 items of 'a'"):
        metric.topk_metrics(CHOSEN, SHOWN, topKs=[4])
    for wrong in (5, [0], []):
        with pytest.raises(ConfigError, match=r"'topKs'\. Expected: numbers >= 1"):
            metric.topk_metrics(CHOSEN, SHOWN, topKs=wrong)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="recommendations of a user"):
        metric.topk_metrics({"z": [1]}, SHOWN, topKs=[1])


def test_scores_by_sklearn() -> None:
    rng = np.random.default_rng(0)
    label, p, user = rng.integers(0, 2, 300), rng.random(300).round(2), rng.integers(0, 5, 300)
    p = p.clip(0.01, 0.99)
    assert metric.auc_score(label, p) == pytest.approx(roc_auc_score(label, p))
    assert metric.log_loss(label, p) == pytest.approx(sklearn_log_loss(label, p))
    each = [roc_auc_score(label[user == u], p[user == u]) for u in range(5)]
    sizes = np.bincount(user)
    assert metric.gauc_score(label, p, user) == pytest.approx(np.average(each, weights=sizes))
    texts = np.array([f"u{u}" for u in user])
    assert metric.gauc_score(label, p, texts, {f"u{u}": 1.0 for u in range(5)}) == pytest.approx(np.mean(each))
    with pytest.raises(DataError, match="both classes"):
        metric.auc_score([1, 1], [0.2, 0.3])
    with pytest.raises(DataError, match="differ in length"):
        metric.auc_score([1, 0, 1], [0.2, 0.3])


def test_lists_beyond_accuracy_by_hand() -> None:
    vectors = {1: [1.0, 0.0], 2: [0.0, 2.0], 3: [1.0, 1.0], 9: [0.0, 0.0]}
    shown = {"a": [1, 2, 3], "b": [8], "c": [1, 3]}
    half = 1 - np.sqrt(0.5)
    assert metric.diversity_score(shown, vectors, [2, 3])["Diversity"] == [
        f"Diversity@2: {round((1 + half) / 2, 4)}",
        f"Diversity@3: {round(((1 + 2 * half) / 3 + half) / 2, 4)}",
    ]
    assert metric.diversity_score({"a": [1]}, vectors) == {"Diversity": ["Diversity@5: 0.0"]}
    assert metric.coverage_score(shown, {1, 2, 3, 8, 9}, [1, 3])["Coverage"] == ["Coverage@1: 0.4", "Coverage@3: 0.8"]
    assert metric.novelty_score(shown, {1: 0.5, 3: 0.25, 8: 1.0}, [1])["Novelty"] == [f"Novelty@1: {round(2 / 3, 4)}"]


@pytest.mark.skipif(importlib.util.find_spec("torch_rechub") is None, reason="torch-rechub is not installed")
def test_torch_rechubs_own_values() -> None:
    theirs: Any = importlib.import_module("torch_rechub.basic.metric")
    rng = np.random.default_rng(1)
    shown = {str(user): rng.permutation(40)[:20].tolist() for user in range(50)}
    chosen = {str(user): rng.permutation(40)[: rng.integers(1, 8)].tolist() for user in range(50)}
    assert metric.topk_metrics(chosen, shown, [1, 5, 20]) == dict(theirs.topk_metrics(chosen, shown, [1, 5, 20]))
    vectors = rng.normal(size=(40, 4))
    assert metric.diversity_score(shown, vectors, [5]) == dict(theirs.diversity_score(shown, vectors, [5]))
    shares = {item: (item + 1) / 820 for item in range(40)}
    assert metric.novelty_score(shown, shares, [3]) == dict(theirs.novelty_score(shown, shares, [3]))
    assert metric.coverage_score(shown, range(40), [1]) == dict(theirs.coverage_score(shown, range(40), [1]))
