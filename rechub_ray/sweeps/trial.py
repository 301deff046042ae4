"""One trial: a run of the base with overrides, in the process that Ray Tune gave it, or in a group of them."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import shutil
import tempfile
import threading
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from rechub_ray import config as config_module
from rechub_ray.checkpoint import Store, read
from rechub_ray.data.plan import Position
from rechub_ray.data.reader import read_piece
from rechub_ray.data.source import ReadPiece, ThreadReader
from rechub_ray.errors import CheckpointError, RechubError, TrainingError, WriteError
from rechub_ray.files import write_text
from rechub_ray.learner import Learner
from rechub_ray.loop import schedule_epochs_of, schedule_steps_of
from rechub_ray.runtime.preflight import Job, check
from rechub_ray.runtime.worker import is_passing, train_source
from rechub_ray.space import Space
from rechub_ray.sweeps.exports import export_trial
from rechub_ray.sweeps.group import train_trial
from rechub_ray.sweeps.heartbeat import beating
from rechub_ray.sweeps.objectives import Objective, model_size
from rechub_ray.sweeps.schedulers import SCORE, TIME
from rechub_ray.sweeps.sweep import trial_config
from rechub_ray.tracking import RunInfo, Trackers
from rechub_ray.world import World

RESULT, FAILURE, EARLIER_BEST = "result.json", "failure.json", "best_before_exploit"
DONOR = "donor"  # what an exploit copies, kept until it is copied
_END_SECONDS = 20  # longest wait for a stopped trial; its trackers take 15 at most
_running = threading.Lock()  # held while a trial runs in this process


@dataclasses.dataclass(frozen=True)
class TrialJob:
    """The parts that all trials of a sweep share.

    Args:
        base: the base configuration.
        job: the checked run of the base.
        space: the paths that vary.
        directory: the folder of all trials.
        group: the sweep's name.
        metric: the metric of the score.
        mode: `max` or `min`, of the score.
        objectives: all that is compared.
        bundle: what each process of a trial reserves.
        read: reads a piece of the data.
    """

    base: Mapping[str, Any]
    job: Job
    space: Space
    directory: str
    group: str
    metric: str
    mode: str
    objectives: tuple[Objective, ...]
    bundle: Mapping[str, float]
    read: ReadPiece = read_piece


def trainable(shared: TrialJob) -> Any:
    """Return `run_trial` in the form that Ray Tune runs; Ray must be running."""
    import ray.tune
    from ray.tune.trainable import wrap_function

    base: Any = wrap_function(ray.tune.with_parameters(_alone, shared=shared), name="trial")

    class Trial(base):  # type: ignore[misc]
        """Waits for the end of a trial that is stopped: Tune would end its process before its trackers are closed."""

        def setup(self, config: dict[str, Any]) -> None:
            os.environ["TUNE_FUNCTION_THREAD_TIMEOUT_S"] = str(_END_SECONDS)  # before the process has its next trial
            super().setup(config)

        def cleanup(self) -> None:
            try:
                super().cleanup()
            finally:
                _wait_for_end()

    return Trial


def _alone(config: dict[str, Any], shared: TrialJob) -> None:
    seconds = shared.job.config.scaling.collective_timeout_seconds
    with _running, beating(f"{shared.directory}/{config['_trial']}", seconds):
        run_trial(config, shared)


def _wait_for_end() -> None:
    if _running.acquire(timeout=_END_SECONDS):
        _running.release()


def run_trial(config: dict[str, Any], shared: TrialJob) -> None:
    """Train one trial to its end and leave `result.json` in its folder; report to Tune at each evaluation.

    Args:
        config: the point, with `_trial` (our id) and `_seed`.
        shared: the sweep's part.

    Raises:
        TrainingError: the trial failed; the reason is in `failure.json` where another start cannot get past it.
    """
    import ray.tune

    directory = f"{shared.directory}/{config['_trial']}"
    failed = Path(directory, FAILURE)
    if failed.exists():  # a trial that failed by itself fails again: no second try
        raise TrainingError(json.loads(failed.read_text())["reason"])
    point = {key: value for key, value in config.items() if not key.startswith("_")}
    given = ray.tune.get_checkpoint()
    try:
        run = trial_config(
            shared.base,
            shared.space.overrides(point),
            directory=directory,
            name=config["_trial"],
            seed=config["_seed"],
        )
        job = check(run, like=shared.job)
        if given is not None:
            continue_from(job, _donor(given), shared)
        write_text(f"{directory}/config.yaml", config_module.dump(job.config))
        hooks = TrialHooks(job, shared, point, is_new_to_tune=given is None)
        try:
            result = train_trial(job, hooks, bundle=shared.bundle, read=shared.read)
            hooks.finished(result)
        finally:
            hooks.close()
        best = best_of(directory, shared.metric, shared.mode)
        if run.export.onnx and best is not None:
            result["onnx"] = export_trial(best[0], directory, probabilities=run.export.probabilities)
        write_text(f"{directory}/{RESULT}", json.dumps(result, indent=1))
    except Exception as error:
        if not may_pass(error):
            text = str(error) if isinstance(error, RechubError) else f"{type(error).__name__}: {error}"
            trace = "".join(traceback.format_exception(error))
            write_text(f"{directory}/{FAILURE}", json.dumps({"reason": text, "traceback": trace}, indent=1))
        raise


def may_pass(error: Exception) -> bool:
    """Return whether another start may get past this: memory that others took, a lost worker, disk or connection."""
    if isinstance(error, (MemoryError, OSError, WriteError, torch.OutOfMemoryError)) or is_passing(error):
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)


def _donor(given: Any) -> str:
    with given.as_directory() as folder:
        return str(json.loads(Path(folder, "pointer.json").read_text())["path"])


def set_aside(given: Any, directory: str) -> None:
    """Keep the checkpoint that an exploit copies: the donor may train on, and drop it, before the trial's turn comes.

    Args:
        given: Ray's checkpoint of the donor.
        directory: folder of the trial that goes on from it.
    """
    path = _donor(given)
    place = Path(directory, DONOR)
    shutil.rmtree(place, ignore_errors=True)
    with contextlib.suppress(OSError):  # gone already: the donor's newest one then
        shutil.copytree(path, place / os.path.basename(path), copy_function=_link)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # a disk without links
        shutil.copy2(source, target)


def continue_from(job: Job, path: str, shared: TrialJob) -> None:
    """Prepare the trial's folder to go on from `path`: its own checkpoint, or a copy of another trial's.

    A trial goes on from its newest own checkpoint, which is at or behind the reported one.

    Raises:
        CheckpointError: the donor's checkpoint is gone.
    """
    directory = job.config.directory()
    store = Store(directory, keep=job.config.checkpoint.keep)
    if os.path.dirname(path) == store.location:
        shutil.rmtree(Path(directory, DONOR), ignore_errors=True)
        return
    kept = Path(directory, DONOR, os.path.basename(path))
    if (kept / "manifest.json").is_file():
        path = str(kept)
    elif not Path(path, "manifest.json").is_file():
        newest = Store(os.path.dirname(os.path.dirname(path))).newest()
        if newest is None:
            raise CheckpointError(f"the donor's checkpoint '{path}' is gone")
        path = f"{os.path.dirname(path)}/{newest}"
    _keep_best(store, Path(directory, EARLIER_BEST), shared)
    fork(job, path, store)


def best_of(directory: str, metric: str, mode: str) -> tuple[str, float] | None:
    """Return path and score of the best checkpoint that a trial ever had; None without an evaluation."""
    store = Store(directory)
    sign = 1.0 if mode == "max" else -1.0
    found = []
    for path in (f"{store.location}/{store.best() or store.newest()}", f"{directory}/{EARLIER_BEST}"):
        if Path(path, "manifest.json").is_file():
            score = json.loads(Path(path, "state.json").read_text())["metrics"].get(metric)
            if score is not None and math.isfinite(score):
                found.append((path, float(score)))
    return max(found, key=lambda item: sign * item[1], default=None)


def _keep_best(store: Store, aside: Path, shared: TrialJob) -> None:
    """Move the best checkpoint so far out of a store that a copy will replace."""
    best = best_of(str(aside.parent), shared.metric, shared.mode)
    if best is not None and os.path.dirname(best[0]) == store.location:
        shutil.rmtree(aside, ignore_errors=True)
        os.replace(best[0], aside)


def fork(job: Job, path: str, store: Store) -> None:
    """Write a copy of the checkpoint `path` into `store`, as this run's own, with this run's hyperparameters.

    What the store held is dropped: the run is another one from here on. Weights, optimizer states and the position in
    the data are the donor's; learning rates, penalties and the like are the run's own.
    """
    checkpoint = read(path, optimizers=True)
    config = job.config
    world = World(0, config.processes)
    source = train_source(job, world, ThreadReader(threads=1))
    learner = Learner(
        config,
        job.schema,
        world=world,
        device=torch.device("cpu"),
        total_steps=schedule_steps_of(config, source),
        total_epochs=schedule_epochs_of(config, source),
    )
    progress = learner.restore(checkpoint)  # with the run's own learning rates and penalties
    state = progress.early_stopping
    if state.get("metric") in progress.metrics:  # the copy is the best that this folder holds
        state.update(best_score=progress.metrics[state["metric"]], best_step=progress.step)
        state["best_metrics"] = dict(progress.metrics)
    shutil.rmtree(store.location, ignore_errors=True)
    store.save(progress.step, lambda folder: learner.write(folder, progress), is_best=True)


class TrialHooks:
    """The loop's hooks in a trial: trackers in the trial's folder, and one report to Tune an evaluation.

    Args:
        job: the trial's run.
        shared: the sweep's part.
        point: where in the space the trial is.
        is_new_to_tune: Tune has no report of this trial, though its folder may hold a checkpoint (a resumed sweep).
    """

    def __init__(self, job: Job, shared: TrialJob, point: dict[str, Any], *, is_new_to_tune: bool) -> None:
        self._job, self._shared, self._point = job, shared, json.dumps(point)
        self._trackers: Trackers | None = None
        self._warnings: list[str] = []  # the driver shows them: the output of a trial's process is not shown
        self._is_new_to_tune = is_new_to_tune
        self._sizes = model_size(job.config, job.schema)
        self._is_evaluated = False
        self._test_scores: dict[str, float] = {}
        self._rows = 0.0
        self._train_seconds = 0.0
        self._since = time.monotonic()

    def started(self, step: int) -> None:
        config = self._job.config
        self._rows = step * self._job.rows_per_step
        nodes = [node for node in config.trackers if node["name"] not in ("console", "jsonl")]
        info = RunInfo(
            name=config.name,
            directory=Path(config.directory()),
            group=self._shared.group,
            group_directory=Path(self._shared.directory).parent,
            resumed=step > 0,
            start_step=step,
            summary_every_steps=config.train.summary_every_steps,
        )
        self._trackers = Trackers([*nodes, {"name": "jsonl"}], info, warn=self._warnings.append)
        self._trackers.hyperparameters(config_module.flat(config), {})
        if step > 0 and self._is_new_to_tune:
            self._tell_where_it_stands(step)

    def _tell_where_it_stands(self, step: int) -> None:
        """Report the newest evaluation again: it may not have reached the driver, and the scheduler needs it."""
        store = Store(self._job.config.directory())
        path = f"{store.location}/{store.newest()}"
        state = json.loads(Path(path, "state.json").read_text())
        if state["metrics"]:
            self._is_evaluated = True
            metrics = {f"val/{k}": math.nan if v is None else v for k, v in state["metrics"].items()}
            self.saved(path, {**metrics, "step": float(step), "rows": float(state["rows"])})

    def log(self, metrics: dict[str, float], *, step: int) -> None:
        rate, rows = metrics.get("rows_per_second"), metrics.get("data/rows")
        if rate and rows is not None:
            self._train_seconds += (rows - self._rows) / rate
            self._rows = rows
        assert self._trackers is not None
        self._trackers.log(metrics, step=step)

    def say(self, text: str) -> None:
        self._warnings.append(text)

    def evaluated(self, epoch: int, score: float) -> None:
        self._is_evaluated = epoch >= 0

    def saved(self, path: str, metrics: dict[str, float]) -> None:
        """Report once an evaluation, with a small checkpoint that points at ours, for exploits and resumed trials.

        Raises:
            TrainingError: an objective is not finite.
        """
        if not self._is_evaluated:
            return
        self._is_evaluated = False
        import ray.tune

        now = time.monotonic()
        report: dict[str, Any] = {key: float(value) for key, value in metrics.items()} | self._sizes
        for objective in self._shared.objectives:
            value = report[objective.report_key]
            if not math.isfinite(value):
                raise TrainingError(f"the validation's {objective.metric} is {value}")
        report |= {
            SCORE: report[f"val/{self._shared.metric}"],
            TIME: self._epochs(path),
            "point": self._point,  # an exploit may have changed the trial's meanwhile
            "checkpoint": path,
            "warnings": "\n".join(self._warnings),
            "busy_seconds": now - self._since,
            "train_seconds": self._train_seconds,
        }
        self._since, self._train_seconds, self._warnings[:] = now, 0.0, []
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "pointer.json").write_text(json.dumps({"path": path}))
            ray.tune.report(report, checkpoint=ray.tune.Checkpoint.from_directory(folder))
        self._since = time.monotonic()

    def _epochs(self, path: str) -> float:
        """Return the epochs trained, whole ones as whole numbers: rungs are compared exactly."""
        state = json.loads(Path(path, "state.json").read_text())
        position = Position.from_dict(state["position"])
        return float(position.epoch + min(position.rows_done / max(self._job.train.rows, 1), 1.0))

    def finished(self, result: dict[str, Any]) -> None:
        """Keep the test metrics of a run that came to its end by itself."""
        self._test_scores = {f"test/{key}": value for key, value in result["test_metrics"].items()}

    def close(self) -> None:
        """Record the best scores beside the hyperparameters and close the trackers, also for a stopped trial."""
        if self._trackers is None:
            return
        with contextlib.suppress(OSError, RechubError):  # a disk that is lost has ended the trial with its own error
            config = self._job.config
            best = best_of(config.directory(), self._shared.metric, self._shared.mode)
            if best is not None:
                state = json.loads(Path(best[0], "state.json").read_text())
                scores = {f"val/{k}": v for k, v in state["metrics"].items() if v is not None} | self._test_scores
                self._trackers.hyperparameters(config_module.flat(config), scores)
        self._trackers.close()
