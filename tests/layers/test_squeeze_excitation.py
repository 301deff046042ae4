"""Squeeze and excitation in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from rechub_ray.layers.squeeze_excitation import SqueezeExcitation


@pytest.mark.parametrize("excitation", ["relu", "sigmoid"])
def test_factors_are_those_of_the_equations(excitation: Any) -> None:
    torch.manual_seed(0)
    layer = SqueezeExcitation(5, reduction_ratio=2, excitation=excitation).double()
    assert layer.squeeze.out_features == 2
    assert SqueezeExcitation(2).squeeze.out_features == 1
    vectors = np.random.default_rng(0).normal(size=(4, 5, 3))
    w_1, w_2 = (part.weight.detach().numpy() for part in (layer.squeeze, layer.expand))
    factors = np.maximum(vectors.mean(2) @ w_1.T, 0) @ w_2.T
    factors = np.maximum(factors, 0) if excitation == "relu" else 1 / (1 + np.exp(-factors))
    found = layer(torch.from_numpy(vectors)).detach().numpy()
    np.testing.assert_allclose(found, vectors * factors[:, :, None], rtol=1e-12)
