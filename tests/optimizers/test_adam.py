from __future__ import annotations

from typing import Any

import pytest
import torch

from rechub_ray.errors import ConfigError
from rechub_ray.optimizers import OPTIMIZERS


def test_is_torch_adam(full_problem: Any) -> None:
    mine = full_problem.run(
        full_problem.of("adam", lr=0.1, beta1=0.8, beta2=0.9, eps=1e-3, weight_decay=0.2), dense=True
    )
    theirs = full_problem.run(
        lambda p: torch.optim.Adam(p, lr=0.1, betas=(0.8, 0.9), eps=1e-3, weight_decay=0.2, foreach=False), dense=True
    )
    torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)


def test_a_rate_that_changes_is_followed(full_problem: Any) -> None:
    table = torch.nn.Parameter(full_problem.start.clone())
    optimizer = OPTIMIZERS.build({"name": "adam", "lr": 0.1}, [table])
    table.grad = full_problem.sparse(0).to_dense()
    optimizer.param_groups[0]["lr"] = 0.0
    optimizer.step()
    assert torch.equal(table.detach(), full_problem.start)


def test_builds_on_the_meta_device() -> None:
    OPTIMIZERS.build("adam", [torch.nn.Parameter(torch.empty(2, 2, device="meta"))])


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ConfigError, match=r"'optimizers.0.beta1': .*less than 1"):
        OPTIMIZERS.validate({"name": "adam", "beta1": 1.0}, where="optimizers.0")
    with pytest.raises(ConfigError, match="no argument 'learning_rate'"):
        OPTIMIZERS.validate({"name": "adam", "learning_rate": 1.0}, where="optimizers.0")
