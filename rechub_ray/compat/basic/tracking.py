"""Loggers under Torch-RecHub's names, for `model_logger`."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import Any

from rechub_ray.compat.missing import package

__all__ = ["BaseLogger", "SwanLabLogger", "TensorBoardXLogger", "WandbLogger"]


class BaseLogger(abc.ABC):
    """Base of the loggers that `model_logger` takes; subclass it for a service of one's own."""

    @abc.abstractmethod
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Log numbers at a global optimizer step."""

    @abc.abstractmethod
    def log_hyperparams(self, params: Mapping[str, Any]) -> None:
        """Log the flat configuration with the best scores; called once, at the end of a run."""

    @abc.abstractmethod
    def finish(self) -> None:
        """End the run."""


class WandbLogger(BaseLogger):
    """A Weights & Biases run.

    Args:
        project: the project's name.
        name: the run's name.
        config: hyperparameters known beforehand.
        tags: labels of the run.
        notes: text of the run.
        dir: folder of wandb's files.
        options: more arguments of `wandb.init`.

    Raises:
        ConfigError: wandb is not installed.
    """

    def __init__(
        self,
        project: str,
        name: str | None = None,
        config: dict[str, Any] | None = None,
        tags: list[str] | None = None,
        notes: str | None = None,
        dir: str | None = None,
        **options: Any,
    ) -> None:
        wandb = package("wandb", "this logger", "pip install rechub_ray[wandb]")
        self.run: Any = wandb.init(
            project=project, name=name, config=config, tags=tags, notes=notes, dir=dir, **options
        )

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        self.run.log(dict(metrics), step=step)

    def log_hyperparams(self, params: Mapping[str, Any]) -> None:
        self.run.config.update(dict(params), allow_val_change=True)

    def finish(self) -> None:
        self.run.finish()


class SwanLabLogger(BaseLogger):
    """A SwanLab experiment.

    Args:
        project: the project's name.
        experiment_name: the experiment's name.
        description: text of the experiment.
        config: hyperparameters known beforehand.
        logdir: folder of SwanLab's files.
        options: more arguments of `swanlab.init`.

    Raises:
        ConfigError: swanlab is not installed.
    """

    def __init__(
        self,
        project: str | None = None,
        experiment_name: str | None = None,
        description: str | None = None,
        config: dict[str, Any] | None = None,
        logdir: str | None = None,
        **options: Any,
    ) -> None:
        swanlab = package("swanlab", "this logger", "pip install swanlab")
        self.run: Any = swanlab.init(
            project=project,
            experiment_name=experiment_name,
            description=description,
            config=config,
            logdir=logdir,
            **options,
        )

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        self.run.log(dict(metrics), step=step)

    def log_hyperparams(self, params: Mapping[str, Any]) -> None:
        self.run.config.update(dict(params))

    def finish(self) -> None:
        self.run.finish()


class TensorBoardXLogger(BaseLogger):
    """TensorBoard event files.

    Args:
        log_dir: where they go.
        comment: text at the end of the folder's name where log_dir is empty.
        options: more arguments of `tensorboardX.SummaryWriter`.

    Raises:
        ConfigError: tensorboardX is not installed.
    """

    def __init__(self, log_dir: str, comment: str = "", **options: Any) -> None:
        self.writer: Any = package("tensorboardX", "this logger", "pip install tensorboardX").SummaryWriter(
            logdir=log_dir, comment=comment, **options
        )
        self._steps = 0

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        if step is None:
            step, self._steps = self._steps, self._steps + 1
        for name, value in metrics.items():
            self.writer.add_scalar(name, value, step)

    def log_hyperparams(self, params: Mapping[str, Any]) -> None:
        lines = [f"    {name}: {value}" for name, value in params.items()]  # indented: Markdown leaves it as it is
        self.writer.add_text("hyperparameters", "\n".join(lines))

    def finish(self) -> None:
        self.writer.close()
