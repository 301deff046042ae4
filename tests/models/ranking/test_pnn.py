from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.by_hand import pairs


@pytest.mark.parametrize("product", ["inner", "outer", "both"])
def test_it_puts_an_mlp_on_embeddings_and_products(by_hand: Any, product: str) -> None:
    case = by_hand({"name": "pnn", "product": product, "embedding_dim": 2, "hidden_units": [5], "activation": "tanh"})
    v = case.vectors
    parts = [case.x]
    if product != "outer":
        parts += [(v[:, i] * v[:, j]).sum(1, keepdims=True) for i, j in pairs(3)]
    if product != "inner":
        total = v.sum(1)
        parts.append(np.einsum("bd,be->bde", total, total).reshape(6, 4))
    deep = case.layer(np.tanh(case.layer(np.concatenate(parts, 1), "mlp.0")), "mlp.2")[:, 0]
    np.testing.assert_allclose(case.logit, deep, rtol=1e-10)
