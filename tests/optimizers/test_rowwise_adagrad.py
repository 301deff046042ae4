from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from rechub_ray.optimizers import OPTIMIZERS


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


@pytest.mark.parametrize("width", [1, 3, 16, 17])
@pytest.mark.parametrize("count", [0, 1, 7, 20_001])
@pytest.mark.parametrize("weight_decay", [0.0, 0.2])
def test_float32_by_kernel_is_float64_by_torch(count: int, width: int, weight_decay: float) -> None:
    """The kernel, with any number of threads, beside the same recursion in NumPy and the torch path."""
    torch.manual_seed(count)
    rows = torch.randperm(2 * count + 1)[:count].sort().values
    start, steps = torch.randn(2 * count + 1, width), [torch.randn(count, width) for _ in range(3)]
    threads, results = torch.get_num_threads(), {}
    for name, dtype in (("1", torch.float32), ("2", torch.float32), ("3", torch.float32), ("torch", torch.float64)):
        table = torch.nn.Parameter(start.to(dtype, copy=True))
        arguments = {"lr": 0.1, "initial_accumulator": 0.3, "eps": 1e-3, "weight_decay": weight_decay}
        optimizer = OPTIMIZERS.build({"name": "rowwise_adagrad", **arguments}, [table])
        try:
            torch.set_num_threads(int(name) if name != "torch" else threads)
            for values in steps:
                table.grad = torch.sparse_coo_tensor(
                    rows.unsqueeze(0), values.to(dtype), table.shape, is_coalesced=True, check_invariants=False
                )
                optimizer.step()
        finally:
            torch.set_num_threads(threads)
        results[name] = (table.detach(), optimizer.state[table]["sum"])
    weights, total = start.numpy().astype(np.float64), np.full(len(start), 0.3)
    for values in steps:
        gradient = values.numpy().astype(np.float64) + weight_decay * weights[rows.numpy()]
        total[rows.numpy()] += (gradient**2).mean(1)
        weights[rows.numpy()] -= 0.1 * gradient / (np.sqrt(total[rows.numpy()]) + 1e-3)[:, None]
    for table, state in (results["1"], results["torch"]):
        np.testing.assert_allclose(table.numpy(), weights, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(state.numpy(), total, rtol=1e-5)
    for other in ("2", "3"):
        assert all(torch.equal(a, b) for a, b in zip(results["1"], results[other], strict=True))
