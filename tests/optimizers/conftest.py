"""A table and the gradients of a few steps, as rows and as a whole."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from rechub_ray.optimizers import OPTIMIZERS

ROWS, WIDTH = 40, 3


@dataclasses.dataclass
class Problem:
    """`steps` gradients on a table of 40 rows: rows (U,), values (U, 3)."""

    start: Tensor
    steps: list[tuple[Tensor, Tensor]]

    def sparse(self, step: int) -> Tensor:
        rows, values = self.steps[step]
        return torch.sparse_coo_tensor(
            rows.unsqueeze(0), values, self.start.shape, is_coalesced=True, check_invariants=False
        )

    def run(self, optimizer_of: Callable[[list[Tensor]], Any], *, dense: bool = False) -> Tensor:
        """The table after all steps."""
        table = torch.nn.Parameter(self.start.clone())
        optimizer = optimizer_of([table])
        for step in range(len(self.steps)):
            table.grad = self.sparse(step).to_dense() if dense else self.sparse(step)
            optimizer.step()
        return table.detach()

    def of(self, name: str, **arguments: Any) -> Callable[[list[Tensor]], Any]:
        return lambda params: OPTIMIZERS.build({"name": name, **arguments}, params)


@pytest.fixture
def problem() -> Problem:
    """Every step touches 10 rows; row 39 is never touched."""
    torch.manual_seed(0)
    steps = [(torch.randperm(ROWS - 1)[:10].sort().values, torch.randn(10, WIDTH)) for _ in range(8)]
    return Problem(torch.randn(ROWS, WIDTH), steps)


@pytest.fixture
def full_problem() -> Problem:
    """Every step touches every row."""
    torch.manual_seed(0)
    return Problem(torch.randn(ROWS, WIDTH), [(torch.arange(ROWS), torch.randn(ROWS, WIDTH)) for _ in range(8)])
