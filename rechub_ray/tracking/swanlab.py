"""SwanLab."""

from __future__ import annotations

import concurrent.futures
import contextlib
import importlib.util
import math
import sys
import uuid
from collections.abc import Mapping
from typing import Any, Literal

from rechub_ray.errors import ConfigError
from rechub_ray.tracking.base import TRACKERS, RunInfo, Tracker

ID_FILE_NAME = "swanlab_run_id.txt"
FOLDER = "swanlab"


@TRACKERS.register("swanlab")
class SwanlabTracker(Tracker):
    """A run at swanlab.cn, or files for `swanlab sync` when offline; needs `pip install rechub_ray[swanlab]`.

    Files go to `swanlab/` in the run's directory. SwanLab allows one run in a process: while another one is open there,
    this tracker is left out. A run that is resumed goes on as the same one online, and adds a folder of the same id
    offline. NaN and infinity are left out.

    Args:
        project: the project's name.
        workspace: the team or user; None is the account's default.
        run_name: the run's name there; None takes this run's.
        group: the group's name; None takes the sweep's.
        tags: labels of the run.
        mode: `online`, `local` (for `swanlab watch`; needs `pip install swanlab[dashboard]`), `offline` (no network)
            or `disabled`; None takes the variable SWANLAB_MODE, else `online`.

    Raises:
        ConfigError: swanlab is not installed, or swanboard for mode `local`.
    """

    is_summary = True

    def __init__(
        self,
        run: RunInfo,
        *,
        project: str = "rechub_ray",
        workspace: str | None = None,
        run_name: str | None = None,
        group: str | None = None,
        tags: list[str] | None = None,
        mode: Literal["online", "local", "offline", "disabled"] | None = None,
    ) -> None:
        super().__init__(run)
        self.available()
        if mode == "local" and importlib.util.find_spec("swanboard") is None:
            raise ConfigError(
                "tracker 'swanlab' needs the package swanboard for mode 'local', which is not installed",
                hint="Run: pip install 'swanlab[dashboard]', or take mode 'offline'.",
            )
        import swanlab

        folder = run.directory / FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        self._step = run.start_step
        self._run = _open(
            project=project,
            workspace=workspace,
            name=run_name or run.name,
            group=group or run.group,
            tags=tags,
            mode=mode,
            log_dir=str(folder),
            id=_run_id(run),
            resume="allow",
            # no question for a key, which has no answer on a worker; numbers only, not the run's output or the machine
            settings=swanlab.Settings(
                interactive=False,
                terminal=swanlab.Settings.Terminal(proxy_type="none"),
                probe=swanlab.Settings.Probe(hardware=False, requirements=False, git=False, monitor=False),
            ),
        )

    @classmethod
    def available(cls) -> None:
        if importlib.util.find_spec("swanlab") is None:
            raise ConfigError(
                "tracker 'swanlab' needs the package swanlab, which is not installed",
                hint="Run: pip install 'rechub_ray[swanlab]', on every machine.",
            )

    def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        self._step = step
        finite = {name: float(value) for name, value in metrics.items() if math.isfinite(value)}
        if finite:
            self._run.log(finite, step=step)

    def hyperparameters(self, config: Mapping[str, Any], score: Mapping[str, float]) -> None:
        self._run.config.update(dict(config))
        self.log({f"best/{name}": value for name, value in score.items()}, step=self._step)

    def close(self) -> None:
        with contextlib.redirect_stdout(sys.stderr):
            self._run.finish()


def _open(**arguments: Any) -> Any:
    """Return the SwanLab run, opened in a thread of its own.

    Opened in the main thread it would take over Ctrl-C, which is the loop's, and could be closed in that thread only.
    Its messages go to standard error: standard output belongs to the command's result.
    """
    import swanlab

    with contextlib.redirect_stdout(sys.stderr), concurrent.futures.ThreadPoolExecutor(1) as executor:
        return executor.submit(swanlab.init, **arguments).result()


def _run_id(run: RunInfo) -> str:
    """Return the id of the run that is continued, else a new one."""
    known = run.kept_id(ID_FILE_NAME)
    if known is not None:
        return known
    new = uuid.uuid4().hex[:12]
    (run.directory / ID_FILE_NAME).write_text(new + "\n", encoding="utf-8")
    return new
