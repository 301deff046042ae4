from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest

from rechub_ray.errors import SchemaError
from rechub_ray.models import MODELS
from rechub_ray.schema import Label, Schema, SparseFeature


def test_it_adds_linear_terms_pairs_and_an_mlp(by_hand: Any) -> None:
    case = by_hand({"name": "deepfm", "embedding_dim": 2, "hidden_units": [5], "activation": "tanh"})
    pairs = sum((case.vectors[:, i] * case.vectors[:, j]).sum(1) for i, j in combinations(range(3), 2))
    deep = case.layer(np.tanh(case.layer(case.x, "mlp.0")), "mlp.2")[:, 0]
    np.testing.assert_allclose(case.logit, case.linear + pairs + deep, rtol=1e-10)


def test_both_parts_share_the_embeddings_of_the_features_they_share(by_hand: Any) -> None:
    case = by_hand(
        {
            "name": "deepfm",
            "embedding_dim": 2,
            "hidden_units": [],
            "fm_features": ["user", "city"],
            "deep_features": ["city", "item", "age"],
        }
    )
    linear = case.state["linear.embedding.weights.1"][case.ids[:, [0, 2]] + np.array([0, 5])].sum((1, 2))
    user, item, city = case.vectors.transpose(1, 0, 2)
    deep = case.layer(np.concatenate([item, city, case.dense[:, :1]], 1), "mlp.0")[:, 0]
    np.testing.assert_allclose(case.logit, linear + (user * city).sum(1) + deep, rtol=1e-10)


def test_only_features_that_interact_need_one_width() -> None:
    schema = Schema(
        features=(SparseFeature("user", 5), SparseFeature("item", 4), SparseFeature("city", 3, embed_dim=3)),
        labels=(Label("click"),),
    )
    with pytest.raises(SchemaError, match=r"one width.*city 3"):
        MODELS.build("deepfm", schema)
    model = MODELS.build({"name": "deepfm", "embedding_dim": 8, "fm_features": ["user", "item"]}, schema)
    assert model.get_parameter("mlp.0.weight").shape == (256, 8 + 8 + 3)
