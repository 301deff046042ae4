"""Cross-entropy of classes."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, Lt
from torch import Tensor
from torch.nn import functional as F

from rechub_ray.losses.base import LOSSES, Loss, Rows, weighted_sum
from rechub_ray.schema import Schema


@LOSSES.register("cross_entropy")
class CrossEntropy(Loss):
    """Cross-entropy of a multiclass label: `-sum_c z_c log_softmax(s)_c`, with `z = (1 - e) onehot(y) + e / C`.

    The rows' losses, times their sample weights, are summed and divided by the number of rows whose weight is not zero.

    Args:
        schema: has the labels.
        output: the model output that holds the classes' logits s; None takes the label's.
        label: a multiclass label y; None takes the output's, or the schema's first.
        weight: factor of this loss in the sum, >= 0.
        label_smoothing: e, in [0, 1).

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
        output: str | None = None,
        label: str | None = None,
        weight: Annotated[float, Ge(0)] = 1.0,
        label_smoothing: Annotated[float, Ge(0), Lt(1)] = 0.0,
    ) -> None:
        super().__init__(schema, output=output, label=label, weight=weight)
        self.label_smoothing = label_smoothing

    def total(self, prediction: Tensor, rows: Rows) -> Tensor:
        losses = F.cross_entropy(prediction, rows.target.long(), reduction="none", label_smoothing=self.label_smoothing)
        return weighted_sum(losses, rows.weight)
