"""Squared error."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge
from torch import Tensor

from rechub_ray.losses.base import LOSSES, Loss, Rows, weighted_sum
from rechub_ray.schema import Schema


@LOSSES.register("mse")
class MSE(Loss):
    """Squared error `(s - y)^2` of the raw output, without the factor 1/2.

    The rows' losses, times their sample weights, are summed and divided by the number of rows whose weight is not zero.

    Args:
        schema: has the labels.
        output: the model output s; None takes the label's.
        label: a regression label y, or a binary one taken as a number; None takes the output's, or the schema's first.
        weight: factor of this loss in the sum, >= 0.

    Shapes:
        output (B,), label (B,) -> scalar

    Raises:
        ConfigError: the label is multiclass.
    """

    label_kinds = ("regression", "binary")
    heads = ("value", "logit")
    link = "identity"

    def __init__(
        self,
        schema: Schema,
        *,
        output: str | None = None,
        label: str | None = None,
        weight: Annotated[float, Ge(0)] = 1.0,
    ) -> None:
        super().__init__(schema, output=output, label=label, weight=weight)

    def total(self, prediction: Tensor, rows: Rows) -> Tensor:
        return weighted_sum((prediction - rows.target).square(), rows.weight)
