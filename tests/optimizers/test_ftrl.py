from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from rechub_ray.optimizers import OPTIMIZERS


def textbook(problem: Any, *, lr: float, l1: float, l2: float, initial: float, beta: float) -> np.ndarray:
    """Algorithm 1 of McMahan et al. on the rows of each gradient, with z and sigma, as TensorFlow computes it."""
    weights = np.zeros(problem.start.shape)
    total, linear = np.full_like(weights, initial), np.zeros_like(weights)
    for rows, values in problem.steps:
        at, gradient = rows.numpy(), values.numpy().astype(np.float64)
        n, z, w = total[at], linear[at], weights[at]
        sigma = (np.sqrt(n + gradient**2) - np.sqrt(n)) / lr
        z, n = z + gradient - sigma * w, n + gradient**2
        total[at], linear[at] = n, z
        scale = (beta + np.sqrt(n)) / lr + 2 * l2
        weights[at] = np.where(np.abs(z) <= l1, 0, -(z - np.sign(z) * l1) / scale)
    return weights


@pytest.mark.parametrize("name", ["ftrl", "sparse_ftrl"])
@pytest.mark.parametrize(("l1", "l2"), [(0.0, 0.0), (0.7, 0.0), (0.0, 0.3), (0.7, 0.3)])
@pytest.mark.parametrize(("initial", "beta"), [(0.1, 0.0), (0.0, 1.0)])
def test_is_the_textbook_from_zero(problem: Any, name: str, l1: float, l2: float, initial: float, beta: float) -> None:
    problem.start, problem.steps = torch.zeros_like(problem.start), problem.steps * 3
    mine = problem.run(
        problem.of(name, lr=0.1, l1=l1, l2=l2, initial_accumulator=initial, beta=beta), dense=name == "ftrl"
    )
    expected = textbook(problem, lr=0.1, l1=l1, l2=l2, initial=initial, beta=beta)
    np.testing.assert_allclose(mine.numpy(), expected, rtol=1e-4, atol=1e-6)
    touched = torch.cat([rows for rows, _ in problem.steps]).unique().numpy()
    zeros = expected[touched] == 0
    assert zeros.any() == (l1 > 0)
    assert np.array_equal(mine.numpy()[touched] == 0, zeros)


def test_without_penalties_it_is_adagrad(full_problem: Any) -> None:
    mine = full_problem.run(full_problem.of("ftrl", lr=0.1), dense=True)
    adagrad = full_problem.of("adagrad", lr=0.1, initial_accumulator=0.1, eps=1e-30)
    torch.testing.assert_close(mine, full_problem.run(adagrad, dense=True), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["ftrl", "sparse_ftrl"])
def test_a_lower_rate_leaves_the_weights_that_are_there(problem: Any, name: str) -> None:
    table = torch.nn.Parameter(problem.start.clone())
    optimizer = OPTIMIZERS.build({"name": name, "lr": 0.1, "l1": 0.1, "initial_accumulator": 0.0}, [table])

    def step(at: int) -> None:
        table.grad = problem.sparse(at).to_dense() if name == "ftrl" else problem.sparse(at)
        optimizer.step()

    step(0)
    before = table.detach().clone()
    for rate in (1e-9, 0.0):
        optimizer.param_groups[0]["lr"] = rate
        for at in (1, 2):
            step(at)
        torch.testing.assert_close(table.detach(), before, rtol=1e-5, atol=1e-6)
    assert torch.equal(table[39].detach(), problem.start[39])  # of no gradient: to the bit
