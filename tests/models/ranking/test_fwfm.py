from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from rechub_ray.errors import SchemaError
from rechub_ray.layers.pairs import WeightedPairs
from rechub_ray.models import MODELS
from rechub_ray.schema import DenseFeature, Label, Schema
from tests.by_hand import pairs

NODE = {"name": "fwfm", "embedding_dim": 2}


def interactions(case: Any) -> Any:
    weights = case.state["interaction.weight"][:, 0]
    v = case.vectors
    return sum(r * (v[:, i] * v[:, j]).sum(1) for r, (i, j) in zip(weights, pairs(3), strict=True))


def test_lw_has_a_weight_for_each_id(by_hand: Any) -> None:
    case = by_hand({**NODE, "linear": "lw"})
    np.testing.assert_allclose(case.logit, case.linear + case.state["linear.bias"] + interactions(case), rtol=1e-10)


def test_felv_has_a_vector_for_each_id(by_hand: Any) -> None:
    case = by_hand({**NODE, "linear": "felv"})
    weights = case.state["linear_embedding.weights.2"][case.ids + np.array([0, 5, 9])]
    linear = (case.vectors * weights).sum((1, 2)) + case.dense @ case.state["linear.dense.weight"][0]
    np.testing.assert_allclose(case.logit, linear + case.state["linear.bias"] + interactions(case), rtol=1e-10)


def test_filv_has_a_vector_for_each_feature(by_hand: Any) -> None:
    case = by_hand({**NODE, "fm_features": ["user", "item", "city"]})
    linear = (case.vectors * case.state["field_weight"]).sum((1, 2))
    np.testing.assert_allclose(case.logit, linear + case.state["linear.bias"] + interactions(case), rtol=1e-10)


def test_memory_does_not_grow_with_the_square_of_the_features() -> None:
    """128 features: the products of all pairs would be 64 times the vectors."""
    vectors = torch.randn(64, 128, 8, requires_grad=True)
    for weights in ("scalar", "vector", "matrix"):
        layer = WeightedPairs(128, 8, weights=weights)  # type: ignore[arg-type]
        with torch.profiler.profile(profile_memory=True) as profiler:
            layer(vectors).sum().backward()
        largest = max(abs(event.cpu_memory_usage) for event in profiler.events() or [])
        assert largest <= 4 * max(vectors.nbytes, 128 * 128 * layer.weight[0].nbytes)


def test_nothing_to_multiply_is_an_error() -> None:
    with pytest.raises(SchemaError, match="none of its features"):
        MODELS.build("fwfm", Schema((DenseFeature("age"),), (Label("click"),)))
