from __future__ import annotations

from typing import Any

import torch


def test_is_the_recursion(full_problem: Any) -> None:
    mine = full_problem.run(
        full_problem.of("adagrad", lr=0.1, initial_accumulator=0.3, eps=1e-3, weight_decay=0.2), dense=True
    )
    weights, total = full_problem.start.clone(), torch.full_like(full_problem.start, 0.3)
    for _, values in full_problem.steps:
        gradient = values + 0.2 * weights
        total = total + gradient.square()
        weights = weights - 0.1 * gradient / (total.sqrt() + 1e-3)
    torch.testing.assert_close(mine, weights, rtol=1e-5, atol=1e-6)
