"""Loggers from elsewhere as trackers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from rechub_ray.tracking.base import RunInfo, Tracker


@runtime_checkable
class Logger(Protocol):
    """The interface of Torch-RecHub's `model_logger` objects."""

    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None: ...

    def log_hyperparams(self, params: dict[str, Any]) -> None: ...

    def finish(self) -> None: ...


class LoggerAdapter(Tracker):
    """Passes everything to a Torch-RecHub logger; the step is the global optimizer step, not the epoch.

    Args:
        run: the run that is tracked.
        logger: an object with `log_metrics(metrics, step)`, `log_hyperparams(params)` and `finish()`.
    """

    def __init__(self, run: RunInfo, logger: Logger) -> None:
        super().__init__(run)
        self.logger = logger

    def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        self.logger.log_metrics(dict(metrics), step=step)

    def hyperparameters(self, config: Mapping[str, Any], score: Mapping[str, float]) -> None:
        if score:  # these loggers take hyperparameters once, with the scores
            self.logger.log_hyperparams({**config, **{f"best/{name}": value for name, value in score.items()}})

    def close(self) -> None:
        self.logger.finish()
