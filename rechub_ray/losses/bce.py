"""Binary cross-entropy."""

from __future__ import annotations

from typing import Annotated, Any

from annotated_types import Ge, Le
from torch import Tensor
from torch.nn import functional as F

from rechub_ray.losses.base import LOSSES, Loss, Rows, weighted_sum
from rechub_ray.schema import Schema


@LOSSES.register("bce", "binary_cross_entropy_loss", "cross_entropy_loss")
class BCE(Loss):
    """Binary cross-entropy of a logit s and a binary label y: `max(s, 0) - s z + log(1 + exp(-|s|))`.

    Here `z = (1 - e) y + e / 2`. The rows' losses, times their sample weights, are summed and divided by the number of
    rows whose weight is not zero (not by the sum of the weights).

    EasyRec's `BINARY_CROSS_ENTROPY_LOSS` ignores sample weights, and its `CROSS_ENTROPY_LOSS` takes the logarithms of
    p + 1e-7 and 1 - p + 1e-7, p being the probability; under both names, this one has weights and computes from the
    logit.

    Args:
        schema: has the labels.
        label_smoothing: e, in [0, 1].
        common: `output`, `label`, `weight` and `learn_loss_weight`, as in `Loss`.

    Shapes:
        output (B,), label (B,) -> scalar

    Raises:
        ConfigError: the label is not binary.
    """

    def __init__(
        self,
        schema: Schema,
        *,
        label_smoothing: Annotated[float, Ge(0), Le(1)] = 0.0,
        **common: Any,
    ) -> None:
        super().__init__(schema, **common)
        self.label_smoothing = label_smoothing

    def total(self, prediction: Tensor, rows: Rows) -> Tensor:
        target = rows.target.to(prediction.dtype)
        if self.label_smoothing > 0:
            target = target * (1 - self.label_smoothing) + 0.5 * self.label_smoothing
        losses = F.binary_cross_entropy_with_logits(prediction, target, reduction="none")
        return weighted_sum(losses, rows.weight)
