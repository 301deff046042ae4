from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch


@pytest.mark.parametrize("weight_decay", [0.0, 0.2])
@pytest.mark.parametrize("initial", [0.0, 0.3])
def test_is_the_recursion_in_numpy(problem: Any, initial: float, weight_decay: float) -> None:
    mine = problem.run(
        problem.of("rowwise_adagrad", lr=0.1, initial_accumulator=initial, eps=1e-3, weight_decay=weight_decay)
    )
    weights = problem.start.numpy().astype(np.float64)
    total = np.full(len(weights), initial)
    for rows, values in problem.steps:
        for row, gradient in zip(rows.tolist(), values.numpy().astype(np.float64), strict=True):
            gradient = gradient + weight_decay * weights[row]
            total[row] += (gradient**2).mean()
            weights[row] -= 0.1 * gradient / (np.sqrt(total[row]) + 1e-3)
    np.testing.assert_allclose(mine.numpy(), weights, rtol=1e-5, atol=1e-6)


def test_at_width_one_it_is_sparse_adagrad(problem: Any) -> None:
    problem.start = problem.start[:, :1].contiguous()
    problem.steps = [(rows, values[:, :1].contiguous()) for rows, values in problem.steps]
    rowwise = problem.run(problem.of("rowwise_adagrad", lr=0.1, eps=1e-10))
    elementwise = problem.run(problem.of("sparse_adagrad", lr=0.1, eps=1e-10))
    torch.testing.assert_close(rowwise, elementwise, rtol=1e-6, atol=1e-7)


def test_a_gradient_of_zeros_moves_nothing(problem: Any) -> None:
    problem.steps = [(rows, torch.zeros_like(values)) for rows, values in problem.steps]
    assert torch.equal(problem.run(problem.of("rowwise_adagrad")), problem.start)
