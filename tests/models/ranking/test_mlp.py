from __future__ import annotations

from typing import Any

import numpy as np


def test_it_is_an_mlp_on_embeddings_and_numbers(by_hand: Any) -> None:
    case = by_hand({"name": "mlp", "embedding_dim": 2, "hidden_units": [5, 4], "activation": "tanh"})
    hidden = np.tanh(case.layer(np.tanh(case.layer(case.x, "mlp.0")), "mlp.2"))
    np.testing.assert_allclose(case.logit, case.layer(hidden, "mlp.4")[:, 0], rtol=1e-10)


def test_numbers_alone_are_enough(by_hand: Any) -> None:
    case = by_hand({"name": "mlp", "hidden_units": [], "deep_features": ["profile"]})
    np.testing.assert_allclose(case.logit, case.layer(case.dense[:, 1:], "mlp.0")[:, 0], rtol=1e-10)
