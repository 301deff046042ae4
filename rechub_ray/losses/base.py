"""What a loss is: a sum over rows and the count to divide it by."""

from __future__ import annotations

import abc
import dataclasses
from typing import ClassVar

from torch import Tensor, nn

from rechub_ray.batch import Batch, Outputs
from rechub_ray.errors import ConfigError, nearest
from rechub_ray.registry import Registry
from rechub_ray.schema import Schema


@dataclasses.dataclass(slots=True)
class LossSum:
    """A loss before its division: apart, so that the mean over several workers' rows is exact.

    Args:
        total: scalar, the (weighted) sum.
        count: what to divide by. A float where it depends on the batch's size only (equal on every rank), a scalar
            tensor where it depends on the data (rows with a non-zero weight, pairs, ...).
    """

    total: Tensor
    count: Tensor | float


class Loss(nn.Module, abc.ABC):
    """Base of all losses.

    Args:
        schema: has the labels.
        output: the model output that the loss reads.
        label: the label; None takes the schema's first.
        weight: factor of this loss in the objective's sum, >= 0.
    """

    registered_name: ClassVar[str]

    def __init__(self, schema: Schema, *, output: str, label: str | None, weight: float) -> None:
        super().__init__()
        self.output, self.label, self.weight = output, schema.label(label).name, weight
        self._column = [item.name for item in schema.labels].index(self.label)

    @abc.abstractmethod
    def forward(self, outputs: Outputs, batch: Batch) -> LossSum:
        """The loss of one batch."""

    def check(self, output_names: tuple[str, ...], *, where: str) -> None:
        """ConfigError when the model does not produce what this loss reads."""
        if self.output not in output_names:
            raise ConfigError(
                f"'{where}.output': the model has no output '{self.output}'", hint=nearest(self.output, output_names)
            )

    def target(self, batch: Batch) -> Tensor:
        """This loss's label column, (B,) float32."""
        return batch.labels[:, self._column]


def sum_by_nonzero_weights(values: Tensor, weight: Tensor | None) -> LossSum:
    """Weighted sum of (B,) values, to be divided by the number of rows whose weight is not zero.

    Scaling all weights by c scales the loss by c; a row of weight 0 leaves sum and count alike.
    """
    if weight is None:
        return LossSum(values.sum(), float(values.shape[0]))
    return LossSum((values * weight).sum(), (weight != 0).sum().to(values.dtype))


LOSSES: Registry[Loss] = Registry("loss")
