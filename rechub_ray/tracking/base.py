"""What a tracker is: it hears numbers and never ends a run.

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
    """What a tracker may know of the run.

    Args:
        name: the run's name. directory: the local folder where the run's logs go.
        group: the sweep's name, for a trial. group_directory: the sweep's folder, for what its trials share.
        resumed: whether earlier numbers of this run exist and are continued.
        start_step: the optimizer steps done before; numbers of later steps, from before an interruption, are void.
        total_steps: optimizer steps of the whole run, where they are known.
    """

    name: str
    directory: Path
    group: str | None = None
    group_directory: Path | None = None
    resumed: bool = False
    start_step: int = 0
    total_steps: int | None = None

    def kept_id(self, file_name: str) -> str | None:
        """The id under which a service knows the run, from a file in its directory; None where it has none yet.

        A trial's folder is that trial's alone, so what began in it is continued even if it left no checkpoint.
        """
        path = self.directory / file_name
        if (self.resumed or self.group is not None) and path.exists():
            return path.read_text(encoding="utf-8").strip()
        return None


class Tracker(abc.ABC):
    """Base of all trackers; lives on rank 0 only. Exceptions are caught by `Trackers`, which warns once.

    Args:
        run: what is being tracked.
    """

    registered_name: ClassVar[str]

    def __init__(self, run: RunInfo) -> None:
        self.run = run

    @classmethod  # noqa: B027
    def available(cls) -> None:
        """ConfigError when a package that the tracker needs is not installed; asked before any worker starts."""

    @abc.abstractmethod
    def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Numbers at a global optimizer step; `epoch` is among them where it is known."""

    def hyperparameters(self, config: Mapping[str, Any], score: Mapping[str, float]) -> None:  # noqa: B027
        """The flat configuration (dotted path -> scalar), at the start with no score, at the end with the best ones."""

    def close(self) -> None:  # noqa: B027
        """Flushes; called once, also after an error."""


TRACKERS: Registry[Tracker] = Registry("tracker", __package__)
