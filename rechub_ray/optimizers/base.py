"""The optimizer family: torch optimizers whose keyword arguments are the configuration."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from rechub_ray.errors import TrainingError
from rechub_ray.registry import Registry

# the memory of an update of a block of rows of width 16 fits a core's cache
_BLOCK_ROWS = 16_384


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
        """Do one update; tables without a gradient, and rows that are not in it, stay as they are."""
        loss = _loss_of(closure)
        for group in self.param_groups:
            for table in group["params"]:
                if table.grad is not None:
                    self._step(table, table.grad.coalesce(), group)  # no work where it is coalesced already
        return loss

    def _step(self, table: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[table]
        self.begin(table, state, group)
        self.update_all(table, gradient.indices()[0], gradient.values(), state, group)

    def update_all(
        self, table: Tensor, rows: Tensor, values: Tensor, state: dict[str, Any], group: dict[str, Any]
    ) -> None:
        """Update all rows of a step: block for block, unless the optimizer has a faster way."""
        block = _BLOCK_ROWS if table.device.type == "cpu" else max(1, rows.numel())
        for some, their_values in zip(torch.split(rows, block), torch.split(values, block), strict=True):
            self.update(table, some, their_values, state, group)

    @abc.abstractmethod
    def begin(self, table: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        """Start a step on one table: make its state at the first one."""

    @abc.abstractmethod
    def update(
        self, table: Tensor, rows: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]
    ) -> None:
        """Update some rows of one table; a step calls it for one block of rows after the other.

        Shapes:
            table: (V, D).
            rows: (U,) int64, ascending, each once.
            gradient: (U, D).
        """


class DenseOptimizer(torch.optim.Optimizer, abc.ABC):
    """Base of optimizers of this library that take dense gradients.

    Args:
        params: what to update.
        arguments: the learning rate `lr` and the subclass's own, as they appear in `param_groups`.
    """

    def __init__(self, params: Iterable[Tensor], arguments: dict[str, Any]) -> None:
        super().__init__(list(params), arguments)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Do one update; parameters without a gradient stay as they are.

        Raises:
            TrainingError: a gradient is sparse.
        """
        loss = _loss_of(closure)
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None and parameter.grad.is_sparse:
                    name = getattr(self, "registered_name", type(self).__name__)
                    raise TrainingError(
                        f"the optimizer '{name}' takes dense gradients",
                        got="the gradient of some rows of a table",
                        hint="lazy_adam, rowwise_adagrad, sparse_adagrad and sparse_ftrl take those.",
                    )
                if parameter.grad is not None:
                    self.update(parameter, parameter.grad, self.state[parameter], group)
        return loss

    @abc.abstractmethod
    def update(self, parameter: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        """Update one parameter; its state is empty at its first step."""


def _loss_of(closure: Callable[[], float] | None) -> float | None:
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()


OPTIMIZERS: Registry[torch.optim.Optimizer] = Registry("optimizer", __package__)


def takes_row_gradients(optimizer: type[Any] | torch.optim.Optimizer) -> bool:
    """Return whether tables under this optimizer get sparse gradients."""
    cls = optimizer if isinstance(optimizer, type) else type(optimizer)
    return issubclass(cls, (SparseOptimizer, torch.optim.SparseAdam))


def can_fuse(params: Sequence[Tensor], *, devices: Sequence[str] = ("cpu", "cuda")) -> bool:
    """Return whether torch's fused kernels take these parameters: one pass over memory, three times as fast."""
    return bool(params) and all(p.device.type in devices and p.is_floating_point() for p in params)
