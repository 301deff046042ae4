"""Softmax over sampled items."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import torch
from annotated_types import Gt
from torch import Tensor

from rechub_ray.batch import Batch, Outputs
from rechub_ray.losses.base import LOSSES
from rechub_ray.losses.vectors import Block, TowerLoss
from rechub_ray.outputs import Output, find
from rechub_ray.schema import Schema


@LOSSES.register("sampled_softmax", "in_batch_softmax")
class SampledSoftmax(TowerLoss):
    """Cross-entropy of a row's own item among the candidates, corrected for how often an item is one of them.

    `log(sum_j exp(z_ij)) - z_ii` with `z_ij = u_i v_j / T - log q_j` in every column, the row's own too, where q_j is
    the share of columns that item j is expected to have. j runs over the row's own column and those of other items. It
    is no full softmax: less probable items are left out, and the correction makes up for that on average alone.

    Rows whose label is above 0 count, and all rows of data without labels; the rows' losses, times their sample
    weights, are summed and divided by the number of rows that count and whose weight is not zero.

    Args:
        schema: has the labels and features.
        temperature: T, > 0; None takes 0.05 for cosines, and 1 for products of vectors of any length.
        logq: whether scores are corrected; without, popular items are pushed away more than they should be.
        common: the other arguments of `TowerLoss`.

    Shapes:
        user (B, D), item (C, D) -> scalar

    Raises:
        ConfigError: `item_id` is no sparse feature of the schema, or the model does not have the vectors.

    Reference: Yi et al., Sampling-Bias-Corrected Neural Modeling for Large Corpus Item Recommendations, RecSys 2019,
    eq. 2 to 5, with the frequencies of the training data in place of estimated ones; with drawn items, Yang et al.,
    Mixed Negative Sampling for Learning Two-tower Neural Networks in Recommendations, WWW 2020.
    """

    takes_counts = True

    def __init__(
        self, schema: Schema, *, temperature: Annotated[float, Gt(0)] | None = None, logq: bool = True, **common: Any
    ) -> None:
        super().__init__(schema, temperature=temperature or 1.0, **common)
        self.logq, self._has_default = logq, temperature is None

    def bind(self, outputs: Sequence[Output], *, where: str) -> None:
        super().bind(outputs, where=where)
        if self._has_default:
            towers = [find(outputs, str(name), where=where) for name in (self.output, self.item)]
            are_cosines = self.similarity == "cosine" or all(tower.is_unit for tower in towers)
            self.temperature = 0.05 if are_cosines else 1.0

    def vectors(self, outputs: Outputs, batch: Batch) -> tuple[Tensor, Tensor]:
        user, item = super().vectors(outputs, batch)
        if batch.candidates is None or not self.logq:
            return user, item
        # one more number in each, so that the product has the correction: T, which is divided by T
        scale = torch.full_like(user[:, :1], self.temperature)
        return torch.cat([user, scale], 1), torch.cat([item, -batch.candidates.log_q.unsqueeze(1)], 1)

    def of_rows(self, mine: Tensor, others: Tensor, block: Block) -> Tensor:
        return self.cross_entropy(mine, others, block)
