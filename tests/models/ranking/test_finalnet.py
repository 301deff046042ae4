from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from rechub_ray.batch import Features
from rechub_ray.errors import ConfigError
from tests.by_hand import sigmoid

NODE = {"name": "finalnet", "embedding_dim": 2, "hidden_units": [6, 4], "activation": "tanh"}


def block(case: Any, x: Any, name: str, places: list[int], residual: str = "concat") -> Any:
    """Layers lie three apart: the layer, its activation, its dropout."""
    for place in places:
        u, v = np.split(case.layer(x, f"{name}.{place}.linear"), 2, 1)
        x = np.tanh(np.concatenate([u, u * v], 1) if residual == "concat" else u + u * v)
    return case.layer(x, f"{name}.{places[-1] + 3}")[:, 0]


@pytest.mark.parametrize("residual", ["concat", "sum"])
def test_one_block(by_hand: Any, residual: str) -> None:
    case = by_hand({**NODE, "residual": residual})
    np.testing.assert_allclose(case.logit, block(case, case.x, "blocks.0", [0, 3], residual), rtol=1e-9)


def test_two_blocks_teach_each_other(by_hand: Any) -> None:
    case = by_hand({**NODE, "num_blocks": 2, "second_units": [4], "field_gate": True})
    gates = np.einsum("kj,bjd->bkd", case.state["gate.weight"], case.vectors) + case.state["gate.bias"][:, None]
    gated = np.concatenate([case.x, (case.vectors * gates).reshape(6, -1)], 1)
    logits = [block(case, gated, "blocks.0", [0, 3]), block(case, case.x, "blocks.1", [0])]
    mean = sum(logits) / 2
    np.testing.assert_allclose(case.logit, mean, rtol=1e-9)
    p = sigmoid(mean)
    losses = [-(p * np.log(sigmoid(y)) + (1 - p) * np.log(sigmoid(-y))).mean() for y in logits]
    outputs = case.model(Features(torch.from_numpy(case.ids), torch.from_numpy(case.dense)))
    assert outputs["distillation"].item() == pytest.approx(sum(losses))


def test_an_odd_width_has_no_halves(by_hand: Any) -> None:
    with pytest.raises(ConfigError, match=r"hidden_units.*even.*5"):
        by_hand({**NODE, "hidden_units": [5]})
