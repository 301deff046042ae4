from __future__ import annotations

from typing import Any

import torch


def test_is_adagrad_on_the_dense_gradient(problem: Any) -> None:
    mine = problem.run(problem.of("sparse_adagrad", lr=0.1, initial_accumulator=0.3, eps=1e-3))
    theirs = problem.run(
        lambda p: torch.optim.Adagrad(p, lr=0.1, initial_accumulator_value=0.3, eps=1e-3, foreach=False), dense=True
    )
    torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-7)


def test_weight_decay_on_every_row_is_that_of_adagrad(full_problem: Any) -> None:
    mine = full_problem.run(full_problem.of("sparse_adagrad", lr=0.1, weight_decay=0.2))
    theirs = full_problem.run(lambda p: torch.optim.Adagrad(p, lr=0.1, weight_decay=0.2), dense=True)
    torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-7)
