from __future__ import annotations

from typing import Any

import numpy as np


def test_it_adds_a_linear_model_and_an_mlp(by_hand: Any) -> None:
    case = by_hand({"name": "wide_deep", "embedding_dim": 2, "hidden_units": [5], "activation": "tanh"})
    deep = case.layer(np.tanh(case.layer(case.x, "mlp.0")), "mlp.2")[:, 0]
    np.testing.assert_allclose(case.logit, case.linear + deep, rtol=1e-10)


def test_each_part_reads_its_own_features(by_hand: Any) -> None:
    case = by_hand(
        {
            "name": "wide_deep",
            "embedding_dim": 2,
            "hidden_units": [],
            "wide_features": ["profile"],
            "deep_features": ["item"],
        }
    )
    item = case.state["embedding.weights.2"][case.ids[:, 1]]
    wide = case.dense[:, 1:] @ case.state["linear.dense.weight"][0]
    np.testing.assert_allclose(case.logit, wide + case.layer(item, "mlp.0")[:, 0], rtol=1e-10)
