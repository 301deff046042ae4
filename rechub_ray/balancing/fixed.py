"""Fixed weights of tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor

from rechub_ray.balancing.base import BALANCING, Balancing
from rechub_ray.errors import ConfigError, nearest
from rechub_ray.schema import Label

_Weight = Annotated[float, Ge(0)]


@BALANCING.register("fixed")
class FixedWeights(Balancing):
    """Losses weighted by given numbers: `sum_t w_t L_t`.

    Args:
        tasks: the labels that have losses.
        task_weights: w_t >= 0: one a task in the schema's order, or by label, where a label that is left out has 1.

    Raises:
        ConfigError: another number of weights than tasks, or a label without a task.
    """

    factors: Tensor

    def __init__(
        self, tasks: Sequence[Label], *, task_weights: tuple[_Weight, ...] | Mapping[str, _Weight] = ()
    ) -> None:
        super().__init__(tasks)
        names = [task.name for task in self.tasks]
        if isinstance(task_weights, Mapping):
            for name in task_weights:
                if name not in names:
                    message = f"'balancing.task_weights': no task is called '{name}'"
                    raise ConfigError(message, hint=nearest(name, names))
            factors = [float(task_weights.get(name, 1.0)) for name in names]
        else:
            factors = [float(weight) for weight in task_weights] or [1.0] * len(names)
            if len(factors) != len(names):
                raise ConfigError(
                    "'balancing.task_weights' has another number of weights than there are tasks",
                    expected=f"{len(names)}, for {', '.join(names)}",
                    got=str(len(factors)),
                )
        self.register_buffer("factors", torch.tensor(factors), persistent=False)

    def combine(self, losses: Tensor, share: Tensor | float) -> Tensor:
        return (self.factors * losses).sum()

    @torch.no_grad()
    def weights(self) -> Tensor:
        return self.factors
