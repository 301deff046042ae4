"""Cross-entropy of classes."""

from __future__ import annotations

from typing import Annotated, Any

from annotated_types import Ge, Lt
from torch import Tensor
from torch.nn import functional as F

from rechub_ray.losses.base import LOSSES, Loss, Rows, weighted_sum
from rechub_ray.schema import Schema


@LOSSES.register("cross_entropy")
class CrossEntropy(Loss):
    """Cross-entropy of a multiclass label y and its classes' logits s: `-sum_c z_c log_softmax(s)_c`.

    Here `z = (1 - e) onehot(y) + e / C`. The rows' losses, times their sample weights, are summed and divided by the
    number of rows whose weight is not zero.

    Args:
        schema: has the labels.
        label_smoothing: e, in [0, 1).
        common: `output`, `label`, `weight` and `learn_loss_weight`, as in `Loss`.

    Shapes:
        output (B, C), label (B,) -> scalar

    Raises:
        ConfigError: the label is not multiclass.
    """

    label_kinds = ("multiclass",)
    heads = ("classes",)
    link = "softmax"

    def __init__(
        self,
        schema: Schema,
        *,
        label_smoothing: Annotated[float, Ge(0), Lt(1)] = 0.0,
        **common: Any,
    ) -> None:
        super().__init__(schema, **common)
        self.label_smoothing = label_smoothing

    def total(self, prediction: Tensor, rows: Rows) -> Tensor:
        losses = F.cross_entropy(prediction, rows.target.long(), reduction="none", label_smoothing=self.label_smoothing)
        return weighted_sum(losses, rows.weight)
