"""Binary cross-entropy of users and items, one pair at a time."""

from __future__ import annotations

from typing import Annotated, Any

from annotated_types import Ge
from torch import Tensor
from torch.nn import functional as F

from rechub_ray.batch import Batch
from rechub_ray.losses.base import LOSSES, Rows
from rechub_ray.losses.vectors import Block, TowerLoss, VectorLoss
from rechub_ray.schema import Schema
from rechub_ray.world import World


@LOSSES.register("sampled_bce", "pointwise")
class SampledBCE(TowerLoss):
    """Binary cross-entropy of a row's own pair and of its user with negatives: `b(s_ii, y_i) + n mean_j b(s_ij, 0)`.

    With `s_ij = u_i v_j / T`, `b(s, 1) = log(1 + exp(-s))` and `b(s, 0) = log(1 + exp(s))`; y_i is whether the row's
    label is above 0, and 1 in data without labels. j runs over the negatives of rows of label 1; those of label 0 are
    negatives by themselves, so data that has them needs no others. The rows' losses, times their sample weights, are
    summed and divided by the number of rows whose weight is not zero and whose item is in the item table.

    Args:
        schema: has the labels and features.
        negative_weight: n, >= 0.
        common: the arguments of `TowerLoss`.

    Shapes:
        user (B, D), item (C, D), label (B,) -> scalar

    Raises:
        ConfigError: `item_id` is no sparse feature of the schema, or the model does not have the vectors.

    Reference: He et al., Neural Collaborative Filtering, arXiv 1708.05031, eq. 7, with the mean over a row's negatives.
    """

    def __init__(self, schema: Schema, *, negative_weight: Annotated[float, Ge(0)] = 1.0, **common: Any) -> None:
        super().__init__(schema, **common)
        self.negative_weight = negative_weight

    @property
    def needs_negatives(self) -> bool:
        return self.label is None

    def counts(self, rows: Rows) -> Tensor:
        return VectorLoss.counts(self, rows)

    def count(self, batch: Batch, world: World | None = None) -> Tensor | float:
        return VectorLoss.count(self, batch, world)

    def of_rows(self, mine: Tensor, others: Tensor, block: Block) -> Tensor:
        similarity = self.similarities(mine, others, block)
        is_chosen = (block.rows.target[block.places] > 0).to(similarity.dtype)
        pair = F.binary_cross_entropy_with_logits(block.own(similarity).squeeze(1), is_chosen, reduction="none")
        return pair + self.negative_weight * is_chosen * self.mean_over_negatives(F.softplus(similarity), block)
