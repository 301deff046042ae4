"""Contrastive loss of two views a row."""

from __future__ import annotations

import torch
from torch import Tensor

from rechub_ray.batch import Batch, Outputs
from rechub_ray.losses.base import LOSSES
from rechub_ray.losses.vectors import Block, TowerLoss


@LOSSES.register("nce", "nce_loss", "nt_xent")
class NCE(TowerLoss):
    """Cross-entropy of each of a row's two vectors finding the other one among all vectors of the step.

    Of 2B vectors each has one positive, the row's other one, and 2B - 2 negatives, of both kinds; with vectors z and
    temperature T, a vector loses `log(sum_k exp(z z_k / T)) - z z' / T`, and a row the mean of its two. (`info_nce`
    compares users with items alone.) Rows whose label is above 0 count; the rows' losses, times their sample weights,
    are summed and divided by the number of rows that count and whose weight is not zero.

    Args:
        schema: has the labels and features.
        common: the arguments of `TowerLoss`.

    Shapes:
        user (B, D), item (B, D), label (B,) -> scalar

    Raises:
        ConfigError: `item_id` is no sparse feature of the schema, or the model does not have the vectors.

    Reference: Chen et al., A Simple Framework for Contrastive Learning of Visual Representations, arXiv 2002.05709,
    eq. 1; there, similarities are cosines.
    """

    takes_drawn = takes_lists = False

    def vectors(self, outputs: Outputs, batch: Batch) -> tuple[Tensor, Tensor]:
        both = torch.cat(super().vectors(outputs, batch), 1)
        return both, both

    def of_rows(self, mine: Tensor, others: Tensor, block: Block) -> Tensor:
        (u, v), (users, items) = mine.chunk(2, 1), others.chunk(2, 1)
        are_none = ~self.negatives(block)
        losses = []
        for view, same, other in ((u, users, items), (v, items, users)):
            across = view @ other.T
            # not -inf: the gradient of a sum over nothing would be NaN
            within = (view @ same.T).masked_fill(are_none, torch.finfo(view.dtype).min)
            total = torch.logaddexp(self.or_own(across, block).logsumexp(1), within.logsumexp(1))
            losses.append(total - block.own(across).squeeze(1))
        return (losses[0] + losses[1]) / 2
