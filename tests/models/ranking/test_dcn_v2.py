from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rechub_ray.errors import ConfigError

NODE = {"name": "dcn_v2", "embedding_dim": 2, "num_cross_layers": 2, "hidden_units": [5], "activation": "tanh"}


def cross(case: Any) -> Any:
    x = case.x
    for i in range(2):
        x = case.x * case.layer(x, f"cross.layers.{i}") + x
    return x


def test_parallel_joins_the_cross_and_the_deep_part(by_hand: Any) -> None:
    case = by_hand(NODE)
    joined = np.concatenate([cross(case), np.tanh(case.layer(case.x, "mlp.0"))], 1)
    np.testing.assert_allclose(case.logit, case.layer(joined, "output")[:, 0], rtol=1e-10)


def test_stacked_puts_the_deep_part_on_the_cross_part(by_hand: Any) -> None:
    case = by_hand({**NODE, "structure": "stacked"})
    deep = np.tanh(case.layer(cross(case), "mlp.0"))
    np.testing.assert_allclose(case.logit, case.layer(deep, "output")[:, 0], rtol=1e-10)


def test_crossnet_only_has_no_deep_part(by_hand: Any) -> None:
    case = by_hand({**NODE, "structure": "crossnet_only"})
    assert not any(name.startswith("mlp") for name in case.state)
    np.testing.assert_allclose(case.logit, case.layer(cross(case), "output")[:, 0], rtol=1e-10)


def test_rank_and_experts_choose_the_cross_layers(by_hand: Any) -> None:
    assert by_hand({**NODE, "low_rank": 3}).state["cross.layers.1.0.weight"].shape == (3, 9)
    assert by_hand({**NODE, "low_rank": 3, "num_experts": 4}).state["cross.layers.1.core"].shape == (4, 3, 3)


def test_experts_without_a_rank_are_an_error(by_hand: Any) -> None:
    with pytest.raises(ConfigError, match=r"num_experts.*low_rank"):
        by_hand({**NODE, "num_experts": 4})
