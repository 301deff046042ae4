from __future__ import annotations

from typing import Any

import numpy as np

from tests.by_hand import fields

NODE = {"name": "afn", "embedding_dim": 2, "log_neurons": 4, "afn_units": [5], "activation": "tanh"}


def normed(case: Any, x: Any, name: str) -> Any:
    """In evaluation, with running statistics as they start: mean 0, variance 1."""
    return x / np.sqrt(1 + 1e-5) * case.state[f"{name}.weight"][:, None] + case.state[f"{name}.bias"][:, None]


def products(case: Any) -> Any:
    logs = normed(case, np.log(np.maximum(np.abs(fields(case)), 1e-5)), "log_norm")
    raised = normed(case, np.exp(np.einsum("nk,bkd->bnd", case.state["powers.weight"], logs)), "exp_norm")
    flat = raised.transpose(0, 2, 1).reshape(6, -1)  # by element, then by product
    return case.layer(np.tanh(case.layer(flat, "afn.0")), "afn.2")


def test_products_of_learned_degree(by_hand: Any) -> None:
    case = by_hand(NODE)
    np.testing.assert_allclose(case.logit, products(case)[:, 0], rtol=1e-8)


def test_with_hidden_units_a_deep_part_has_its_own_tables(by_hand: Any) -> None:
    case = by_hand({**NODE, "hidden_units": [3]})
    own = case.state["deep_embedding.weights.2"][case.ids + np.array([0, 5, 9])].reshape(6, -1)
    x = np.concatenate([own, case.dense], 1)
    deep = case.layer(np.tanh(case.layer(x, "mlp.0")), "mlp.2")
    joined = np.concatenate([products(case), deep], 1)
    np.testing.assert_allclose(case.logit, case.layer(joined, "output")[:, 0], rtol=1e-8)
