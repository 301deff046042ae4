"""Cross-entropy of a label with two classes or more."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from rechub_ray.losses.base import LOSSES, Loss, Rows, weighted_sum


@LOSSES.register("classification")
class Classification(Loss):
    """The loss `bce` for a binary label, and `cross_entropy` for a multiclass one, both without label smoothing.

    The rows' losses, times their sample weights, are summed and divided by the number of rows whose weight is not zero.

    Args:
        schema: has the labels.
        common: `output`, `label`, `weight` and `learn_loss_weight`, as in `Loss`.

    Shapes:
        output (B,), or (B, C) for a multiclass label; label (B,) -> scalar

    Raises:
        ConfigError: the label is of kind regression.
    """

    label_kinds = ("binary", "multiclass")

    def total(self, prediction: Tensor, rows: Rows) -> Tensor:
        if self.link == "softmax":
            losses = F.cross_entropy(prediction, rows.target.long(), reduction="none")
        else:
            target = rows.target.to(prediction.dtype)
            losses = F.binary_cross_entropy_with_logits(prediction, target, reduction="none")
        return weighted_sum(losses, rows.weight)

    def use(self, label: str) -> None:
        super().use(label)
        if self._schema.label(label).kind == "multiclass":
            self.heads, self.link = ("classes",), "softmax"
        else:
            self.heads, self.link = ("logit",), "sigmoid"
