from __future__ import annotations

from typing import Any

import numpy as np

NODE = {"name": "dcn", "embedding_dim": 2, "num_cross_layers": 2, "hidden_units": [5], "activation": "tanh"}


def cross(case: Any) -> Any:
    x = case.x
    for i in range(2):
        x = case.x * (x @ case.state[f"cross.layers.{i}.weight"].T) + case.state[f"cross.biases.{i}"] + x
    return x


def test_the_cross_part_beside_the_deep_part(by_hand: Any) -> None:
    case = by_hand(NODE)
    joined = np.concatenate([cross(case), np.tanh(case.layer(case.x, "mlp.0"))], 1)
    np.testing.assert_allclose(case.logit, case.layer(joined, "output")[:, 0], rtol=1e-10)


def test_the_cross_part_alone(by_hand: Any) -> None:
    case = by_hand({**NODE, "structure": "crossnet_only"})
    np.testing.assert_allclose(case.logit, case.layer(cross(case), "output")[:, 0], rtol=1e-10)
