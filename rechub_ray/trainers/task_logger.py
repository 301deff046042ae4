"""Numbers of tasks under Torch-RecHub's names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rechub_ray.tracking.adapter import Logger


class TaskLogger:
    """Passes everything to a logger, with `train/task_{i}_loss`, `val/task_{i}_score` and `auc` beside our own names.

    `auc` is the score of the task that stops training, whatever kind it is of.

    Args:
        logger: the user's.
        losses: by number of a task, the end of the key of its loss; empty where it is the run's only one.
        scores: by number of a task, the key of its score.
        stopping: number of the task that stops training.
    """

    def __init__(self, logger: Logger, losses: Mapping[int, str], scores: Sequence[str], stopping: int) -> None:
        self.logger, self._losses, self._scores, self._stopping = logger, dict(losses), list(scores), stopping

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Log numbers at a global optimizer step."""
        found = dict(metrics)
        for task, end in self._losses.items():
            for key, value in metrics.items():
                if key.startswith("train/loss") and key.endswith(end) and (end or key == "train/loss"):
                    found[f"train/task_{task}_loss"] = value
        for task, key in enumerate(self._scores):
            if f"val/{key}" in metrics:
                found[f"val/task_{task}_score"] = metrics[f"val/{key}"]
                if task == self._stopping:
                    found["auc"] = metrics[f"val/{key}"]
        self.logger.log_metrics(found, step=step)

    def log_hyperparams(self, params: Mapping[str, Any]) -> None:
        """Log the flat configuration."""
        self.logger.log_hyperparams(dict(params))

    def finish(self) -> None:
        """End the run."""
        self.logger.finish()
