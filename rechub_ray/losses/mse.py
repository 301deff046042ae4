"""Squared error."""

from __future__ import annotations

from torch import Tensor

from rechub_ray.losses.base import LOSSES, Loss, Rows, weighted_sum


@LOSSES.register("mse", "l2_loss")
class MSE(Loss):
    """Squared error `(s - y)^2` of the raw output s and the label y, without the factor 1/2.

    A binary label is taken as a number. The rows' losses, times their sample weights, are summed and divided by the
    number of rows whose weight is not zero.

    Args:
        schema: has the labels.
        common: `output`, `label`, `weight` and `learn_loss_weight`, as in `Loss`.

    Shapes:
        output (B,), label (B,) -> scalar

    Raises:
        ConfigError: the label is multiclass.
    """

    label_kinds = ("regression", "binary")
    heads = ("value", "logit")
    link = "identity"
    learned_factor = 0.5

    def total(self, prediction: Tensor, rows: Rows) -> Tensor:
        return weighted_sum((prediction - rows.target).square(), rows.weight)
