from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.by_hand import field_aware, pairs

NODE = {"name": "deepffm", "embedding_dim": 2, "hidden_units": [5], "activation": "tanh"}


@pytest.mark.parametrize("product", ["hadamard", "inner"])
def test_it_adds_a_linear_term_and_an_mlp_on_products(by_hand: Any, product: str) -> None:
    case = by_hand({**NODE, "product": product})
    products = [field_aware(case, i, j) * field_aware(case, j, i) for i, j in pairs(3)]
    x = np.concatenate([p if product == "hadamard" else p.sum(1, keepdims=True) for p in products], 1)
    deep = case.layer(np.tanh(case.layer(x, "mlp.0")), "mlp.2")[:, 0]
    np.testing.assert_allclose(case.logit, case.linear + deep, rtol=1e-10)


def test_fat_deepffm_weights_the_vectors_first(by_hand: Any) -> None:
    case = by_hand({**NODE, "name": "fat_deepffm", "reduction_ratio": 3})
    order = [(i, j) for i in range(3) for j in range(3) if i != j]
    vectors = np.stack([field_aware(case, i, j) for i, j in order], 1)
    described = np.maximum((vectors * case.state["attention.compose"]).sum(2), 0)
    assert case.state["attention.down.weight"].shape == (2, 6)
    inner = np.maximum(described @ case.state["attention.down.weight"].T, 0)
    vectors = vectors * np.maximum(case.layer(inner, "attention.up"), 0)[:, :, None]
    at = {pair: vectors[:, i] for i, pair in enumerate(order)}
    x = np.concatenate([at[i, j] * at[j, i] for i, j in pairs(3)], 1)
    deep = case.layer(np.tanh(case.layer(x, "mlp.0")), "mlp.2")[:, 0]
    np.testing.assert_allclose(case.logit, case.linear + deep, rtol=1e-10)


def test_fat_deepffm_starts_near_deepffm() -> None:
    import torch

    from rechub_ray.layers.compose_excitation import ComposeExcitation

    vectors = 1e-4 * torch.randn(4, 6, 8)
    torch.testing.assert_close(ComposeExcitation(6, 8, 2)(vectors), vectors, rtol=1e-2, atol=0)
