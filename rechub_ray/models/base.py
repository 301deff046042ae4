"""The base of models: typed outputs from stacked features."""

from __future__ import annotations

import abc
import functools
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from torch import nn

from rechub_ray.batch import Features, Outputs
from rechub_ray.errors import ConfigError, nearest, shown
from rechub_ray.outputs import Output
from rechub_ray.registry import Registry, keyword_arguments
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
        predictor: what `predict` does; set where the model comes from a run.
    """

    registered_name: ClassVar[str]
    outputs: tuple[Output, ...] = (Output("logit"),)
    arguments: dict[str, Any]
    predictor: Callable[[Model, Any], Any] | None = None

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

    def predict(self, data: Any) -> Any:
        """Return the predictions of a DataFrame or Table of raw values by the weights as they are.

        The model is that of a run (`result.model`, `rechub_ray.load(RUN).model`), whose transforms it needs.

        Args:
            data: as for `rechub_ray.load(RUN).predict`.

        Raises:
            ConfigError: the model is not one of a run.
        """
        if self.predictor is None:
            raise ConfigError(
                "this model does not know the transforms of its data",
                expected="the model of a run, as in result.model",
                hint="rechub_ray.load(RUN).predict(frame) reads them.",
            )
        return self.predictor(self, data)


def _remembering(init: Callable[..., None]) -> Callable[..., None]:
    """Return a constructor that keeps its keyword arguments, so that a model object can be built again elsewhere."""

    @functools.wraps(init)
    def remember(self: Model, *context: Any, **arguments: Any) -> None:
        arguments = _flat(type(self), arguments, where="model")
        # the outermost constructor comes first, and its arguments are the ones that build this class
        self.__dict__.setdefault("arguments", {key: value for key, value in arguments.items() if key != "schema"})
        init(self, *context, **arguments)

    return remember


_PERCEPTRON = {"dims": "hidden_units", "activation": "activation", "dropout": "dropout", "batch_norm": "batch_norm"}


def _flat(cls: type[Any], arguments: Mapping[str, Any], *, where: str) -> dict[str, Any]:
    """Return a model's arguments with those of a nested perceptron, `mlp: {dims, ...}`, beside the others."""
    result = dict(arguments)
    for key in {"mlp", "mlp_params"} & {*arguments}:
        known = keyword_arguments(cls)
        if key in known or "hidden_units" not in known:
            continue
        nested, place = result.pop(key), f"'{where}.{key}" if where else f"'{key}"
        if not isinstance(nested, Mapping):
            raise ConfigError(f"{place}' is the perceptron's arguments", expected=", ".join(_PERCEPTRON), got=nested)
        for inner, value in nested.items():
            if inner not in _PERCEPTRON:
                raise ConfigError(f"{place}' has no {shown(inner)}", hint=nearest(str(inner), _PERCEPTRON))
            if _PERCEPTRON[inner] in result:
                raise ConfigError(f"{place}.{inner}' says the same as '{_PERCEPTRON[inner]}'", hint="Leave one out.")
            result[_PERCEPTRON[inner]] = value
    return result


class Models(Registry[Model]):
    """The models by name. A perceptron's arguments may stand nested: `mlp` (or `mlp_params`): {dims, ...}."""

    def validate(self, node: Any, *, where: str = "", also: tuple[str, ...] = ()) -> dict[str, Any]:
        """As `Registry.validate`; what is nested comes back beside the other arguments.

        Raises:
            ConfigError: as `Registry.validate`, or an argument that is given twice.
        """
        if isinstance(node, Mapping) and "name" in node:
            node = _flat(self.get(node["name"], where=f"{where}.name" if where else "name"), node, where=where)
        return super().validate(node, where=where, also=also)


MODELS = Models("model", __package__)
