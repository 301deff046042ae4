from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.by_hand import fields, softmax

NODE = {"name": "destine", "embedding_dim": 2, "num_layers": 2, "num_heads": 2, "attention_dim": 4, "scale": True}


@pytest.mark.parametrize("residual", ["each_layer", "last_layer"])
def test_attention_to_pairs_and_to_single_features(by_hand: Any, residual: str) -> None:
    case = by_hand({**NODE, "residual": residual})
    first = x = fields(case)
    for i in range(2):
        query, key, value = (case.layer(x, f"attention.{i}.{name}") for name in ("query", "key", "value"))
        unary = softmax(case.layer(x, f"attention.{i}.unary"), 1)
        query, key = query - query.mean(1, keepdims=True), key - key.mean(1, keepdims=True)
        heads = []
        for h in range(2):
            part = slice(2 * h, 2 * h + 2)
            scores = np.einsum("bid,bjd->bij", query[..., part], key[..., part]) / 2**0.5
            weights = softmax(scores, 2) + unary[:, None, :, h]
            heads.append(np.einsum("bij,bjd->bid", weights, value[..., part]))
        result = np.concatenate(heads, 2)
        if residual == "each_layer":
            result = result + case.layer(x, f"attention.{i}.shortcut")
        x = np.maximum(result, 0)
    if residual == "last_layer":
        x = np.maximum(x + case.layer(first, "shortcut"), 0)
    np.testing.assert_allclose(case.logit, case.layer(x.reshape(6, -1), "output")[:, 0], rtol=1e-8)


def test_with_hidden_units_there_is_a_deep_part(by_hand: Any) -> None:
    plain, both = by_hand(NODE), by_hand({**NODE, "hidden_units": [5], "activation": "tanh"})
    plain.model.load_state_dict({name: both.model.state_dict()[name] for name in plain.state})
    deep = both.layer(np.tanh(both.layer(both.x, "mlp.0")), "mlp.2")[:, 0]
    np.testing.assert_allclose(both.logit, plain.logit + deep, rtol=1e-8)
