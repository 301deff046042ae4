from __future__ import annotations

from typing import Any

import numpy as np

from tests.by_hand import pairs

NODE = {"name": "fmfm", "embedding_dim": 2}


def test_a_matrix_for_each_pair(by_hand: Any) -> None:
    case = by_hand(NODE)
    v, matrices = case.vectors, case.state["interaction.weight"]
    assert matrices.shape == (3, 2, 2)
    products = sum(np.einsum("bd,de,be->b", v[:, i], m, v[:, j]) for m, (i, j) in zip(matrices, pairs(3), strict=True))
    np.testing.assert_allclose(case.logit, case.linear + case.state["linear.bias"] + products, rtol=1e-10)


def test_a_vector_for_each_pair(by_hand: Any) -> None:
    case = by_hand({**NODE, "interaction": "vector"})
    v, weights = case.vectors, case.state["interaction.weight"]
    assert weights.shape == (3, 2)
    products = sum((v[:, i] * w * v[:, j]).sum(1) for w, (i, j) in zip(weights, pairs(3), strict=True))
    np.testing.assert_allclose(case.logit, case.linear + case.state["linear.bias"] + products, rtol=1e-10)
