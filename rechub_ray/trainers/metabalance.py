"""MetaBalance as an object beside the optimizer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from rechub_ray.errors import ConfigError


class MetaBalance:
    """The balancing `metabalance` in the form `MTLTrainer(model, optimizer=MetaBalance(model.parameters()))`.

    It scales gradients; the steps are those of `optimizer_fn`.

    Args:
        parameters: has no effect: shared parameters and tables are found in the model.
        relax_factor: see `rechub_ray.balancing.MetaBalance`.
        beta: likewise.
        strategy: likewise.
        target: likewise.

    Raises:
        ConfigError: `parameters` is a number, which was meant for another argument.
    """

    def __init__(
        self,
        parameters: Iterable[Any] | None = None,
        relax_factor: float = 0.7,
        beta: float = 0.9,
        *,
        strategy: Literal["A", "B", "C"] = "C",
        target: str | None = None,
    ) -> None:
        if parameters is not None and not isinstance(parameters, Iterable):
            raise ConfigError("MetaBalance: 'parameters' comes first", expected="model.parameters()", got=parameters)
        self.node = {
            "name": "metabalance",
            "relax_factor": relax_factor,
            "beta": beta,
            "strategy": strategy,
            "target": target,
        }
