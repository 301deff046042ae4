from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from rechub_ray.layers.cross import CrossNet, CrossNetMix

DIM, LAYERS, RANK, EXPERTS = 6, 3, 2, 4


def numpy_state(module: torch.nn.Module) -> dict[str, np.ndarray[Any, Any]]:
    """Random parameters, biases too, as NumPy sees them."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_()
    return {name: value.detach().numpy() for name, value in module.state_dict().items()}


def inputs() -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).normal(size=(7, DIM))


def test_full_matrices_follow_equation_1() -> None:
    net = CrossNet(DIM, LAYERS).double()
    state, x0 = numpy_state(net), inputs()
    x = x0
    for i in range(LAYERS):
        x = x0 * (x @ state[f"layers.{i}.weight"].T + state[f"layers.{i}.bias"]) + x
    np.testing.assert_allclose(net(torch.from_numpy(x0)).detach().numpy(), x, rtol=1e-10)


def test_low_rank_matrices_follow_equation_2() -> None:
    net = CrossNet(DIM, LAYERS, low_rank=RANK).double()
    state, x0 = numpy_state(net), inputs()
    x = x0
    for i in range(LAYERS):
        v, u = state[f"layers.{i}.0.weight"].T, state[f"layers.{i}.1.weight"]
        assert u.shape == v.shape == (DIM, RANK)
        x = x0 * (x @ (u @ v.T).T + state[f"layers.{i}.1.bias"]) + x
    np.testing.assert_allclose(net(torch.from_numpy(x0)).detach().numpy(), x, rtol=1e-10)


def test_the_mixture_follows_equations_3_to_5() -> None:
    net = CrossNetMix(DIM, LAYERS, low_rank=RANK, num_experts=EXPERTS).double()
    state, inputs0 = numpy_state(net), inputs()
    result = []
    for x0 in inputs0:  # one row after the other, one expert after the other
        x = x0
        for i in range(LAYERS):
            down, core, up, bias, gate = (
                state[f"layers.{i}.{name}"] for name in ("down", "core", "up", "bias", "gate.weight")
            )
            scores = np.exp(gate @ x) / np.exp(gate @ x).sum()
            mixed = sum(
                scores[e] * x0 * (up[e] @ np.tanh(core[e] @ np.tanh(down[e] @ x)) + bias) for e in range(EXPERTS)
            )
            x = mixed + x
        result.append(x)
    np.testing.assert_allclose(net(torch.from_numpy(inputs0)).detach().numpy(), result, rtol=1e-9)


@pytest.mark.parametrize("name", ["down", "core", "up"])
def test_each_experts_matrix_is_xavier_normal_by_itself(name: str) -> None:
    torch.manual_seed(0)
    matrices = getattr(CrossNetMix(100, 1, low_rank=32, num_experts=4).layers[0], name)
    for matrix in matrices:
        assert matrix.std().item() == pytest.approx((2 / sum(matrix.shape)) ** 0.5, rel=0.06)
