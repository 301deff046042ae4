"""Early stopping, and the best evaluation."""

from __future__ import annotations

import math
from typing import Any, Literal


class EarlyStopper:
    """Counts evaluations without gain.

    A gain is a score better than the best one by more than `min_delta`. The `patience`-th evaluation in a row without
    gain sets `should_stop`; one whose score is not defined (NaN) does not count.

    Args:
        metric: the metric's key, for messages and state.
        mode: `max` or `min`.
        patience: >= 1; None never stops.
        min_delta: >= 0.

    Example:
        >>> stopper = EarlyStopper(metric="auc", mode="max", patience=2)
        >>> [stopper.observe(score, step=i, metrics={}) for i, score in enumerate([0.7, 0.8, 0.79, 0.8])]
        [True, True, False, False]
        >>> stopper.should_stop, stopper.best_score
        (True, 0.8)
    """

    def __init__(
        self, *, metric: str, mode: Literal["max", "min"], patience: int | None = None, min_delta: float = 0.0
    ) -> None:
        self.metric, self.mode, self.patience, self.min_delta = metric, mode, patience, min_delta
        self.best_score: float | None = None
        self.best_step: int | None = None
        self.best_metrics: dict[str, float] = {}
        self.without_gain = 0

    @property
    def should_stop(self) -> bool:
        return self.patience is not None and self.without_gain >= self.patience

    def observe(self, score: float, *, step: int, metrics: dict[str, float]) -> bool:
        """Count one evaluation and return whether it is the best so far."""
        if math.isnan(score):
            return False
        sign = 1.0 if self.mode == "max" else -1.0
        if self.best_score is None or sign * (score - self.best_score) > self.min_delta:
            self.best_score, self.best_step, self.best_metrics, self.without_gain = score, step, dict(metrics), 0
            return True
        self.without_gain += 1
        return False

    def state_dict(self) -> dict[str, Any]:
        return {
            "metric": self.metric,
            "best_score": self.best_score,
            "best_step": self.best_step,
            "best_metrics": self.best_metrics,
            "without_gain": self.without_gain,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state_dict`; ignore the state of another metric, whose scores do not compare."""
        if state.get("metric") != self.metric:
            return
        self.best_score, self.best_step = state["best_score"], state["best_step"]
        # a file holds null for a metric that is not defined
        self.best_metrics = {key: math.nan if value is None else value for key, value in state["best_metrics"].items()}
        self.without_gain = state["without_gain"]
