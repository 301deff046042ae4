from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from rechub_ray.layers.bilinear import Bilinear
from tests.by_hand import pairs


@pytest.mark.parametrize("kind", ["field_all", "field_each", "field_interaction"])
def test_bilinear_products_of_plain_and_weighted_embeddings(by_hand: Any, kind: str) -> None:
    case = by_hand(
        {
            "name": "fibinet",
            "embedding_dim": 2,
            "bilinear_type": kind,
            "reduction_ratio": 1,
            "hidden_units": [5],
            "activation": "tanh",
        }
    )
    matrices = case.state["bilinear.weight"]
    assert len(matrices) == {"field_all": 1, "field_each": 2, "field_interaction": 3}[kind]

    def products(v: Any) -> list[Any]:
        chosen = [{"field_all": 0, "field_each": i, "field_interaction": n}[kind] for n, (i, _) in enumerate(pairs(3))]
        return [(v[:, i] @ matrices[m]) * v[:, j] for m, (i, j) in zip(chosen, pairs(3), strict=True)]

    squeezed = case.vectors.mean(2)
    inner = np.maximum(squeezed @ case.state["senet.squeeze.weight"].T, 0)
    weights = np.maximum(inner @ case.state["senet.expand.weight"].T, 0)
    weighted = case.vectors * weights[:, :, None]
    x = np.concatenate([*products(case.vectors), *products(weighted), case.dense], 1)
    deep = case.layer(np.tanh(case.layer(x, "mlp.0")), "mlp.2")[:, 0]
    np.testing.assert_allclose(case.logit, case.linear + deep, rtol=1e-8)


def test_the_gradient_of_products_with_a_matrix_each_is_theirs() -> None:
    torch.manual_seed(0)
    layer = Bilinear(4, 2, "field_interaction").double()
    vectors = torch.randn(3, 4, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, _: layer(x), (vectors, layer.weight))
