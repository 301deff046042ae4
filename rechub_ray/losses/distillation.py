"""Knowledge distillation."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
from annotated_types import Gt
from torch import Tensor
from torch.nn import functional as F

from rechub_ray.batch import Batch
from rechub_ray.errors import ConfigError
from rechub_ray.losses.base import LOSSES, Loss, Rows, weighted_sum
from rechub_ray.schema import Schema

_EPSILON = 1e-7


@LOSSES.register("distillation", "kl_divergence", "kl_divergence_loss")
class Distillation(Loss):
    """Distance of a logit s from a teacher's: a column of the data set has the teacher's logit or probability.

    With the teacher's logit t, temperature T, q = sigmoid(t / T) and p = sigmoid(s / T):

    - `kl`: `q log(q / p) + (1 - q) log((1 - q) / (1 - p))`, the Kullback-Leibler divergence of two classes;
    - `bce`: `-q log p - (1 - q) log(1 - p)`, which has the same gradient;
    - `l2`: `(s / T - t / T)^2`.

    There is no factor T^2. The rows' losses, times their sample weights, are summed and divided by the number of rows
    whose weight is not zero and whose teacher is there; whether the label itself is there does not matter.

    Args:
        schema: has the labels; the teacher's column is a label of kind regression in the recipe. A column that is named
            here and not trained by any loss is read, but not predicted.
        teacher: the column.
        teacher_kind: what is in it. Probabilities are kept in [1e-7, 1 - 1e-7].
        form: see above.
        temperature: T, > 0.
        common: `output`, `label`, `weight` and `learn_loss_weight`, as in `Loss`.

    Shapes:
        output (B,), teacher (B,) -> scalar

    Raises:
        ConfigError: the label is multiclass, or the teacher's column is.
        SchemaError: there is no such column.

    Reference: Hinton, Vinyals and Dean, Distilling the Knowledge in a Neural Network, arXiv 1503.02531; `l2`: Ba and
    Caruana, Do Deep Nets Really Need to be Deep?, arXiv 1312.6184, eq. 1, without its factor 1/2.
    """

    label_kinds = ("binary", "regression")

    def __init__(
        self,
        schema: Schema,
        *,
        teacher: str,
        teacher_kind: Literal["probability", "logit"] = "probability",
        form: Literal["kl", "bce", "l2"] = "kl",
        temperature: Annotated[float, Gt(0)] = 1.0,
        **common: Any,
    ) -> None:
        super().__init__(schema, **common)
        self.teacher, self.is_logit, self.form, self.temperature = teacher, teacher_kind == "logit", form, temperature
        if schema.target(teacher).kind == "multiclass":
            raise ConfigError(f"loss 'distillation': the teacher '{teacher}' is multiclass", expected="numbers")

    def rows(self, batch: Batch) -> Rows:
        return self.column(batch, self._schema.target(self.teacher))

    def total(self, prediction: Tensor, rows: Rows) -> Tensor:
        teacher = rows.target.to(prediction.dtype)
        if not self.is_logit:
            teacher = torch.logit(teacher, _EPSILON)
        s, t = prediction / self.temperature, teacher / self.temperature
        if self.form == "l2":
            losses = (s - t).square()
        else:
            losses = F.binary_cross_entropy_with_logits(s, t.sigmoid(), reduction="none")
        if self.form == "kl":
            losses = losses - F.binary_cross_entropy_with_logits(t, t.sigmoid(), reduction="none")
        return weighted_sum(losses, rows.weight)
