from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest

from rechub_ray.errors import SchemaError


@pytest.mark.parametrize(("names", "used"), [(None, [0, 1, 2]), (["city", "user", "age", "profile"], [0, 2])])
def test_it_adds_linear_terms_and_pairs(by_hand: Any, names: list[str] | None, used: list[int]) -> None:
    case = by_hand({"name": "fm", "embedding_dim": 2, "fm_features": names})
    if names is None:
        vectors, linear = case.vectors, case.linear
    else:  # tables of users (5 rows) and cities (3 rows) alone
        rows = case.ids[:, [0, 2]] + np.array([0, 5])
        vectors = case.state["embedding.weights.2"][rows]
        linear = case.state["linear.embedding.weights.1"][rows].sum((1, 2))
        linear = linear + case.dense @ case.state["linear.dense.weight"][0]
    pairs = sum((vectors[:, i] * vectors[:, j]).sum(1) for i, j in combinations(range(len(used)), 2))
    np.testing.assert_allclose(case.logit, linear + pairs + case.state["linear.bias"], rtol=1e-10)


def test_numbers_alone_do_not_interact(by_hand: Any) -> None:
    with pytest.raises(SchemaError, match="none of its features has one"):
        by_hand({"name": "fm", "fm_features": ["age"]})
