"""Order between the probabilities of two labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import torch
from annotated_types import MinLen
from torch import Tensor
from torch.nn import functional as F

from rechub_ray.batch import Batch, Outputs
from rechub_ray.errors import ConfigError
from rechub_ray.losses.base import LOSSES, Loss, Rows, weighted_sum
from rechub_ray.outputs import Output, claim
from rechub_ray.schema import Schema
from rechub_ray.world import World


@LOSSES.register("order_calibrate", "order_calibrate_loss")
class OrderCalibrate(Loss):
    """Penalty where a label is more probable than one that comes before it: `sum_r max(0, p - p_r)`.

    p is the probability of the label, such as a purchase, and p_r those of labels that it cannot be without, such as a
    click. It reads no label's values, so the label needs another loss beside it. The rows' penalties, times their
    sample weights, are summed and divided by the number of rows whose weight is not zero and whose label is there;
    EasyRec leaves weights out.

    Args:
        schema: has the labels.
        relations: the labels that come before; the model has a logit for each.
        common: `output`, `label`, `weight` and `learn_loss_weight`, as in `Loss`.

    Shapes:
        output (B,) and those of the relations, (B,) each -> scalar

    Raises:
        ConfigError: a label is not binary, or is its own relation.

    Reference: Xi et al., Modeling the Sequential Dependence among Audience Multi-step Conversions with Multi-task
    Learning in Targeted Display Advertising, arXiv 2105.08489, eq. 11.
    """

    trains = False

    def __init__(self, schema: Schema, *, relations: Annotated[list[str], MinLen(1)], **common: Any) -> None:
        super().__init__(schema, **common)
        self.relations = [schema.label(name) for name in relations]
        for label in self.relations:
            if label.kind not in self.label_kinds:
                raise ConfigError(f"loss 'order_calibrate': relation '{label.name}' is {label.kind}", expected="binary")
        self._before: list[str] = []

    def bind(self, outputs: Sequence[Output], *, where: str) -> None:
        super().bind(outputs, where=where)
        self._before = []
        for i, relation in enumerate(self.relations):
            place = f"{where}.relations.{i}"
            if relation.name == self.label:
                raise ConfigError(f"'{place}': '{relation.name}' is the loss's own label", expected="another label")
            output, _ = claim(outputs, self._schema, output=None, label=relation.name, where=place)
            if output.kind not in self.heads:
                raise ConfigError(f"'{place}': output '{output.name}' is of kind {output.kind}", expected="a logit")
            self._before.append(output.name)

    def forward(self, outputs: Outputs, batch: Batch, world: World | None = None) -> Tensor:
        logits = [outputs[name] for name in (self.output or "logit", *self._before)]
        return self.total(torch.stack(logits, 1), self.rows(batch))

    def total(self, prediction: Tensor, rows: Rows) -> Tensor:
        chances = prediction.sigmoid()
        return weighted_sum(F.relu(chances[:, :1] - chances[:, 1:]).sum(1), rows.weight)
