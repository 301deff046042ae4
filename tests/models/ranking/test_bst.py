from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rechub_ray.errors import ConfigError
from tests.by_hand import LISTS, Histories, norm, softmax

NODE = {"name": "bst", "num_layers": 2, "num_heads": 2, "feed_forward_units": 3}


def encoder(case: Any, x: Any, i: int) -> Any:
    def layer(y: Any, name: str) -> Any:
        return case.layer(y, f"interests.0.layers.{i}.{name}")

    def normed(y: Any, name: str) -> Any:
        name = f"interests.0.layers.{i}.{name}"
        return norm(y) * case.state[f"{name}.weight"] + case.state[f"{name}.bias"]

    query, key, value = layer(x, "query"), layer(x, "key"), layer(x, "value")
    heads = [softmax(np.outer(query[:, h], key[:, h]), 1) @ value[:, h : h + 1] for h in range(2)]
    attended = normed(x + layer(np.concatenate(heads, 1), "joined"), "norm_1")
    wide = layer(attended, "wide")
    return normed(attended + layer(np.where(wide > 0, wide, 0.01 * wide), "narrow"), "norm_2")


def test_a_transformer_on_the_history_and_the_item() -> None:
    case = Histories(NODE)
    places, interests = case.state["interests.0.places"], []
    assert places.shape == (5, 2)
    for ids, v in zip(LISTS, case.items, strict=True):
        x = np.concatenate([v[None] + places[0], case.table[ids] + places[1 : len(ids) + 1][::-1]])
        for i in range(2):
            x = encoder(case, x, i)
        interests.append(x[0])
    np.testing.assert_allclose(case.logit, case.expected(interests), rtol=1e-7)


def test_heads_divide_the_width() -> None:
    with pytest.raises(ConfigError, match=r"num_heads.*width 2.*Got: 3"):
        Histories({**NODE, "num_heads": 3})
