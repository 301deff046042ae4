"""Log loss."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from rechub_ray.metrics.base import METRICS
from rechub_ray.metrics.mean import MeanMetric


@METRICS.register("log_loss")
class LogLoss(MeanMetric):
    """Binary cross-entropy of the predicted probabilities, from logits.

    L = sum_i w_i (softplus(s_i) - y_i s_i) / sum_i w_i, finite for every finite logit.

    Deviation: scikit-learn clips probabilities to the float's epsilon; here nothing is clipped.
    """

    mode = "min"

    def values(self, prediction: Tensor, target: Tensor) -> Tensor:
        # max(s, 0) - s y + log(1 + exp(-|s|)): softplus(s) - s y would lose digits where both are large
        return prediction.clamp(min=0) - prediction * target + functional.softplus(-prediction.abs())
