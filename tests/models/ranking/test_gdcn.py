from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.by_hand import sigmoid

NODE = {"name": "gdcn", "embedding_dim": 2, "num_cross_layers": 2, "hidden_units": [5], "activation": "tanh"}


@pytest.mark.parametrize("structure", ["parallel", "stacked"])
def test_products_pass_a_gate(by_hand: Any, structure: str) -> None:
    case = by_hand({**NODE, "structure": structure})
    x = case.x
    for i in range(2):
        gate = sigmoid(x @ case.state[f"cross.gates.{i}.weight"].T)
        x = case.x * case.layer(x, f"cross.layers.{i}") * gate + x
    deep = np.tanh(case.layer(case.x if structure == "parallel" else x, "mlp.0"))
    joined = np.concatenate([x, deep], 1) if structure == "parallel" else deep
    np.testing.assert_allclose(case.logit, case.layer(joined, "output")[:, 0], rtol=1e-9)
