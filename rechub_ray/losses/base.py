"""What a loss is: a sum over rows, and the count to divide it by."""

from __future__ import annotations

import abc
from typing import ClassVar

from torch import Tensor, nn

from rechub_ray.batch import Batch, Outputs
from rechub_ray.errors import ConfigError, nearest
from rechub_ray.registry import Registry
from rechub_ray.schema import Schema


class Loss(nn.Module, abc.ABC):
    """Base of all losses: a sum (`forward`) and what to divide it by (`count`).

    They are apart so that the mean is exact where a step's rows come in several parts, or lie on several workers.

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
    def forward(self, outputs: Outputs, batch: Batch) -> Tensor:
        """The (weighted) sum over one batch's rows, a scalar."""

    def count(self, batch: Batch) -> Tensor | float:
        """What to divide by; here the rows whose weight is not zero.

        A float where it depends on the batch's size only (equal on every rank), a scalar float32 tensor where it
        depends on the data.
        """
        return float(batch.rows) if batch.weight is None else (batch.weight != 0).sum().float()

    def check(self, output_names: tuple[str, ...], *, where: str) -> None:
        """ConfigError when the model does not produce what this loss reads."""
        if self.output not in output_names:
            raise ConfigError(
                f"'{where}.output': the model has no output '{self.output}'", hint=nearest(self.output, output_names)
            )

    def target(self, batch: Batch) -> Tensor:
        """This loss's label column, (B,) float32."""
        return batch.labels[:, self._column]


def weighted_sum(values: Tensor, weight: Tensor | None) -> Tensor:
    """Sum of (B,) values times their weights: scaling all weights by c scales it by c."""
    return values.sum() if weight is None else (values * weight).sum()


LOSSES: Registry[Loss] = Registry("loss", __package__)
