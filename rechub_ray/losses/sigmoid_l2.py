"""Squared error of a probability."""

from __future__ import annotations

from torch import Tensor

from rechub_ray.losses.base import LOSSES, Loss, Rows, weighted_sum


@LOSSES.register("sigmoid_l2", "sigmoid_l2_loss")
class SigmoidL2(Loss):
    """Squared error `(sigmoid(s) - y)^2` of a logit s and a label y in [0, 1], without the factor 1/2.

    The label is binary, or a rate of kind regression. The rows' losses, times their sample weights, are summed and
    divided by the number of rows whose weight is not zero.

    Args:
        schema: has the labels.
        common: `output`, `label`, `weight` and `learn_loss_weight`, as in `Loss`.

    Shapes:
        output (B,), label (B,) -> scalar

    Raises:
        ConfigError: the label is multiclass.

    Reference: Brier, Verification of Forecasts Expressed in Terms of Probability (Monthly Weather Review 78, 1950).
    """

    label_kinds = ("binary", "regression")
    learned_factor = 0.5

    def total(self, prediction: Tensor, rows: Rows) -> Tensor:
        return weighted_sum((prediction.sigmoid() - rows.target).square(), rows.weight)
