"""What a model is: named outputs from stacked features."""

from __future__ import annotations

import abc

from torch import nn

from rechub_ray.batch import Features, Outputs
from rechub_ray.registry import Registry
from rechub_ray.schema import Schema


class Model(nn.Module, abc.ABC):
    """Base of all models.

    A subclass takes the schema by position and its hyperparameters by keyword, and sets `output_names` to the keys
    that `forward` returns (on the class, or in the constructor where they depend on the schema).

    Args:
        schema: the features it reads and the labels it predicts.
    """

    output_names: tuple[str, ...] = ("logit",)

    def __init__(self, schema: Schema) -> None:
        super().__init__()
        self.schema = schema

    @abc.abstractmethod
    def forward(self, features: Features) -> Outputs:
        """Named outputs; `logit` (B,) is before the sigmoid."""


MODELS: Registry[Model] = Registry("model")
