"""Pairwise logistic loss."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from annotated_types import Ge, Gt
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from rechub_ray.errors import ConfigError
from rechub_ray.losses.base import LOSSES, Columns, PairLoss, Rows
from rechub_ray.schema import Schema

_BLOCK = 2**24
"""Pairs that are held at once: 64 MiB a tensor in float32."""


@LOSSES.register("pairwise_logistic")
class PairwiseLogistic(PairLoss):
    """Logistic loss of the difference of two logits whose labels differ: `log(1 + exp(-d))`, `d = (s_i - s_j) / T - m`.

    Pairs are all (i, j) with y_i > y_j (binary or graded labels), in one session where `session_name` is given, else in
    the whole step over all workers. A pair has the weight of row i; the sum is divided by the number of pairs whose
    weight is not zero. No pair gives 0. Pairs are computed in blocks of rows, and again in backward: memory does not
    grow with their number.

    Args:
        schema: has the labels and the group column.
        session_name: the schema's group column, with `data.group_by: true`; None compares all rows of a step.
        temperature: T, > 0.
        hinge_margin: m, >= 0.
        common: `output`, `label`, `weight` and `learn_loss_weight`, as in `Loss`.

    Shapes:
        output (B,), label (B,) -> scalar

    Raises:
        ConfigError: `session_name` is not the schema's group column.

    Reference: Burges et al., Learning to Rank using Gradient Descent (ICML 2005), with sigma = 1 / T.
    """

    label_kinds = ("binary", "regression")
    heads = ("logit", "value")
    link = None

    def __init__(
        self,
        schema: Schema,
        *,
        session_name: str | None = None,
        temperature: Annotated[float, Gt(0)] = 1.0,
        hinge_margin: Annotated[float, Ge(0)] = 0.0,
        **common: Any,
    ) -> None:
        super().__init__(schema, **common)
        if session_name is not None and session_name != schema.group:
            raise ConfigError(
                f"loss 'pairwise_logistic': 'session_name' is '{session_name}'",
                expected=f"the schema's group column, '{schema.group}'" if schema.group else "a group column",
                hint=None if schema.group else "Name one as 'group' in the recipe of `rechub-ray prepare`.",
            )
        self.scope = "batch" if session_name is None else "group"
        self.temperature, self.hinge_margin = temperature, hinge_margin

    def total_over(self, prediction: Tensor, rows: Rows, columns: Columns) -> Tensor:
        total = prediction.new_zeros(())
        for start, stop in self._blocks(len(prediction), len(columns.prediction)):
            total = total + checkpoint(
                self._block, prediction[start:stop], columns.prediction, start, stop, rows, columns, use_reentrant=False
            )
        return total

    def count_over(self, rows: Rows, columns: Columns) -> Tensor:
        total = torch.zeros((), dtype=torch.float64, device=rows.target.device)
        for start, stop in self._blocks(len(rows.target), len(columns.rows.target)):
            total += (self._pairs(rows, columns, start, stop) != 0).sum()
        return total.float()

    def _block(self, mine: Tensor, all_: Tensor, start: int, stop: int, rows: Rows, columns: Columns) -> Tensor:
        difference = (mine.unsqueeze(1) - all_) / self.temperature - self.hinge_margin
        return (F.softplus(-difference) * self._pairs(rows, columns, start, stop)).sum()

    def _pairs(self, rows: Rows, columns: Columns, start: int, stop: int) -> Tensor:
        """Return the weights of the pairs of rows [start, stop) with all columns; 0 where there is no pair."""
        are_pairs = rows.target[start:stop].unsqueeze(1) > columns.rows.target
        if columns.rows.is_there is not None:
            are_pairs &= columns.rows.is_there
        if self.scope == "group":
            assert rows.group is not None  # the schema has the column
            assert columns.rows.group is not None
            are_pairs &= rows.group[start:stop].unsqueeze(1) == columns.rows.group
        pairs = are_pairs.to(rows.target.dtype)
        return pairs if rows.weight is None else pairs * rows.weight[start:stop].unsqueeze(1)

    @staticmethod
    def _blocks(rows: int, columns: int) -> list[tuple[int, int]]:
        size = max(1, _BLOCK // max(columns, 1))
        return [(start, min(start + size, rows)) for start in range(0, rows, size)]
