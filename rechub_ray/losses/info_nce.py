"""Contrastive loss of two vectors a row."""

from __future__ import annotations

from typing import Annotated, Any

from annotated_types import Gt
from torch import Tensor

from rechub_ray.losses.base import LOSSES
from rechub_ray.losses.vectors import Block, TowerLoss
from rechub_ray.schema import Schema


@LOSSES.register("info_nce", "infonce", "info_nce_loss", "infonce_loss")
class InfoNCE(TowerLoss):
    """Cross-entropy of a row's own item among the items of the step: `log(sum_j exp(u_i v_j / T)) - u_i v_i / T`.

    Rows whose label is above 0 count; items of all rows are compared with. The rows' losses, times their sample
    weights, are summed and divided by the number of rows that count and whose weight is not zero.

    Args:
        schema: has the labels and features.
        temperature: T, > 0.
        common: the other arguments of `TowerLoss`.

    Shapes:
        user (B, D), item (B, D), label (B,) -> scalar

    Raises:
        ConfigError: `item_id` is no sparse feature of the schema, or the model does not have the vectors.

    Reference: van den Oord, Li and Vinyals, Representation Learning with Contrastive Predictive Coding,
    arXiv 1807.03748, eq. 4.
    """

    takes_counts = True

    def __init__(self, schema: Schema, *, temperature: Annotated[float, Gt(0)] = 0.1, **common: Any) -> None:
        super().__init__(schema, temperature=temperature, **common)

    def of_rows(self, mine: Tensor, others: Tensor, block: Block) -> Tensor:
        return self.cross_entropy(mine, others, block)
