"""A rate that falls when validation does not gain."""

from __future__ import annotations

from typing import Annotated, Any

from annotated_types import Ge, Gt, Lt

from rechub_ray.schedules.base import SCHEDULES, Schedule


@SCHEDULES.register("reduce_on_plateau")
class ReduceOnPlateau(Schedule):
    """The rate times `decay` after more than `patience` validations in a row without gain.

    A gain is a score at least `min_delta` better than the best so far. NaN is passed over. After a reduction the count
    starts again, the best score stays.

    Args:
        total_steps: see `Schedule`.
        base_lr: see `Schedule`.
        decay: what the rate is multiplied by, in (0, 1).
        patience: validations without gain that change nothing, >= 0; 0 reduces after each one.
        min_lr: the floor, >= 0.
        min_delta: the smallest gain, >= 0.
        common: see `Schedule`.

    Example:
        >>> schedule = ReduceOnPlateau(1000, 1e-3)
        >>> for auc in (0.70, 0.75, 0.74): schedule.observe(auc, mode="max")
        >>> schedule.factor(500)
        0.1
    """

    def __init__(
        self,
        total_steps: int,
        base_lr: float,
        *,
        decay: Annotated[float, Gt(0), Lt(1)] = 0.1,
        patience: Annotated[int, Ge(0)] = 0,
        min_lr: Annotated[float, Ge(0)] = 1e-6,
        min_delta: Annotated[float, Ge(0)] = 1e-6,
        **common: Any,
    ) -> None:
        super().__init__(total_steps, base_lr, **common)
        self._decay, self._patience, self._min_delta = decay, patience, min_delta
        self._floor = min(1.0, self._relative(min_lr))
        self._factor, self._without_gain = 1.0, 0
        self._best: float | None = None

    def after_warmup(self, step: int) -> float:
        return self._factor

    def observe(self, score: float, *, mode: str) -> None:
        if score != score:
            return
        best = self._best
        sign = 1 if mode == "max" else -1
        gained = best is None or sign * score >= sign * best + self._min_delta
        if gained:
            self._best, self._without_gain = score, 0
            return
        self._without_gain += 1
        if self._without_gain > self._patience:
            self._factor, self._without_gain = max(self._factor * self._decay, self._floor), 0

    def state_dict(self) -> dict[str, Any]:
        return {"factor": self._factor, "without_gain": self._without_gain, "best": self._best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._factor, self._without_gain, self._best = state["factor"], state["without_gain"], state["best"]
