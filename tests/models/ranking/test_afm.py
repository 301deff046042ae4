from __future__ import annotations

from typing import Any

import numpy as np

from tests.by_hand import pairs, softmax


def test_it_attends_to_pairs(by_hand: Any) -> None:
    case = by_hand({"name": "afm", "embedding_dim": 2, "attention_dim": 4})
    v = case.vectors
    products = np.stack([v[:, i] * v[:, j] for i, j in pairs(3)], 1)
    scores = np.maximum(case.layer(products, "attention.0"), 0) @ case.state["attention.2.weight"][0]
    pooled = (softmax(scores, 1)[:, :, None] * products).sum(1)
    assert np.ptp(softmax(scores, 1)) > 0.1, "no constant"
    expected = case.linear + case.state["linear.bias"] + pooled @ case.state["output.weight"][0]
    np.testing.assert_allclose(case.logit, expected, rtol=1e-10)
