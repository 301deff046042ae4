from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rechub_ray.errors import ConfigError
from tests.by_hand import fields, norm, softmax

NODE = {"name": "autoint", "embedding_dim": 2, "num_layers": 2, "num_heads": 2, "attention_dim": 4}


def attention(case: Any, x: Any, i: int, *, scale: bool, layer_norm: bool) -> Any:
    heads = []
    query, key, value = (x @ case.state[f"attention.{i}.{name}.weight"].T for name in ("query", "key", "value"))
    for h in range(2):
        part = slice(2 * h, 2 * h + 2)
        scores = np.einsum("bid,bjd->bij", query[..., part], key[..., part]) / (2**0.5 if scale else 1)
        heads.append(np.einsum("bij,bjd->bid", softmax(scores, 2), value[..., part]))
    shortcut = f"attention.{i}.shortcut.weight"
    result = np.concatenate(heads, 2) + (x @ case.state[shortcut].T if shortcut in case.state else x)
    if layer_norm:
        result = norm(result) * case.state[f"attention.{i}.norm.weight"] + case.state[f"attention.{i}.norm.bias"]
    return np.maximum(result, 0)


@pytest.mark.parametrize("more", [{}, {"scale": True, "layer_norm": True}])
def test_features_attend_to_each_other(by_hand: Any, more: dict[str, bool]) -> None:
    case = by_hand({**NODE, **more})
    x = fields(case)
    for i in range(2):
        x = attention(case, x, i, scale=bool(more), layer_norm=bool(more))
    np.testing.assert_allclose(case.logit, case.layer(x.reshape(6, -1), "output")[:, 0], rtol=1e-8)


def test_with_hidden_units_there_is_a_deep_part(by_hand: Any) -> None:
    case = by_hand({**NODE, "hidden_units": [5], "activation": "tanh"})
    x = fields(case)
    for i in range(2):
        x = attention(case, x, i, scale=False, layer_norm=False)
    deep = case.layer(np.tanh(case.layer(case.x, "mlp.0")), "mlp.2")[:, 0]
    np.testing.assert_allclose(case.logit, case.layer(x.reshape(6, -1), "output")[:, 0] + deep, rtol=1e-8)


def test_heads_divide_the_width(by_hand: Any) -> None:
    with pytest.raises(ConfigError, match=r"num_heads.*attention_dim 4.*Got: 3"):
        by_hand({**NODE, "num_heads": 3})
