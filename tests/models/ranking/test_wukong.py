from __future__ import annotations

from typing import Any

import numpy as np

from tests.by_hand import fields, norm


def normed(case: Any, x: Any, name: str) -> Any:
    return norm(x) * case.state[f"{name}.weight"] + case.state[f"{name}.bias"]


def test_layers_of_factorisation_machines(by_hand: Any) -> None:
    case = by_hand(
        {
            "name": "wukong",
            "embedding_dim": 2,
            "fm_vectors": 2,
            "linear_vectors": 3,
            "rank": 2,
            "fm_units": [4],
            "hidden_units": [3],
            "activation": "tanh",
            "num_layers": 3,
            "deep_features": ["user", "item", "city", "age", "profile"],
        }
    )
    x = fields(case)  # five vectors: the identity goes past each layer
    for i in range(3):
        name = f"layers.{i}"
        gram = np.einsum("bkd,bjd->bkj", x, x)
        products = np.einsum("bkj,rj->bkr", gram, case.state[f"{name}.project.weight"]).reshape(6, -1)
        hidden = np.tanh(case.layer(normed(case, products, f"{name}.fm_norm"), f"{name}.fm.0"))
        fm = case.layer(hidden, f"{name}.fm.2").reshape(6, 2, 2)
        linear = np.einsum("lk,bkd->bld", case.state[f"{name}.compress.weight"], x)
        x = normed(case, np.concatenate([fm, linear], 1) + x, f"{name}.norm")
    deep = case.layer(np.tanh(case.layer(x.reshape(6, -1), "mlp.0")), "mlp.2")[:, 0]
    np.testing.assert_allclose(case.logit, deep, rtol=1e-6)


def test_another_number_of_vectors_is_projected(by_hand: Any) -> None:
    case = by_hand({"name": "wukong", "embedding_dim": 2, "fm_vectors": 2, "linear_vectors": 1, "hidden_units": [3]})
    assert case.state["layers.0.shortcut.weight"].shape == (3, 5)
    assert "layers.1.shortcut.weight" not in case.state
