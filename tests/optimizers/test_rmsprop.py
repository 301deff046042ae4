from __future__ import annotations

from typing import Any

import numpy as np
import pytest


@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_is_the_recursion_in_numpy(full_problem: Any, centered: bool, momentum: float) -> None:
    arguments = {"lr": 0.1, "alpha": 0.8, "eps": 1e-3, "momentum": momentum, "centered": centered, "weight_decay": 0.2}
    mine = full_problem.run(full_problem.of("rmsprop", **arguments), dense=True)
    weights = full_problem.start.numpy().astype(np.float64)
    square, mean, velocity = np.zeros_like(weights), np.zeros_like(weights), np.zeros_like(weights)
    for _, values in full_problem.steps:
        gradient = values.numpy().astype(np.float64) + 0.2 * weights
        square = 0.8 * square + 0.2 * gradient**2
        mean = 0.8 * mean + 0.2 * gradient
        spread = square - mean**2 if centered else square
        velocity = momentum * velocity + gradient / (np.sqrt(spread) + 1e-3)
        weights = weights - 0.1 * velocity
    np.testing.assert_allclose(mine.numpy(), weights, rtol=1e-4, atol=1e-5)
