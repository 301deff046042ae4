from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from rechub_ray.errors import SchemaError
from rechub_ray.models import MODELS
from rechub_ray.schema import Label, Schema, SequenceFeature, SparseFeature
from tests.by_hand import field_aware, pairs


def test_every_feature_has_a_vector_for_each_other_one(by_hand: Any) -> None:
    case = by_hand({"name": "ffm", "embedding_dim": 2})
    products = sum((field_aware(case, i, j) * field_aware(case, j, i)).sum(1) for i, j in pairs(3))
    np.testing.assert_allclose(case.logit, case.linear + case.state["linear.bias"] + products, rtol=1e-10)


def test_the_width_of_the_schema_is_that_of_a_vector() -> None:
    user, item = SparseFeature("user", 5, embed_dim=3), SparseFeature("item", 4, embed_dim=3)
    tags = SequenceFeature("tags", 4, shared_with="item")
    model = MODELS.build("ffm", Schema((user, item, tags), (Label("click"),)))
    assert model.get_parameter("embedding.weights.6").shape == (9, 6)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ([SparseFeature("user", 5)], "two or more"),
        ([SparseFeature("user", 5), SparseFeature("item", 4, embed_dim=3)], "one width.*user 4, item 3"),
    ],
)
def test_what_cannot_interact_is_an_error(features: Any, message: str) -> None:
    with pytest.raises(SchemaError, match=message), torch.device("meta"):
        MODELS.build("ffm", Schema(tuple(features), (Label("click"),)))
