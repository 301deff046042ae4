"""What a model is: named outputs from stacked features."""

from __future__ import annotations

import abc
import functools
from collections.abc import Callable
from typing import Any, ClassVar

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

    Attributes:
        arguments: the keyword arguments it was built with, as `MODELS.build` takes them.
    """

    registered_name: ClassVar[str]
    output_names: tuple[str, ...] = ("logit",)
    arguments: dict[str, Any]

    def __init__(self, schema: Schema) -> None:
        super().__init__()
        self.schema = schema
        self.__dict__.setdefault("arguments", {})

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "__init__" in cls.__dict__:
            cls.__init__ = _remembering(cls.__init__)  # type: ignore[method-assign]

    @abc.abstractmethod
    def forward(self, features: Features) -> Outputs:
        """Named outputs; `logit` (B,) is before the sigmoid."""


def _remembering(init: Callable[..., None]) -> Callable[..., None]:
    """A constructor that keeps its keyword arguments, so that a model object can be built again elsewhere."""

    @functools.wraps(init)
    def remember(self: Model, *context: Any, **arguments: Any) -> None:
        # the outermost constructor comes first, and its arguments are the ones that build this class
        self.__dict__.setdefault("arguments", {key: value for key, value in arguments.items() if key != "schema"})
        init(self, *context, **arguments)

    return remember


MODELS: Registry[Model] = Registry("model", __package__)
