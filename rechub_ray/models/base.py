"""The base of models: typed outputs from stacked features."""

from __future__ import annotations

import abc
import functools
from collections.abc import Callable
from typing import Any, ClassVar

from torch import nn

from rechub_ray.batch import Features, Outputs
from rechub_ray.errors import ConfigError
from rechub_ray.outputs import Output
from rechub_ray.registry import Registry
from rechub_ray.schema import Schema


class Model(nn.Module, abc.ABC):
    """Base of all models.

    A subclass takes the schema by position and its hyperparameters by keyword. It declares what `forward` returns as
    `outputs`: on the class, or in the constructor where it depends on the schema. The default is one number a row
    called `logit`, for the schema's first label.

    Args:
        schema: the features it reads and the labels it predicts.

    Attributes:
        outputs: what `forward` returns.
        arguments: the keyword arguments it was built with, as `MODELS.build` takes them.
    """

    registered_name: ClassVar[str]
    outputs: tuple[Output, ...] = (Output("logit"),)
    arguments: dict[str, Any]

    def __init__(self, schema: Schema) -> None:
        super().__init__()
        self.schema = schema
        self.__dict__.setdefault("arguments", {})

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "output_names" in cls.__dict__:
            raise ConfigError(
                f"model '{cls.__name__}' sets `output_names`",
                expected='`outputs`, as in outputs = (Output("logit"), Output("balance", kind="loss"))',
            )
        if "__init__" in cls.__dict__:
            cls.__init__ = _remembering(cls.__init__)  # type: ignore[method-assign]

    @abc.abstractmethod
    def forward(self, features: Features) -> Outputs:
        """Return the outputs by name; see `Output` for what each kind holds."""


def _remembering(init: Callable[..., None]) -> Callable[..., None]:
    """Return a constructor that keeps its keyword arguments, so that a model object can be built again elsewhere."""

    @functools.wraps(init)
    def remember(self: Model, *context: Any, **arguments: Any) -> None:
        # the outermost constructor comes first, and its arguments are the ones that build this class
        self.__dict__.setdefault("arguments", {key: value for key, value in arguments.items() if key != "schema"})
        init(self, *context, **arguments)

    return remember


MODELS: Registry[Model] = Registry("model", __package__)
