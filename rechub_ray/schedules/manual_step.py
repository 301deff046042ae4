"""Rates by hand."""

from __future__ import annotations

import bisect
from typing import Annotated, Any

from annotated_types import Ge, MinLen

from rechub_ray.errors import ConfigError
from rechub_ray.schedules.base import SCHEDULES, Schedule


@SCHEDULES.register("manual_step")
class ManualStep(Schedule):
    """The base rate until the first boundary, then a given rate from each boundary on.

    Args:
        total_steps: see `Schedule`.
        base_lr: see `Schedule`.
        boundaries: steps from the start of the run, ascending; the rate changes at the boundary itself.
        rates: the rate from each boundary on, >= 0; as many as boundaries.
        warmup: go from the base rate to the first of `rates` in a straight line, until the first boundary.
        common: see `Schedule`.

    Raises:
        ConfigError: boundaries not ascending, not as many rates as boundaries, or both `warmup` and `warmup_steps`.
    """

    def __init__(
        self,
        total_steps: int,
        base_lr: float,
        *,
        boundaries: Annotated[list[Annotated[int, Ge(1)]], MinLen(1)],
        rates: Annotated[list[Annotated[float, Ge(0)]], MinLen(1)],
        warmup: bool = False,
        **common: Any,
    ) -> None:
        super().__init__(total_steps, base_lr, **common)
        if len(rates) != len(boundaries) or sorted(set(boundaries)) != boundaries:
            raise ConfigError(
                "schedule 'manual_step': boundaries and rates do not fit together",
                expected="ascending boundaries, and one rate for each",
                got=f"boundaries {boundaries}, rates {rates}",
            )
        if warmup and self.warmup_steps:
            raise ConfigError(
                "schedule 'manual_step': warmup is the way to the first boundary",
                expected="warmup, or warmup_steps and warmup_lr",
                got=f"warmup: true, and warmup_steps: {self.warmup_steps}",
            )
        self._rise = boundaries[0] if warmup else 0
        self._boundaries, self._factors = boundaries, [1.0, *(self._relative(rate) for rate in rates)]

    def after_warmup(self, step: int) -> float:
        if step < self._rise:
            return 1 + (self._factors[1] - 1) * step / self._rise
        return self._factors[bisect.bisect_right(self._boundaries, step)]
