"""The learning-rate schedules: a step in, a multiplier of the base rate out."""

from __future__ import annotations

import abc
from typing import Annotated, Any, Literal

from annotated_types import Ge

from rechub_ray.registry import Registry


class Schedule(abc.ABC):
    """Base of all schedules: a linear warmup, then what the subclass says.

    Step t of the first W = warmup_steps has the rate warmup_lr + (lr - warmup_lr) * t / W.

    Args:
        total_steps: optimizer steps of the whole run, known before it starts; epochs where `per` is `epoch`.
        base_lr: the optimizer's learning rate; bounds in `*_lr` arguments are absolute rates.
        warmup_steps: steps of the warmup, >= 0.
        warmup_lr: rate of the first step where there is a warmup, >= 0.
        per: `step`, or `epoch`: the rate changes between epochs only, and every count of steps in the schedule's
            arguments counts epochs.
    """

    def __init__(
        self,
        total_steps: int,
        base_lr: float,
        *,
        warmup_steps: Annotated[int, Ge(0)] = 0,
        warmup_lr: Annotated[float, Ge(0)] = 0.0,
        per: Literal["step", "epoch"] = "step",
    ) -> None:
        self.total_steps, self.base_lr, self.per = total_steps, base_lr, per
        self.warmup_steps, self._warmup_factor = warmup_steps, self._relative(warmup_lr)

    @property
    def length(self) -> int:
        """Steps after the warmup, >= 1."""
        return max(1, self.total_steps - self.warmup_steps)

    def factor(self, step: int) -> float:
        """Return the base rate's multiplier for the update that makes step `step` + 1 (the first update has step 0)."""
        if step < self.warmup_steps:
            return self._warmup_factor + (1 - self._warmup_factor) * step / self.warmup_steps
        return self.after_warmup(step)

    @abc.abstractmethod
    def after_warmup(self, step: int) -> float:
        """Return the multiplier at a step >= `warmup_steps`, counted from the start of the run."""

    def observe(self, score: float, *, mode: str) -> None:  # noqa: B027
        """Take a validation's early-stopping score (`mode`: max or min); only plateau schedules use it."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state as JSON values; empty for pure functions of the step."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027
        """Restore what `state_dict` returned."""

    def _relative(self, rate: float) -> float:
        """Return an absolute rate as a multiplier."""
        return rate / self.base_lr if self.base_lr else 0.0


SCHEDULES: Registry[Schedule] = Registry("schedule", __package__)
