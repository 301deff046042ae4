"""The base of trackers, which record the numbers of a run and never end it.

The names of the numbers:

- `train/loss`: mean since the last log point; `train/loss/<part>` for each of several losses.
- `learning_rate`: of the first optimizer; `learning_rate/<i>` for each of several.
- `val/<metric>`: a validation, for instance `val/auc`; `val/<label>/<metric>` with several labels.
- `epoch` (from 0; -1 for the validation before training), `data/rows` (trained so far, over all workers),
  `rows_per_second` (over all workers).
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from rechub_ray.registry import Registry


@dataclasses.dataclass(frozen=True)
class RunInfo:
    """The facts of a run that its trackers use.

    Args:
        name: the run's name.
        directory: the local folder where the run's logs go.
        group: the sweep's name, for a trial.
        group_directory: the sweep's folder, for what its trials share.
        resumed: whether earlier numbers of this run exist and are continued.
        start_step: optimizer steps done before this start; numbers of later steps, from before an interruption, are
            dropped.
        total_steps: optimizer steps of the whole run, where they are known.
        summary_every_steps: steps between two points of training for trackers with `is_summary`; None gives them all.
    """

    name: str
    directory: Path
    group: str | None = None
    group_directory: Path | None = None
    resumed: bool = False
    start_step: int = 0
    total_steps: int | None = None
    summary_every_steps: int | None = None

    def kept_id(self, file_name: str) -> str | None:
        """Return the id under which a service knows the run, from a file in its directory, or None for a new run.

        A trial's folder belongs to that trial alone, so the service's run is continued even without a checkpoint.
        """
        path = self.directory / file_name
        if (self.resumed or self.group is not None) and path.exists():
            return path.read_text(encoding="utf-8").strip()
        return None


class Tracker(abc.ABC):
    """Base of all trackers; lives on rank 0 only. Exceptions are caught by `Trackers`, which warns once.

    Args:
        run: the run that is tracked.

    Attributes:
        is_summary: whether a point costs enough (a service, a large file) that `train.summary_every_steps` thins them.
    """

    registered_name: ClassVar[str]
    is_summary: ClassVar[bool] = False

    def __init__(self, run: RunInfo) -> None:
        self.run = run

    @classmethod  # noqa: B027
    def available(cls) -> None:
        """Check that the packages of the tracker are installed; called before any worker starts.

        Raises:
            ConfigError: one is not.
        """

    @abc.abstractmethod
    def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Record numbers at a global optimizer step; `epoch` is among them where it is known."""

    def hyperparameters(self, config: Mapping[str, Any], score: Mapping[str, float]) -> None:  # noqa: B027
        """Record the flat configuration (dotted path -> scalar): first without scores, last with the best ones."""

    def close(self) -> None:  # noqa: B027
        """Write what is left; called once, also after an error."""


TRACKERS: Registry[Tracker] = Registry("tracker", __package__)
