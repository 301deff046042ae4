"""The base of balancing methods, which make one loss, or one gradient, of those of several tasks."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from rechub_ray.errors import ConfigError
from rechub_ray.layers.embedding import tables_of
from rechub_ray.registry import Registry
from rechub_ray.schema import Label


class Balancing(nn.Module, abc.ABC):
    """Base of all balancing methods.

    A task is a label with its losses; its loss is their weighted sum. A method of losses overrides `combine`; one that
    learns from the gradients of a few parameters sets `watches`, with `watched` and `observe`. A method of gradients
    sets `needs_gradients` and overrides `coefficients`: then there is one backward a task. Gradients are averaged over
    ranks first, and their inner products are the same bits on every rank.

    Its parameters and buffers are checkpointed, resumed and cloned with the model, and never exported.

    Args:
        tasks: the labels that have losses, in the schema's order.

    Attributes:
        tables: names of the model's embedding weights.
        table_starts: of weights whose tables have inner products and factors of their own, the first row of each
            table, ascending, (P,).

    Raises:
        ConfigError: there are fewer tasks than the method needs (`fewest_tasks`).
    """

    registered_name: ClassVar[str]
    needs_gradients: ClassVar[bool] = False
    watches: ClassVar[bool] = False
    fewest_tasks: ClassVar[int] = 1

    def __init__(self, tasks: Sequence[Label]) -> None:
        super().__init__()
        self.tasks = tuple(tasks)
        self.tables: frozenset[str] = frozenset()
        self.table_starts: dict[str, Tensor] = {}
        if len(self.tasks) < self.fewest_tasks:
            raise ConfigError(
                f"balancing '{self.registered_name}' balances tasks against each other",
                expected=f"at least {self.fewest_tasks} labels with losses",
                got=", ".join(task.name for task in self.tasks) or "none",
            )

    def bind(self, model: nn.Module) -> None:
        """Take note of the model whose tasks are balanced."""
        self.tables = frozenset(tables_of(model))

    def draw(self, generator: torch.Generator) -> None:
        """Draw the random numbers of one step, before its losses are computed; here there are none.

        Args:
            generator: a function of seed and step alone, equal on every rank.
        """
        return

    def combine(self, losses: Tensor, share: Tensor | float) -> Tensor:
        """Return the number to minimise.

        Args:
            losses: one a task, as this part of this rank contributes to the step's.
            share: this part's share in the rows of the step, such that the mean over ranks of all parts' sums is 1.

        Shapes:
            losses (T,) -> scalar
        """
        return losses.sum()

    def watched(self, names: Sequence[str]) -> Sequence[str]:
        """Return the shared parameters, of `names`, whose gradients of each task `observe` is told about."""
        return names

    def observe(self, products: Tensor, losses: Tensor) -> None:
        """Take note of a step, after its losses were combined; called where it `watches`.

        Args:
            products: inner products of the tasks' gradients of the watched parameters, in float64, before weighting.
            losses: one a task, over all rows of the step.

        Shapes:
            products (T, T); losses (T,)
        """
        return

    @torch.no_grad()
    def coefficients(
        self, products: Mapping[str, Tensor], losses: Tensor, generator: torch.Generator
    ) -> dict[str, Tensor]:
        """Return for each shared parameter the factors of the tasks' gradients; each parameter's gradient is their sum.

        Args:
            products: by shared parameter, the inner products of the tasks' gradients (Gram matrix), in float64.
            losses: one a task, over all rows of the step.
            generator: for random numbers: a function of seed and step alone, equal on every rank.

        Shapes:
            products (T, T); losses (T,) -> (T,) each; with P tables (P, T, T) -> (P, T)
        """
        raise NotImplementedError

    @torch.no_grad()
    def weights(self) -> Tensor | None:
        """Return the factors of the tasks' losses, (T,), for the log; None where the method has none."""
        return None


BALANCING: Registry[Balancing] = Registry("balancing", __package__)
