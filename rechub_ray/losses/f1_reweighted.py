"""Cross-entropy whose negative rows are reweighted for F1."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor
from torch.nn import functional as F

from rechub_ray.batch import Batch, Outputs
from rechub_ray.layers.gather import gather_rows
from rechub_ray.losses.base import LOSSES, Loss, Rows, weighted_sum
from rechub_ray.schema import Schema
from rechub_ray.world import World

_LARGEST = 100.0


@LOSSES.register("f1_reweighted", "f1_reweighted_loss", "f1_reweight_loss")
class F1Reweighted(Loss):
    """Binary cross-entropy whose rows with y = 0 count c times: `c = P / (P + (b - 1) n)`.

    P is the sum of sigmoid(s), and n the number of rows with y = 1, in the whole step over all workers, rows of sample
    weight 0 among them. With b < 1, c is above 1, and the model is drawn to precision; with b > 1, to recall; b = 1 is
    `bce`. Gradients flow through c. The rows' losses, times their sample weights, are summed and divided by the number
    of rows whose weight is not zero. A step's rows cannot come in several parts.

    Deviation from EasyRec: where b < 1 and P is near (1 - b) n, or below, its c is huge, or negative, so that the loss
    has no lower bound; here c is at most 100.

    Args:
        schema: has the labels.
        f1_beta_square: b, > 0.
        label_smoothing: e, in [0, 1]; the cross-entropy is that of `(1 - e) y + e / 2`.
        common: `output`, `label`, `weight` and `learn_loss_weight`, as in `Loss`.

    Shapes:
        output (B,), label (B,) -> scalar

    Raises:
        ConfigError: the label is not binary.
    """

    scope = "batch"

    def __init__(
        self,
        schema: Schema,
        *,
        f1_beta_square: Annotated[float, Gt(0)] = 1.0,
        label_smoothing: Annotated[float, Ge(0), Le(1)] = 0.0,
        **common: Any,
    ) -> None:
        super().__init__(schema, **common)
        self.f1_beta_square, self.label_smoothing = f1_beta_square, label_smoothing

    def forward(self, outputs: Outputs, batch: Batch, world: World | None = None) -> Tensor:
        prediction, rows = outputs[self.output or "logit"], self.rows(batch)
        return self._total(prediction, rows, gather_rows(world or World(), self._sums(prediction, rows))[0])

    def total(self, prediction: Tensor, rows: Rows) -> Tensor:
        return self._total(prediction, rows, self._sums(prediction, rows))

    def _sums(self, prediction: Tensor, rows: Rows) -> Tensor:
        """Return P and n of this rank's rows, (1, 2)."""
        chances = prediction.sigmoid()
        if rows.is_there is not None:
            chances = torch.where(rows.is_there, chances, 0)
        return torch.stack([chances.sum(), rows.target.to(chances.dtype).sum()]).unsqueeze(0)

    def _total(self, prediction: Tensor, rows: Rows, sums: Tensor) -> Tensor:
        predicted, positive = sums.sum(0)
        whole = predicted + (self.f1_beta_square - 1) * positive
        factor = predicted / (torch.maximum(whole, predicted / _LARGEST) + 1e-8)
        target = rows.target.to(prediction.dtype)
        smooth = target * (1 - self.label_smoothing) + 0.5 * self.label_smoothing
        losses = F.binary_cross_entropy_with_logits(prediction, smooth, reduction="none")
        return weighted_sum(losses * torch.where(target == 1, 1, factor), rows.weight)
