"""Log loss."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from torch.nn import functional

from rechub_ray.metrics.base import METRICS
from rechub_ray.metrics.mean import MeanMetric
from rechub_ray.schema import LabelKind


@METRICS.register("log_loss")
class LogLoss(MeanMetric):
    """Cross-entropy of the predicted probabilities, from logits; of classes for a multiclass label.

    Binary: L = sum_i w_i (softplus(s_i) - y_i s_i) / sum_i w_i. Multiclass: L = -sum_i w_i log_softmax(s_i)_{y_i} /
    sum_i w_i. Both are finite for every finite logit.

    Deviation: scikit-learn clips probabilities to the float's epsilon; here nothing is clipped.
    """

    mode = "min"
    label_kinds: ClassVar[tuple[LabelKind, ...]] = ("binary", "multiclass")

    def values(self, prediction: Tensor, target: Tensor) -> Tensor:
        if prediction.dim() == 2:
            return functional.cross_entropy(prediction, target.long(), reduction="none")
        # max(s, 0) - s y + log(1 + exp(-|s|)): softplus(s) - s y would lose digits where both are large
        return prediction.clamp(min=0) - prediction * target + functional.softplus(-prediction.abs())
