from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from rechub_ray.errors import TrainingError
from rechub_ray.optimizers import OPTIMIZERS


def test_is_the_recursion_in_numpy(full_problem: Any) -> None:
    mine = full_problem.run(full_problem.of("lion", lr=0.1, beta1=0.8, beta2=0.9, weight_decay=0.2), dense=True)
    weights = full_problem.start.numpy().astype(np.float64)
    momentum = np.zeros_like(weights)
    for _, values in full_problem.steps:
        gradient = values.numpy().astype(np.float64)
        weights = weights - 0.1 * (np.sign(0.8 * momentum + 0.2 * gradient) + 0.2 * weights)
        momentum = 0.9 * momentum + 0.1 * gradient
    np.testing.assert_allclose(mine.numpy(), weights, rtol=1e-5, atol=1e-6)


def test_row_gradients_are_refused(problem: Any) -> None:
    table = torch.nn.Parameter(problem.start.clone())
    table.grad = problem.sparse(0)
    with pytest.raises(TrainingError, match=r"'lion' takes dense gradients.*lazy_adam"):
        OPTIMIZERS.build("lion", [table]).step()
