"""Callbacks under Torch-RecHub's names, for training loops of one's own."""

from __future__ import annotations

import copy
from typing import Any, Literal

from rechub_ray import early_stopping

__all__ = ["EarlyStopper"]


class EarlyStopper:
    """Says when to stop, and keeps the best weights.

    Args:
        patience: stop at the evaluation that makes this many in a row without gain, >= 1.
        delta: a gain is more than this, >= 0.
        mode: whether larger (`max`) or smaller (`min`) scores are better.

    Attributes:
        best_auc: the best score so far; None before the first one.
        best_weights: a copy of the weights that came with it.

    Example:
        >>> stopper = EarlyStopper(patience=2)
        >>> [stopper.stop_training(auc, {"epoch": i}) for i, auc in enumerate([0.7, 0.8, 0.75, 0.8])]
        [False, False, False, True]
        >>> stopper.best_auc, stopper.best_weights
        (0.8, {'epoch': 1})
    """

    def __init__(self, patience: int, delta: float = 0.0, mode: Literal["max", "min"] = "max") -> None:
        self._stopper = early_stopping.EarlyStopper(metric="auc", mode=mode, patience=patience, min_delta=delta)
        self.best_weights: Any = None

    @property
    def best_auc(self) -> float | None:
        return self._stopper.best_score

    def stop_training(self, val_auc: float, weights: Any) -> bool:
        """Take one evaluation; return whether to stop."""
        if self._stopper.observe(val_auc, step=0, metrics={}):
            self.best_weights = copy.deepcopy(weights)
        return self._stopper.should_stop
