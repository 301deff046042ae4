from __future__ import annotations

from typing import Any

import pytest
import torch


@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.9, False), (0.9, True)])
def test_is_the_recursion(full_problem: Any, momentum: float, nesterov: bool) -> None:
    mine = full_problem.run(
        full_problem.of("sgd", lr=0.1, momentum=momentum, nesterov=nesterov, weight_decay=0.2), dense=True
    )
    weights, velocity = full_problem.start.clone(), torch.zeros_like(full_problem.start)
    for _, values in full_problem.steps:
        gradient = values + 0.2 * weights
        velocity = momentum * velocity + gradient
        weights = weights - 0.1 * (gradient + momentum * velocity if nesterov else velocity)
    torch.testing.assert_close(mine, weights, rtol=1e-5, atol=1e-6)
