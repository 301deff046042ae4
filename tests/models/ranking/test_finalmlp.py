from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rechub_ray.errors import ConfigError
from tests.by_hand import sigmoid

NODE = {
    "name": "finalmlp",
    "embedding_dim": 2,
    "hidden_units": [6],
    "second_units": [4],
    "gate_units": [3],
    "num_heads": 2,
    "activation": "relu",
}


def fused(case: Any, first: Any, second: Any) -> Any:
    o1, o2 = (np.maximum(case.layer(x, f"streams.{i}.0"), 0) for i, x in enumerate([first, second]))
    heads = [o1[:, 3 * h : 3 * h + 3] @ case.state["fusion"][h] * o2[:, 2 * h : 2 * h + 2] for h in range(2)]
    return case.layer(np.concatenate([o1, o2], 1), "output")[:, 0] + sum(heads).sum(1)


def test_two_streams_and_their_products(by_hand: Any) -> None:
    case = by_hand({**NODE, "feature_gates": False})
    np.testing.assert_allclose(case.logit, fused(case, case.x, case.x), rtol=1e-9)


def test_gates_read_their_context(by_hand: Any) -> None:
    case = by_hand({**NODE, "first_gate_features": ["item", "age"]})
    context = np.concatenate([case.state["gates.0.embedding.weights.2"][case.ids[:, 1]], case.dense[:, :1]], 1)
    gate = 2 * sigmoid(case.layer(np.maximum(case.layer(context, "gates.0.mlp.0"), 0), "gates.0.mlp.2"))
    constant = 2 * sigmoid(case.state["gates.1.constant"])
    np.testing.assert_allclose(case.logit, fused(case, gate * case.x, constant * case.x), rtol=1e-9)


def test_heads_divide_both_widths(by_hand: Any) -> None:
    with pytest.raises(ConfigError, match=r"num_heads.*second_units, 4.*Got: 3"):
        by_hand({**NODE, "num_heads": 3})
