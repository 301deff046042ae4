from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.by_hand import pairs

NODE = {"name": "dlrm", "embedding_dim": 2, "bottom_units": [4], "hidden_units": [5], "activation": "tanh"}


@pytest.mark.parametrize("interaction", ["dot", "cat"])
def test_dot_products_of_embeddings_and_numbers(by_hand: Any, interaction: str) -> None:
    case = by_hand({**NODE, "interaction": interaction})
    bottom = np.tanh(case.layer(np.tanh(case.layer(case.dense, "bottom.0")), "bottom.2"))
    v = np.concatenate([bottom[:, None], case.vectors], 1)
    x = v.reshape(6, -1)
    if interaction == "dot":
        products = [(v[:, i] * v[:, j]).sum(1, keepdims=True) for i, j in pairs(4)]
        x = np.concatenate([bottom, *products], 1)
    deep = case.layer(np.tanh(case.layer(x, "mlp.0")), "mlp.2")[:, 0]
    np.testing.assert_allclose(case.logit, deep, rtol=1e-9)


def test_without_numbers_there_is_no_bottom_part(by_hand: Any) -> None:
    case = by_hand({**NODE, "deep_features": ["user", "item", "city"]})
    v = case.vectors
    x = np.stack([(v[:, i] * v[:, j]).sum(1) for i, j in pairs(3)], 1)
    deep = case.layer(np.tanh(case.layer(x, "mlp.0")), "mlp.2")[:, 0]
    np.testing.assert_allclose(case.logit, deep, rtol=1e-9)
