"""One cycle: up to the base rate, and down far below the start."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le

from rechub_ray.schedules.base import SCHEDULES, Schedule


@SCHEDULES.register("one_cycle")
class OneCycle(Schedule):
    """From lr / start_divisor up to lr, then down to lr / (start_divisor * end_divisor) at the run's last step.

    The optimizer's rate is the top of the cycle. `torch.optim.lr_scheduler.OneCycleLR` has the same rates (its
    max_lr is the top); momentum stays as it is here.

    Args:
        total_steps: see `Schedule`.
        base_lr: see `Schedule`.
        rise: the part of the steps on which the rate rises, in (0, 1].
        start_divisor: the first rate is lr divided by it, >= 1.
        end_divisor: the last rate is the first one divided by it, >= 1.
        curve: `cosine` or `linear`.
        common: see `Schedule`.

    Reference:
        Smith and Topin, Super-Convergence, arXiv:1708.07120.
    """

    def __init__(
        self,
        total_steps: int,
        base_lr: float,
        *,
        rise: Annotated[float, Gt(0), Le(1)] = 0.3,
        start_divisor: Annotated[float, Ge(1)] = 25.0,
        end_divisor: Annotated[float, Ge(1)] = 1e4,
        curve: Literal["cosine", "linear"] = "cosine",
        **common: Any,
    ) -> None:
        super().__init__(total_steps, base_lr, **common)
        self._start, self._end, self._curve = 1 / start_divisor, 1 / (start_divisor * end_divisor), curve
        self._top = max(rise * self.length - 1, 0.0)

    def after_warmup(self, step: int) -> float:
        at, last = step - self.warmup_steps, self.length - 1
        if at < self._top:
            return self._between(self._start, 1.0, at / self._top)
        fall = last - self._top
        return self._between(1.0, self._end, min((at - self._top) / fall, 1.0) if fall else float(at > last))

    def _between(self, start: float, end: float, part: float) -> float:
        return end + (start - end) * ((1 + math.cos(math.pi * part)) / 2 if self._curve == "cosine" else 1 - part)
