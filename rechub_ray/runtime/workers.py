"""A share of work on every worker of a Ray TorchTrainer, seen from the driver."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from rechub_ray.config import RunConfig, ScalingSection
from rechub_ray.errors import RechubError, ResourceError, TrainingError
from rechub_ray.files import absolute, open_filesystem, split
from rechub_ray.runtime.board import Pump, make_board
from rechub_ray.runtime.cluster import LocalRaylet, connected
from rechub_ray.runtime.preflight import cpus_per_worker
from rechub_ray.runtime.share import kept
from rechub_ray.runtime.worker import train_loop_per_worker
from rechub_ray.waiting import Waiting

_log = logging.getLogger(__name__)

_NICENESS = "RAY_worker_niceness"


def run_on_workers(
    config: RunConfig,
    share: Callable[..., Any],
    job: Any,
    *,
    hear: Callable[[tuple[Any, ...]], None],
    kept_bytes: int = 0,
    storage: str | None = None,
    again: str = "The same command goes on from the last checkpoint.",
) -> dict[str, Any]:
    """Run `share(job, world=, device=, reader=, hooks=)` on every worker of a `TorchTrainer`.

    Args:
        config: says how many workers, where, and how often one may be lost.
        share: a module-level function that returns plain data.
        job: its first argument; picklable.
        hear: called on the driver with each event that rank 0 sends.
        kept_bytes: of decoded row groups to keep in the object store, at most; 0 reads through Ray Data.
        storage: where Ray puts its own files; None takes the run's folder.
        again: a sentence for the error of a run that cannot go on: what to do.

    Returns:
        The result of rank 0's share.

    Raises:
        RechubError: a worker raised it, or the workers could not be started or kept.
    """
    scaling = config.scaling
    timeout = scaling.collective_timeout_seconds
    with (
        connected(scaling) as ray,
        _environment(scaling),
        kept(kept_bytes, wait_seconds=timeout / 3) as read,  # a worker that waits for data is not one that hangs
    ):
        from ray.train import FailureConfig, ScalingConfig
        from ray.train import RunConfig as RayRunConfig
        from ray.train.torch import TorchTrainer

        from rechub_ray.runtime.callbacks import OnLoss
        from rechub_ray.runtime.process_group import ProcessGroup, backend

        board = make_board(ray)
        folder = storage or config.directory()
        _forget_ray_snapshot(folder)
        place, name = split(absolute(folder))  # so that the run's folder is Ray's experiment folder too
        resources = {"CPU": cpus_per_worker(scaling)} | ({"GPU": 1} if scaling.use_gpu else {})
        read_cpus = max(min(1.0, scaling.data_cpus / scaling.num_workers), 0.1)
        trainer = TorchTrainer(
            train_loop_per_worker,
            train_loop_config={
                "share": share,
                "job": job,
                "config": config,
                "board": board,
                "read_cpus": read_cpus,
                "read": read,
            },
            torch_config=ProcessGroup(backend=backend(use_gpu=scaling.use_gpu), timeout_s=math.ceil(timeout)),
            scaling_config=ScalingConfig(
                num_workers=scaling.num_workers,
                use_gpu=scaling.use_gpu,
                resources_per_worker=resources,
                # a CPU worker reserves less than it uses: packed, all would crowd on one host
                placement_strategy="PACK" if scaling.use_gpu else "SPREAD",
            ),
            run_config=RayRunConfig(
                name=name,
                storage_path=place,
                failure_config=FailureConfig(max_failures=scaling.max_failures, controller_failure_limit=1),
                # Ray's own processes wake a hundred times a second each. By default they interrupt the threads that
                # train, which then wait for each other
                worker_runtime_env={"env_vars": {_NICENESS: os.environ.get(_NICENESS, "0")}},
                callbacks=[OnLoss(board, size=scaling.num_workers, timeout_seconds=timeout)],
            ),
        )
        wanted, free = scaling.num_workers * resources["CPU"], float(ray.available_resources().get("CPU", 0.0))
        room = f" ({wanted:g} CPU wanted, {free:g} free)" if free < wanted else ", whose processes load PyTorch"
        with Waiting(f"starting {scaling.num_workers} worker(s){room}") as waiting:
            ear = _Ear(scaling, hear, waiting, again)
            pump = Pump(ray, board, ear)
            try:
                with pump:
                    outcome = _Fit(trainer).wait(ear, LocalRaylet(ray), pump)
            except RechubError:
                raise
            except Exception as error:
                raise pump.error or _plain(error, ear) from None
        if pump.error is not None:
            raise pump.error
        return dict(outcome.return_value)


class _Ear:
    """Takes the events about workers, passes on the others, and knows whether all workers are there.

    Args:
        scaling: number of workers, and how long their start may take.
        hear: takes the events that are not about workers.
        waiting: the line that is shown until all workers are there.
        again: see `run_on_workers`.
    """

    def __init__(
        self, scaling: ScalingSection, hear: Callable[[tuple[Any, ...]], None], waiting: Waiting, again: str
    ) -> None:
        self.scaling, self._hear, self._waiting, self.again = scaling, hear, waiting, again
        self._joined: set[int] = set()
        self._since = time.monotonic()
        self.losses: list[str] = []

    def __call__(self, event: tuple[Any, ...]) -> None:
        kind, *rest = event
        if kind == "joined":
            self._joined.add(rest[0])
            self._waiting.what = f"starting {self.scaling.num_workers} workers, {len(self._joined)} of them here"
            if self._missing() == 0:
                self._waiting.done()
        elif kind == "lost":
            self._joined, self._since = set(), time.monotonic()
            self.losses.append(rest[0])
            if len(self.losses) <= self.scaling.max_failures:
                _log.warning(
                    "%s; the workers start again (loss %d of the %d that scaling.max_failures allows)",
                    rest[0],
                    len(self.losses),
                    self.scaling.max_failures,
                )
        else:
            self._hear(event)

    def _missing(self) -> int:
        return self.scaling.num_workers - len(self._joined)

    def check(self) -> None:
        """Raise ResourceError where the workers did not come together in time.

        Ray bounds the wait for room by `start_timeout_seconds`, but not what a process does before its share begins.
        """
        allowed = self.scaling.start_timeout_seconds * (2 if self.losses else 1) + 60
        if self._missing() and time.monotonic() - self._since > allowed:
            raise ResourceError(
                f"{self._missing()} of {self.scaling.num_workers} workers have not started in {allowed:.0f} s",
                got=f"workers {sorted(self._joined)} are there" if self._joined else "none is there",
                hint="Where hosts are slow to start, raise scaling.start_timeout_seconds.",
            )


class _Fit:
    """Runs `trainer.fit()` in a thread: in the main one Ray Train would take Ctrl-C over, and hang with a worker."""

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer
        self._done = threading.Event()
        self._result: Any = None
        self._error: BaseException | None = None
        threading.Thread(target=self._run, name="rechub-fit", daemon=True).start()

    def _run(self) -> None:
        try:
            self._result = self._trainer.fit()
        except BaseException as error:
            self._error = error
        finally:
            self._done.set()

    def wait(self, ear: _Ear, raylet: LocalRaylet, pump: Pump) -> Any:
        """Return the result of `fit`; raise its error, or why there is nothing to wait for any more."""
        while not self._done.wait(0.25):
            if not raylet.is_alive():
                pump.patience_seconds = 0
                raise TrainingError(f"Ray's process on this host ({raylet.host}) has died (the raylet)", hint=ear.again)
            ear.check()
        if self._error is not None:
            raise self._error
        return self._result


@contextlib.contextmanager
def _environment(scaling: ScalingSection) -> Iterator[None]:
    """Set Ray Train's time limits as the run wants them; variables that the user has set stay."""
    bound = f"{scaling.collective_timeout_seconds:g}"
    wanted = {
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": f"{scaling.start_timeout_seconds:g}",
        # of a process that does not answer: a little less than its peers wait for it, since this error names it
        "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": f"{max(scaling.collective_timeout_seconds - 2, 1):g}",
        "RAY_TRAIN_COLLECTIVE_TIMEOUT_S": bound,  # of `ray.train.report`
        "TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S": "2",  # the processes end right after it
    }
    mine = {key: value for key, value in wanted.items() if key not in os.environ}
    os.environ.update(mine)
    try:
        yield
    finally:
        for key in mine:
            os.environ.pop(key, None)


def _forget_ray_snapshot(directory: str) -> None:
    """Delete Ray's own snapshot, from which it would silently go on: a run goes on from its checkpoints alone."""
    filesystem, root = open_filesystem(directory)
    path = f"{root}/checkpoint_manager_snapshot.json"
    if filesystem.get_file_info([path])[0].is_file:
        filesystem.delete_file(path)


def _plain(error: Exception, ear: _Ear) -> RechubError:
    """Return in a line why Ray Train gave up."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if ear.losses:
        allowed = ear.scaling.max_failures
        return TrainingError(
            f"workers were lost {len(ear.losses)} times",
            expected=f"at most {allowed} (scaling.max_failures)",
            got=f"the last time: {ear.losses[-1]}",
            hint=ear.again,
        )
    if any("placement group" in line.lower() or "schedul" in line.lower() for line in lines):
        return ResourceError("Ray could not start the workers", got=lines[-1])
    return TrainingError(
        f"the run failed on Ray ({type(error).__name__})", got=lines[-1] if lines else None, hint=ear.again
    )
