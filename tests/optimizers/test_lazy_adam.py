from __future__ import annotations

from typing import Any

import numpy as np
import torch


def test_is_adam_when_every_row_is_in_every_gradient(full_problem: Any) -> None:
    arguments = {"lr": 0.1, "eps": 1e-3, "weight_decay": 0.2}
    mine = full_problem.run(full_problem.of("lazy_adam", beta1=0.8, beta2=0.9, **arguments))
    theirs = full_problem.run(lambda p: torch.optim.Adam(p, betas=(0.8, 0.9), **arguments), dense=True)
    torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)


def test_is_sparse_adam_but_for_where_eps_stands(problem: Any) -> None:
    mine = problem.run(problem.of("lazy_adam", lr=0.1, eps=1e-30))
    theirs = problem.run(lambda p: torch.optim.SparseAdam(p, lr=0.1, eps=1e-30))
    torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)


def test_is_the_recursion_in_numpy(problem: Any) -> None:
    mine = problem.run(problem.of("lazy_adam", lr=0.1, beta1=0.8, beta2=0.9, eps=1e-3, weight_decay=0.2))
    weights = problem.start.numpy().astype(np.float64)
    first, second = np.zeros_like(weights), np.zeros_like(weights)
    for step, (rows, values) in enumerate(problem.steps, start=1):
        for row, gradient in zip(rows.tolist(), values.numpy().astype(np.float64), strict=True):
            gradient = gradient + 0.2 * weights[row]
            first[row] = 0.8 * first[row] + 0.2 * gradient
            second[row] = 0.9 * second[row] + 0.1 * gradient**2
            mean, spread = first[row] / (1 - 0.8**step), second[row] / (1 - 0.9**step)
            weights[row] -= 0.1 * mean / (np.sqrt(spread) + 1e-3)
    np.testing.assert_allclose(mine.numpy(), weights, rtol=1e-5, atol=1e-6)
