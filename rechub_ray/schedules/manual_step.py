"""Rates by hand."""

from __future__ import annotations

import bisect
from typing import Annotated

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
        warmup_steps: steps of linear warmup, >= 0.
        warmup_lr: rate of the warmup's first step, >= 0.

    Raises:
        ConfigError: boundaries not ascending, or not as many rates as boundaries.
    """

    def __init__(
        self,
        total_steps: int,
        base_lr: float,
        *,
        boundaries: Annotated[list[Annotated[int, Ge(1)]], MinLen(1)],
        rates: Annotated[list[Annotated[float, Ge(0)]], MinLen(1)],
        warmup_steps: Annotated[int, Ge(0)] = 0,
        warmup_lr: Annotated[float, Ge(0)] = 0.0,
    ) -> None:
        super().__init__(total_steps, base_lr, warmup_steps=warmup_steps, warmup_lr=warmup_lr)
        if len(rates) != len(boundaries) or sorted(set(boundaries)) != boundaries:
            raise ConfigError(
                "schedule 'manual_step': boundaries and rates do not fit together",
                expected="ascending boundaries, and one rate for each",
                got=f"boundaries {boundaries}, rates {rates}",
            )
        self._boundaries, self._factors = boundaries, [1.0, *(self._relative(rate) for rate in rates)]

    def after_warmup(self, step: int) -> float:
        return self._factors[bisect.bisect_right(self._boundaries, step)]
