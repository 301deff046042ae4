"""Weights & Biases."""

from __future__ import annotations

import importlib.util
import uuid
from collections.abc import Mapping
from typing import Any, Literal

from rechub_ray.errors import ConfigError
from rechub_ray.tracking.base import TRACKERS, RunInfo, Tracker

ID_FILE_NAME = "wandb_run_id.txt"
_FINISH_SECONDS = 10.0


@TRACKERS.register("wandb")
class WandbTracker(Tracker):
    """A run at wandb.ai, or files for `wandb sync` when offline; needs `pip install rechub_ray[wandb]`.

    The run's id stays in the run's directory, so that a resumed run goes on as the same one. W&B takes no numbers
    of a step that it has passed: steps that are trained again keep the numbers of the first time, and the scores of a
    checkpoint that was evaluated beside training stand at the step of that moment, with `checkpoint_step`. The end of
    the run waits 10 seconds for the last upload; what is left then can be sent with `wandb sync`.

    Args:
        project: the project's name.
        entity: the team or user; None is the account's default.
        run_name: the run's name there; None takes this run's.
        group: the group's name; None takes the sweep's.
        tags: labels of the run.
        mode: `online`, `offline` (no network) or `disabled`; None takes the variable WANDB_MODE, else `online`.

    Raises:
        ConfigError: wandb is not installed.
    """

    is_summary = True

    def __init__(
        self,
        run: RunInfo,
        *,
        project: str = "rechub_ray",
        entity: str | None = None,
        run_name: str | None = None,
        group: str | None = None,
        tags: list[str] | None = None,
        mode: Literal["online", "offline", "disabled"] | None = None,
    ) -> None:
        super().__init__(run)
        self.available()
        self._step = run.start_step
        import wandb

        run.directory.mkdir(parents=True, exist_ok=True)
        self._run: Any = wandb.init(
            project=project,
            entity=entity,
            name=run_name or run.name,
            group=group or run.group,
            tags=tags,
            mode=mode,
            dir=str(run.directory),
            id=_run_id(run),
            resume="allow",
            reinit="create_new",  # a notebook's own run, or another trial's, stays as it is
            settings=wandb.Settings(silent=True, console="off", finish_timeout=_FINISH_SECONDS),
        )

    @classmethod
    def available(cls) -> None:
        if importlib.util.find_spec("wandb") is None:
            raise ConfigError(
                "tracker 'wandb' needs the package wandb, which is not installed",
                hint="Run: pip install 'rechub_ray[wandb]', on every machine.",
            )

    def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        if step < self._step:
            metrics, step = {**metrics, "checkpoint_step": step}, self._step
        self._step = step
        self._run.log(dict(metrics), step=step)

    def hyperparameters(self, config: Mapping[str, Any], score: Mapping[str, float]) -> None:
        self._run.config.update(dict(config), allow_val_change=True)
        self._run.summary.update({f"best/{name}": value for name, value in score.items()})

    def close(self) -> None:
        self._run.finish()


def _run_id(run: RunInfo) -> str:
    """Return the id of the run that is continued, else a new one."""
    known = run.kept_id(ID_FILE_NAME)
    if known is not None:
        return known
    new = uuid.uuid4().hex[:12]
    (run.directory / ID_FILE_NAME).write_text(new + "\n", encoding="utf-8")
    return new
