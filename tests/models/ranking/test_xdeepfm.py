from __future__ import annotations

from typing import Any

import numpy as np
import torch

from rechub_ray.layers.cin import CIN

NODE = {"name": "xdeepfm", "embedding_dim": 2, "cin_units": [4, 3], "hidden_units": [5], "activation": "tanh"}


def cin(case: Any) -> Any:
    """Equation 6, index by index."""
    first, sums = case.vectors, []
    x = first
    for k, units in enumerate([4, 3]):
        weight = case.state[f"cin.layers.{k}.weight"].reshape(units, x.shape[1], 3)
        bias = case.state[f"cin.layers.{k}.bias"]
        x = np.einsum("hij,bid,bjd->bhd", weight, x, first) + bias[:, None]
        sums.append(x.sum(2))
    return np.concatenate(sums, 1)


def test_it_adds_a_linear_term_a_cin_and_an_mlp(by_hand: Any) -> None:
    case = by_hand(NODE)
    deep = case.layer(np.tanh(case.layer(case.x, "mlp.0")), "mlp.2")[:, 0]
    explicit = case.layer(cin(case), "output")[:, 0]
    np.testing.assert_allclose(case.logit, case.linear + explicit + deep, rtol=1e-9)


def test_without_hidden_units_there_is_no_deep_part(by_hand: Any) -> None:
    case = by_hand({**NODE, "hidden_units": []})
    assert not any(name.startswith("mlp") for name in case.state)
    np.testing.assert_allclose(case.logit, case.linear + case.layer(cin(case), "output")[:, 0], rtol=1e-9)


def test_small_vectors_have_a_gradient_through_every_layer() -> None:
    torch.manual_seed(0)
    vectors = (1e-4 * torch.randn(64, 6, 4)).requires_grad_()
    *_, third = CIN(6, [8, 8, 8])(vectors).split(8, 1)
    (gradient,) = torch.autograd.grad(third.sum(), vectors)
    assert gradient.abs().mean() > 1e-3, "with biases of zero it is the square of the vectors, 1e-9"
