"""Focal loss, with the hardest rows alone on request."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from annotated_types import Ge, Gt, Le, Lt
from torch import Tensor
from torch.nn import functional as F

from rechub_ray.batch import Batch, Outputs
from rechub_ray.layers.gather import gather_rows
from rechub_ray.losses.base import LOSSES, Loss, Rows
from rechub_ray.schema import Schema
from rechub_ray.world import World


@LOSSES.register("binary_focal", "binary_focal_loss")
class BinaryFocal(Loss):
    """Binary cross-entropy of a logit s and a label y, times `(1 - p_t)^gamma`, which is small where s is right.

    Here `p_t = sigmoid(s)` for y = 1, else `1 - sigmoid(s)`; with `alpha`, rows with y = 1 count `alpha` times, the
    others `1 - alpha` times. Gradients flow through the factor. The rows' losses, times their sample weights, are
    summed and divided by the number of rows whose weight is not zero.

    With `ohem_ratio` r < 1 (online hard example mining), the mean is that of the largest of these losses in the whole
    step over all workers: of `max(1, rint(r n))` rows, but of no row of weight 0. n are all rows whose label is there.
    Rows that are equally hard share the last places. A step's rows cannot come in several parts then.

    Deviations from EasyRec: p_t is not clipped, and no row that counts gives 0, not NaN.

    Args:
        schema: has the labels.
        gamma: exponent of the factor, >= 0.
        alpha: share of the rows with y = 1, in (0, 1); None gives all rows the factor 1.
        ohem_ratio: r, in (0, 1]; 1 takes all rows.
        label_smoothing: e, in [0, 1]; the cross-entropy is that of `(1 - e) y + e / 2`, the factor that of y.
        common: `output`, `label`, `weight` and `learn_loss_weight`, as in `Loss`.

    Shapes:
        output (B,), label (B,) -> scalar

    Raises:
        ConfigError: the label is not binary.

    Reference: Lin et al., Focal Loss for Dense Object Detection, arXiv 1708.02002, eq. 5; Shrivastava et al., Training
    Region-based Object Detectors with Online Hard Example Mining, arXiv 1604.03540.
    """

    def __init__(
        self,
        schema: Schema,
        *,
        gamma: Annotated[float, Ge(0)] = 2.0,
        alpha: Annotated[float, Gt(0), Lt(1)] | None = None,
        ohem_ratio: Annotated[float, Gt(0), Le(1)] = 1.0,
        label_smoothing: Annotated[float, Ge(0), Le(1)] = 0.0,
        **common: Any,
    ) -> None:
        super().__init__(schema, **common)
        self.gamma, self.alpha, self.ohem_ratio, self.label_smoothing = gamma, alpha, ohem_ratio, label_smoothing
        self.scope = "rows" if ohem_ratio == 1 else "batch"

    def forward(self, outputs: Outputs, batch: Batch, world: World | None = None) -> Tensor:
        rows = self.rows(batch)
        losses = self._losses(outputs[self.output or "logit"], rows)
        if self.scope == "batch":
            losses = losses * self._share(losses.detach(), rows, world or World())
        return losses.sum()

    def total(self, prediction: Tensor, rows: Rows) -> Tensor:
        return self._losses(prediction, rows).sum()

    def count(self, batch: Batch, world: World | None = None) -> Tensor | float:
        if self.scope == "rows":
            return super().count(batch, world)
        world = world or World()
        return self._kept(self.rows(batch), world) / world.size  # added up over ranks

    def _losses(self, prediction: Tensor, rows: Rows) -> Tensor:
        target = rows.target.to(prediction.dtype)
        smooth = target * (1 - self.label_smoothing) + 0.5 * self.label_smoothing
        losses = F.binary_cross_entropy_with_logits(prediction, smooth, reduction="none")
        wrong = F.logsigmoid(prediction * (1 - 2 * target))  # log(1 - p_t), finite for any logit
        factor = torch.exp(self.gamma * wrong)
        if self.alpha is not None:
            factor = factor * (target * self.alpha + (1 - target) * (1 - self.alpha))
        return losses * (factor if rows.weight is None else factor * rows.weight)

    def _share(self, losses: Tensor, rows: Rows, world: World) -> Tensor:
        """Return how far each of this rank's rows is among the hardest of the step: 1, 0, or the share of a tie."""
        whole, _ = gather_rows(world, losses)
        kept = self._kept(rows, world)
        last = (kept - 1).clamp(min=0).long().reshape(1)
        least = whole.sort(descending=True).values.index_select(0, last)
        places = kept - (whole > least).sum()
        return torch.where(losses == least, places / (whole == least).sum(), (losses > least).float())

    def _kept(self, rows: Rows, world: World) -> Tensor:
        """Return the number of the hardest rows of the step, over all ranks, a scalar float32 tensor."""
        there = torch.ones_like(rows.target) if rows.is_there is None else rows.is_there.float()
        counts = there if rows.weight is None else (rows.weight != 0).float()
        all_there, all_count = world.sum_(torch.stack([there.sum(), counts.sum()]))
        return torch.minimum((all_there * self.ohem_ratio).round().clamp(min=1), all_count)
