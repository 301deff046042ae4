"""The base of losses over lists of rows, and softmax within lists."""

from __future__ import annotations

import abc
import math
from typing import Annotated, Any

import torch
from annotated_types import Gt
from torch import Tensor, nn

from rechub_ray.losses.base import Columns, Rows
from rechub_ray.losses.pairs import SessionLoss
from rechub_ray.schema import Schema


class Lists:
    """The lists that the rows of a step lie in: sessions, or one of all rows.

    Args:
        rows: this rank's.
        columns: all rows of the lists.
        are_in: (C,) bool, the columns that are in a list; None takes all.
        by_group: whether lists are the groups of the rows.
    """

    def __init__(self, rows: Rows, columns: Columns, are_in: Tensor | None, *, by_group: bool) -> None:
        others = columns.rows
        self._mine = slice(columns.first, columns.first + len(rows.target))
        self._size = len(others.target) if by_group else 1
        self.are_in = torch.ones_like(others.target, dtype=torch.bool) if are_in is None else are_in
        self._of_rows = torch.zeros_like(others.target, dtype=torch.int64)
        if by_group:
            assert others.group is not None  # the schema has the column
            groups, order = others.group.sort(stable=True)
            self._of_rows[order[1:]] = (groups[1:] != groups[:-1]).cumsum(0)

    def sum(self, values: Tensor) -> Tensor:
        """Return for each row the sum over its list.

        Shapes:
            (C,) -> (C,)
        """
        kept = torch.where(self.are_in, values, 0)
        return values.new_zeros(self._size).index_add(0, self._of_rows, kept)[self._of_rows]

    def log_sum_exp(self, values: Tensor, which: Tensor | None = None) -> Tensor:
        """Return for each row the logarithm of the sum of exponentials over its list; -inf where that has no row.

        Args:
            values: one a row.
            which: the rows to add up; None takes all.

        Shapes:
            values (C,), which (C,) bool -> (C,)
        """
        which = self.are_in if which is None else which & self.are_in
        largest = values.new_full((self._size,), -math.inf)
        largest = largest.scatter_reduce(0, self._of_rows, values.detach().masked_fill(~which, -math.inf), "amax")
        largest = largest[self._of_rows]
        # a list without a row takes part with log(1), so that no gradient is 0 / 0
        is_empty = largest == -math.inf
        sums = values.new_zeros(self._size).index_add(
            0, self._of_rows, torch.where(which, torch.exp((values - largest).masked_fill(~which, 0)), 0)
        )[self._of_rows]
        return torch.where(is_empty, -math.inf, torch.log(torch.where(is_empty, 1, sums)) + largest)

    def own(self, values: Tensor) -> Tensor:
        """Return the sum over this rank's rows that are in a list, a scalar."""
        return torch.where(self.are_in, values, 0)[self._mine].sum()

    def count(self) -> Tensor:
        """Return the number of lists whose first row is this rank's, a scalar float32 tensor."""
        places = torch.arange(len(self._of_rows), device=self._of_rows.device)
        nowhere = len(places)
        first = places.new_full((self._size,), nowhere)
        first = first.scatter_reduce(0, self._of_rows, places.masked_fill(~self.are_in, nowhere), "amin")
        return ((first >= self._mine.start) & (first < self._mine.stop)).sum().float()


class Listwise(SessionLoss):
    """Base of losses of lists of rows: `-sum_i t_i log_softmax(s)_i` in each list, and the mean over the lists.

    Here `s = |w| prediction / T`; a subclass makes the targets t of the labels. A row's term is multiplied by its
    sample weight; rows of weight 0 are in no list, and lists without rows do not count. (EasyRec's ones leave sample
    weights out, and do not run with TensorFlow 2.)

    Args:
        schema: has the labels and the group column.
        temperature: T, > 0.
        scale_logits: whether w is learned; it starts at 1. A learned summand, as in EasyRec, would cancel out.
        common: the arguments of `SessionLoss`; without `session_name`, all rows of a step are one list.

    Raises:
        ConfigError: `session_name` is not the schema's group column.
    """

    def __init__(
        self,
        schema: Schema,
        *,
        temperature: Annotated[float, Gt(0)] = 1.0,
        scale_logits: bool = False,
        **common: Any,
    ) -> None:
        super().__init__(schema, **common)
        self.temperature = temperature
        self.scale = nn.Parameter(torch.ones(())) if scale_logits else None

    @abc.abstractmethod
    def targets(self, label: Tensor, lists: Lists) -> Tensor:
        """Return the targets of the rows, (C,); those of rows of weight 0 are not read."""

    def total_over(self, prediction: Tensor, rows: Rows, columns: Columns) -> Tensor:
        lists = self._lists(rows, columns)
        scores = columns.prediction / self.temperature
        if self.scale is not None:
            scores = scores * self.scale.abs()
        targets = torch.where(lists.are_in, self.targets(columns.rows.target.to(scores.dtype), lists), 0)
        losses = -targets * torch.where(lists.are_in, scores - lists.log_sum_exp(scores), 0)
        return lists.own(losses if columns.rows.weight is None else losses * columns.rows.weight)

    def count_over(self, rows: Rows, columns: Columns) -> Tensor:
        return self._lists(rows, columns).count()

    def _lists(self, rows: Rows, columns: Columns) -> Lists:
        weight = columns.rows.weight
        are_in = None if weight is None else weight != 0
        return Lists(rows, columns, are_in, by_group=self.session_name is not None)
