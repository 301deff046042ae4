"""MLflow."""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import math
import os
import queue
import re
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

from rechub_ray.errors import ConfigError
from rechub_ray.tracking.base import TRACKERS, RunInfo, Tracker

ID_FILE_NAME = "mlflow_run_id.txt"
DATABASE_FILE_NAME = "mlflow.db"
_LARGEST_BATCH = 100  # parameters that MLflow takes in one call
_LONGEST_VALUE = 500  # of a parameter, for servers of older versions
_LONGEST_WAIT = 60.0  # seconds for another process to make the tables


@TRACKERS.register("mlflow")
class MlflowTracker(Tracker):
    """A run at an MLflow server, or in a local SQLite file; needs `pip install rechub_ray[mlflow]`.

    Without a server the numbers go to `mlflow.db` in the run's directory, or in the sweep's for all its trials; see
    them with `mlflow ui --backend-store-uri sqlite:///DIR/mlflow.db`. SQLite needs a disk of its own host: a sweep over
    several hosts needs a server. Numbers are sent by a thread of their own, so that a slow server does not hold
    up training. The run's id stays in the run's directory, so that a resumed run goes on as the same one; steps that
    are trained again appear twice. MLflow's parameters never change: a run that is resumed with another
    configuration shows the first one. MLflow stores no infinity, which is written as NaN, and its names have no `@`:
    `recall@10` is called `recall_at_10`.

    Args:
        experiment: the experiment's name, made where it does not exist; None takes the sweep's name, else `rechub_ray`.
        tracking_uri: the server or store; None takes the variable MLFLOW_TRACKING_URI, else the local file.
        run_name: the run's name there; None takes this run's.
        tags: labels of the run.

    Raises:
        ConfigError: mlflow is not installed.
    """

    is_summary = True

    def __init__(
        self,
        run: RunInfo,
        *,
        experiment: str | None = None,
        tracking_uri: str | None = None,
        run_name: str | None = None,
        tags: dict[str, str] | None = None,
    ) -> None:
        super().__init__(run)
        self.available()
        from mlflow import MlflowClient

        run.directory.mkdir(parents=True, exist_ok=True)
        local = f"sqlite:///{((run.group_directory or run.directory) / DATABASE_FILE_NAME).resolve()}"
        uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or local
        with _alone_with(uri):
            # the client's own state, and never mlflow's global one, which a notebook or another trial may use
            self._client: Any = MlflowClient(tracking_uri=uri)
        self._told: set[str] = set()  # parameters that can no longer change
        self._run_id = self._open(experiment or run.group or "rechub_ray", run_name or run.name, tags or {})
        self._step = run.start_step
        self._error: Exception | None = None
        self._queue: queue.SimpleQueue[tuple[list[Any], list[Any]] | None] = queue.SimpleQueue()
        # a daemon: a server that does not answer must not keep the process alive
        self._thread = threading.Thread(target=self._send, name="mlflow", daemon=True)
        self._thread.start()

    @classmethod
    def available(cls) -> None:
        missing = [name for name in ("mlflow", "sqlalchemy", "alembic") if importlib.util.find_spec(name) is None]
        if missing:
            raise ConfigError(
                f"tracker 'mlflow' needs {', '.join(missing)}, which is not installed",
                hint="Run: pip install 'rechub_ray[mlflow]', on every machine.",
            )

    def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        from mlflow.entities import Metric

        self._step, now = step, int(time.time() * 1000)
        values = {allowed_name(name): float(value) for name, value in metrics.items()}
        self._hand_over([Metric(k, math.nan if math.isinf(v) else v, now, step) for k, v in values.items()], [])

    def hyperparameters(self, config: Mapping[str, Any], score: Mapping[str, float]) -> None:
        from mlflow.entities import Param

        self.log({f"best/{name}": value for name, value in score.items()}, step=self._step)
        params = [Param(k, str(value)[:_LONGEST_VALUE]) for k, value in config.items() if k not in self._told]
        self._told.update(config)
        for start in range(0, len(params), _LARGEST_BATCH):
            self._hand_over([], params[start : start + _LARGEST_BATCH])

    def close(self) -> None:
        self._queue.put(None)
        self._thread.join()
        self._client.set_terminated(self._run_id)
        self._raise_error()

    def _open(self, experiment: str, name: str, tags: Mapping[str, str]) -> str:
        """Return the id of the run that is continued, else of a new one."""
        known = self.run.kept_id(ID_FILE_NAME)
        if known is not None:
            self._client.update_run(known, status="RUNNING")
            self._told.update(self._client.get_run(known).data.params)
            return known
        found = self._client.get_experiment_by_name(experiment)
        experiment_id = found.experiment_id if found else self._create_experiment(experiment)
        new: str = self._client.create_run(experiment_id, run_name=name, tags=dict(tags)).info.run_id
        (self.run.directory / ID_FILE_NAME).write_text(new + "\n", encoding="utf-8")
        return new

    def _create_experiment(self, name: str) -> str:
        from mlflow.exceptions import MlflowException

        try:
            return str(self._client.create_experiment(name))
        except MlflowException:  # another trial has created it in the meantime
            found = self._client.get_experiment_by_name(name)
            if found is None:
                raise
            return str(found.experiment_id)

    def _hand_over(self, metrics: list[Any], params: list[Any]) -> None:
        self._raise_error()
        self._queue.put((metrics, params))

    def _send(self) -> None:
        while (batch := self._queue.get()) is not None:
            try:
                self._client.log_batch(self._run_id, metrics=batch[0], params=batch[1])
            except Exception as error:  # raised by the next call, in the thread that tracks
                self._error = error

    def _raise_error(self) -> None:
        if self._error is not None:
            error, self._error = self._error, None
            raise error


def allowed_name(name: str) -> str:
    """Return a metric's name as MLflow takes it: letters, digits, spaces, `_`, `-`, `.` and `/`.

    Example:
        >>> allowed_name("val/recall@10")
        'val/recall_at_10'
    """
    return re.sub(r"[^\w\-. /]", "_", name.replace("@", "_at_"))


@contextlib.contextmanager
def _alone_with(uri: str) -> Iterator[None]:
    """Exclude other processes for the block: MLflow makes the tables of a new SQLite file without a lock."""
    path = uri.removeprefix("sqlite:///")
    if path == uri:
        yield
        return
    with open(f"{path}.lock", "w", encoding="utf-8") as file:
        deadline = time.monotonic() + _LONGEST_WAIT
        while time.monotonic() < deadline:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(0.05)
        yield
