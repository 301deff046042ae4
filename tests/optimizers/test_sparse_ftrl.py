from __future__ import annotations

from typing import Any

import torch


def test_is_ftrl_on_the_dense_gradient(problem: Any) -> None:
    arguments = {"lr": 0.1, "l1": 0.3, "l2": 0.1, "initial_accumulator": 0.2, "beta": 0.5}
    mine = problem.run(problem.of("sparse_ftrl", **arguments))
    assert torch.equal(mine, problem.run(problem.of("ftrl", **arguments), dense=True))
