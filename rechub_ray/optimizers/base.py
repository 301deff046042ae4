"""The optimizer family: torch optimizers whose keyword arguments are the configuration."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from rechub_ray.registry import Registry


class SparseOptimizer(torch.optim.Optimizer, abc.ABC):
    """Base of optimizers that take row gradients (coalesced sparse COO) and touch only those rows.

    Tables claimed by such an optimizer get sparse gradients; tables claimed by any other one get dense gradients
    (the dense-equivalent mode, whose cost grows with the vocabulary).

    Args:
        params: tables, (rows, width) each.
        arguments: the learning rate `lr` and the subclass's own, as they appear in `param_groups`.
    """

    def __init__(self, params: Iterable[Tensor], arguments: dict[str, Any]) -> None:
        super().__init__(list(params), arguments)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update; tables without a gradient, and rows that are not in it, stay as they are."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for table in group["params"]:
                if table.grad is not None:
                    gradient = table.grad.coalesce()  # no work where it is coalesced already
                    self.update(table, gradient._indices()[0], gradient._values(), self.state[table], group)
        return loss

    @abc.abstractmethod
    def update(self, table: Tensor, rows: Tensor, gradient: Tensor, state: dict[str, Any], group: Any) -> None:
        """Updates some rows of one table.

        Shapes:
            table: (V, D). rows: (U,) int64, ascending, each once. gradient: (U, D).
        """


OPTIMIZERS: Registry[torch.optim.Optimizer] = Registry("optimizer")


def takes_row_gradients(optimizer: type[Any] | torch.optim.Optimizer) -> bool:
    """Whether tables under this optimizer get sparse gradients."""
    cls = optimizer if isinstance(optimizer, type) else type(optimizer)
    return issubclass(cls, SparseOptimizer)


def can_fuse(params: Sequence[Tensor]) -> bool:
    """Whether torch's fused kernels take these parameters (one pass over memory; not on the meta device)."""
    return bool(params) and all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in params)
