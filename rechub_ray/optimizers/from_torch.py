"""Any optimizer of torch by its dotted name, as in `torch.optim.RAdam`."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from rechub_ray.errors import ConfigError
from rechub_ray.optimizers.base import OPTIMIZERS
from rechub_ray.registry import borrowed_arguments, keyword_class

# switches of the implementation, and `maximize`: a loss is minimised
_SKIPPED = ("params", "foreach", "fused", "capturable", "differentiable", "maximize")


@OPTIMIZERS.adopt_with
def adopt(cls: type[Any]) -> type[torch.optim.Optimizer] | None:
    """Return the class `cls` with keyword-only arguments, under the names it gives them; None if it is no optimizer.

    Raises:
        ConfigError: it calls the model itself, has no learning rate, or takes arguments that no text can give.
    """
    if not isinstance(cls, type) or not issubclass(cls, torch.optim.Optimizer) or cls is torch.optim.Optimizer:
        return None
    closure = inspect.signature(cls.step).parameters.get("closure")
    arguments = borrowed_arguments(cls, skip=_SKIPPED)
    if (closure is not None and closure.default is closure.empty) or "lr" not in arguments:
        raise ConfigError(
            f"optimizer '{cls.__module__}.{cls.__qualname__}' does not fit the training loop",
            expected="one gradient a step, and a learning rate 'lr'",
            got="an optimizer that computes the loss by itself" if "lr" in arguments else "no argument 'lr'",
        )

    def init(self: Any, params: Iterable[Tensor], /, **given: Any) -> None:
        cls.__init__(self, list(params), **given)

    return keyword_class(cls, init, arguments, common=False)
