from __future__ import annotations

from typing import Any

import numpy as np

from tests.by_hand import pairs


def test_it_puts_an_mlp_on_the_sum_of_the_pairs(by_hand: Any) -> None:
    case = by_hand({"name": "nfm", "embedding_dim": 2, "hidden_units": [5], "activation": "tanh"})
    v = case.vectors
    pooled = sum(v[:, i] * v[:, j] for i, j in pairs(3))
    deep = case.layer(np.tanh(case.layer(pooled, "mlp.0")), "mlp.2")[:, 0]
    np.testing.assert_allclose(case.logit, case.linear + deep, rtol=1e-10)
