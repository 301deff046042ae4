from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.by_hand import norm

NODE = {"name": "masknet", "embedding_dim": 2, "num_blocks": 2, "block_dim": 4, "reduction_ratio": 1.5}


def block(case: Any, i: int, v: Any, x: Any) -> Any:
    name = f"blocks.{i}"
    assert case.state[f"{name}.mask.0.weight"].shape == (13, 9)
    mask = case.layer(np.maximum(case.layer(v, f"{name}.mask.0"), 0), f"{name}.mask.2")
    hidden = norm((mask * x) @ case.state[f"{name}.hidden.weight"].T)
    return np.maximum(hidden * case.state[f"{name}.norm.weight"] + case.state[f"{name}.norm.bias"], 0)


def normed(case: Any) -> Any:
    vectors = norm(case.vectors) * case.state["scale"] + case.state["shift"]
    return np.concatenate([vectors.reshape(6, -1), case.dense], 1)


def test_blocks_side_by_side(by_hand: Any) -> None:
    case = by_hand({**NODE, "hidden_units": [5], "activation": "tanh"})
    joined = np.concatenate([block(case, i, case.x, normed(case)) for i in range(2)], 1)
    deep = case.layer(np.tanh(case.layer(joined, "mlp.0")), "mlp.2")[:, 0]
    np.testing.assert_allclose(case.logit, deep, rtol=1e-7)


@pytest.mark.parametrize("embedding_norm", [True, False])
def test_blocks_one_after_the_other(by_hand: Any, embedding_norm: bool) -> None:
    case = by_hand({**NODE, "structure": "serial", "embedding_norm": embedding_norm})
    x = normed(case) if embedding_norm else case.x
    for i in range(2):
        x = block(case, i, case.x, x)
    np.testing.assert_allclose(case.logit, case.layer(x, "output")[:, 0], rtol=1e-7)
