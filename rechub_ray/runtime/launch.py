"""From a configuration to a finished run: in this process, or on Ray Train workers."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from rechub_ray import config as config_module
from rechub_ray.checkpoint import Store, load_model
from rechub_ray.config import RunConfig
from rechub_ray.data.fingerprint import find
from rechub_ray.data.plan import Position
from rechub_ray.data.source import ThreadReader
from rechub_ray.defaults import resolved
from rechub_ray.device import pick_device
from rechub_ray.errors import CheckpointError, ConfigError
from rechub_ray.files import is_uri, join, masked, strict_json, write_text
from rechub_ray.fine_tuning import is_own
from rechub_ray.lock import locked
from rechub_ray.loop import Hooks
from rechub_ray.models.base import Model
from rechub_ray.runtime import same_data
from rechub_ray.runtime.doubts import of_run
from rechub_ray.runtime.history import history, plot, step_of
from rechub_ray.runtime.memory import host_memory
from rechub_ray.runtime.preflight import Job, Node, check, check_memory, check_resources, evaluating_cpus, local_cpus
from rechub_ray.runtime.same_encoding import check_alike, keep_transforms, trained_on
from rechub_ray.runtime.worker import execute
from rechub_ray.tracking import RunInfo, Trackers
from rechub_ray.world import World

if TYPE_CHECKING:
    import pandas as pd

_log = logging.getLogger(__name__)

Resume = Literal["auto", "must", "never"]


@dataclasses.dataclass(frozen=True)
class RunResult:
    """The result of `train`.

    Args:
        model_dir: the run's folder.
        best_checkpoint: path or URI, as `evaluate`, `predict` and `export` take it.
        metrics: of the best evaluation of the validation split.
        test_metrics: of that model on the test split.
        onnx: the exported file, if any; of a model for retrieval the user tower's, beside the others in `serving`.
        details: steps, epochs, rows, stopped_early, workers, warnings (what was said at the end); of this start
            `rows_here` and seconds (by purpose).
        log_dir: the local folder of its numbers; that of a remote `model_dir` is `runs/<name>`.
        report: the page on the run, if there is one.
    """

    model_dir: str
    best_checkpoint: str
    metrics: dict[str, float]
    test_metrics: dict[str, float]
    onnx: str | None
    details: dict[str, Any]
    log_dir: str = ""
    report: str | None = None

    @property
    def model(self) -> Model:
        """The best model, loaded from its checkpoint, in evaluation mode on the CPU; its `predict` takes raw values."""
        from rechub_ray.runtime.predictor import RawPredictions

        model = load_model(self.best_checkpoint)
        model.predictor = RawPredictions(self.best_checkpoint)
        return model

    @property
    def history(self) -> pd.DataFrame:
        """The numbers of the run, a row for each step at which some were logged; see `rechub_ray.runtime.history`."""
        return history(self.log_dir or self.model_dir)

    def plot(self, metrics: Sequence[str] | None = None, *, path: str | Path | None = None) -> Any:
        """Return the curves of the run as a matplotlib figure, which a notebook shows.

        Args:
            metrics: names in `history`, or ends of them (`auc`); None draws the training loss and every metric.
            path: file to write, `.png`, `.svg` or `.pdf`; None writes none.

        Raises:
            ConfigError: matplotlib is not installed, or there is no such metric.
        """
        return plot(self.history, metrics, best_step=step_of(self.best_checkpoint), path=path)

    def predict(self, data: Any) -> Any:
        """Return the best model's predictions of a DataFrame of raw values; see `rechub_ray.load`."""
        return self._predictor.predict(data)

    @functools.cached_property
    def _predictor(self) -> Any:
        from rechub_ray.runtime.predictor import load

        return load(self.best_checkpoint)


def train(
    config: RunConfig | str | Path | Mapping[str, Any] | None = None,
    overrides: Sequence[str] | Mapping[str, Any] = (),
    *,
    resume: Resume = "auto",
    callback_fn: Callable[[int, float], None] | None = None,
    trackers: list[Any] | None = None,
    executor: Callable[[Job, Hooks], dict[str, Any]] | None = None,
    **keys: Any,
) -> RunResult:
    """Train, evaluate and export one run.

    Args:
        config: the run, its YAML file, or its mapping; None: `keys` are the configuration.
        overrides: `path=value` strings, or a mapping path -> value, as for `load_config`.
        resume: `auto` continues the run in model_dir if there is one, `must` wants one, `never` begins anew (and sets
            earlier checkpoints aside).
        callback_fn: called on the driver with (epoch, score) after each evaluation; epoch -1 is before training.
        trackers: tracker objects beside the configured ones (the configuration's key is changed by `overrides`).
        executor: runs the job in place of `execute`, on workers of its own; None takes those of `config.scaling`.
        keys: keys of the configuration, in the place of those that it has.

    Raises:
        RechubError: anything a user can mend.

    Example:
        >>> train("config.yaml", {"train.epochs": 2}, model_dir="runs/two")  # doctest: +SKIP
    """
    started = time.perf_counter()
    if overrides or keys or not isinstance(config, RunConfig):
        given = config.model_dump(mode="json") if isinstance(config, RunConfig) else config or {}
        config = config_module.load({**config_module.read_yaml(given), **keys}, overrides)
    job = check(config)
    with _held(job.config):
        return _train(job, started, resume, callback_fn, trackers or [], executor)


def _train(
    job: Job,
    started: float,
    resume: Resume,
    callback_fn: Callable[[int, float], None] | None,
    trackers: list[Any],
    executor: Callable[[Job, Hooks], dict[str, Any]] | None,
) -> RunResult:
    """Do the work of `train`, in a folder that this run holds."""
    config = job.config
    step = _check_resume(job, resume)
    directory = config.directory()
    with (
        _workplace(job) if executor is None else contextlib.nullcontext()
    ):  # also checks the resources, before anything in model_dir changes
        if resume == "never":
            Store(directory).set_aside()
        write_text(join(directory, "config.yaml"), config_module.dump(config))
        same_data.note(job)
        if job.start is not None and step == 0 and not is_own(config) and _has_console(config):
            print(job.start, file=sys.stderr, flush=True)
        place = Store(directory).location
        if step == 0 or find(place) is None:
            keep_transforms(config, place)
        listener = _Listener(job, trackers, callback_fn, step)
        try:
            report = (executor or (_in_process if config.scaling.num_workers == 0 else _on_ray))(job, listener)
            best = report["best_metrics"] or report["metrics"]
            scores = {f"val/{k}": v for k, v in best.items()}
            scores |= {f"test/{k}": v for k, v in report["test_metrics"].items()}
            listener.finished(scores)
        finally:
            listener.close()
    onnx = None
    if config.export.onnx:
        from rechub_ray.export.towers import export_run

        onnx = export_run(report["best_checkpoint"], directory, probabilities=config.export.probabilities)[0].path
    said = of_run(job, best) if config.train.warnings else []
    for line in said:
        _log.warning("%s.", line)
    report["seconds"]["run"] = time.perf_counter() - started
    result = RunResult(
        model_dir=directory,
        best_checkpoint=report["best_checkpoint"],
        metrics=best,
        test_metrics=report["test_metrics"],
        onnx=onnx,
        log_dir=_log_directory(config),
        details={
            k: report[k]
            for k in ("steps", "epochs", "rows", "rows_here", "stopped_early", "workers", "best_score", "seconds")
        }
        | {"warnings": said},
    )
    write_text(join(directory, "result.json"), masked(strict_json(dataclasses.asdict(result))))
    return dataclasses.replace(result, report=_report(directory)) if config.report.page else result


def _report(directory: str) -> str | None:
    """Write the page on a run and return its path; None, and a warning, where that fails: the run is done."""
    from rechub_ray.reports import write_run_report

    try:
        return write_run_report(directory)
    except Exception as error:
        _log.warning("no report of the run: %s", " ".join(f"{type(error).__name__}: {error}".split())[:300])
        return None


@contextlib.contextmanager
def _held(config: RunConfig) -> Iterator[None]:
    """Hold the run's folders for this run alone."""
    hint = "Wait until it has ended, stop it, or name another --model-dir."
    with contextlib.ExitStack() as held:
        for place in dict.fromkeys((config.directory(), _log_directory(config))):
            held.enter_context(locked(place, what="'model_dir'", hint=hint))
        yield


@contextlib.contextmanager
def _workplace(job: Job) -> Iterator[None]:
    """Connect to a Ray that has room for the run; do nothing for a run in this process."""
    if job.config.scaling.num_workers == 0:
        yield
        return
    from rechub_ray.runtime.cluster import connected, nodes_of

    with connected(job.config.scaling, evaluating=evaluating_cpus(job.config)) as ray:
        check_memory(job, nodes_of(ray))
        yield


def _check_resume(job: Job, resume: Resume, say: Callable[[str], None] | None = None) -> int:
    """Return the step at which the run in model_dir stands (0: a new run), after checking that it is the same run.

    Weights are not read here: the workers read them once, and report where they are damaged.
    """
    config = job.config
    store = Store(config.directory())
    newest = store.newest()
    if newest is None:
        if resume == "must":
            raise CheckpointError(
                f"nothing to resume: no checkpoint in '{store.location}'",
                hint="--resume auto begins anew in that case.",
            )
        return 0
    if resume == "never":
        return 0
    checkpoint = store.read_newest(weights=False, say=say)
    assert checkpoint is not None
    trained = trained_on(checkpoint)
    check_alike(trained, job.schema, "data.root", config.data.root, of=checkpoint.path)
    # the configuration is resolved again: an earlier version may have left out defaults that are written out now
    old, new = resolved(checkpoint.config, checkpoint.schema).fingerprint(), config.fingerprint()
    differing = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    before, now = checkpoint.schema.bare(), job.schema.bare()
    if before != now:
        names = {part.name for part in {*before.all_features, *before.targets} ^ {*now.all_features, *now.targets}}
        differing.append(f"the schema ({', '.join(sorted(names)) or 'roles of columns'})")
    if differing:
        raise ConfigError(
            f"model_dir '{config.directory()}' holds another run, which differs in {', '.join(differing)}",
            hint="Name another --model-dir, or begin anew with --resume never (which sets the old checkpoints aside).",
        )
    is_alike = all(feature.encoding for schema in (trained, job.schema) for feature in schema.all_features)
    same_data.check_same(job, Position.from_dict(checkpoint.state["position"]), is_alike=is_alike)
    return int(checkpoint.state["step"])


def _log_directory(config: RunConfig) -> str:
    """Return the folder of the logs: a local one, wherever the checkpoints go."""
    directory = config.directory()
    return os.path.abspath(f"runs/{config.name}" if is_uri(directory) else directory)


def _has_console(config: RunConfig) -> bool:
    return any(node["name"] == "console" for node in config.trackers)


class _Listener:
    """The driver's end of a run: trackers and the callback, whichever process the loop runs in.

    Args:
        job: the run.
        objects: tracker objects beside the configured ones.
        callback_fn: called after each evaluation.
        step: where the run stands.
    """

    def __init__(
        self, job: Job, objects: list[Any], callback_fn: Callable[[int, float], None] | None, step: int
    ) -> None:
        config = job.config
        self._total_steps = config.train.steps or (config.train.epochs or 1) * job.steps_per_epoch
        self._config, self._callback_fn = config, callback_fn
        self._starts, self._step = 0, step
        self._configured = self._open(step)
        self._objects = Trackers(objects, self._info(step))

    def _open(self, step: int) -> Trackers:
        trackers = Trackers(self._config.trackers, self._info(step))
        trackers.hyperparameters(config_module.flat(self._config), {})
        return trackers

    def _info(self, step: int) -> RunInfo:
        return RunInfo(
            name=self._config.name,
            directory=Path(_log_directory(self._config)),
            resumed=step > 0,
            start_step=step,
            total_steps=self._total_steps,
            summary_every_steps=self._config.train.summary_every_steps,
        )

    def started(self, step: int) -> None:
        """Note a start; a second one means that workers were lost, and that the numbers after `step` come again."""
        self._starts += 1
        if self._starts > 1:
            _log.warning("workers were lost; the run goes on from step %d", step)
        if self._starts > 1 or step != self._step:  # or the newest checkpoint was damaged
            # a user's own object can be closed only once, so it gets those numbers twice
            self._configured.close()
            self._configured = self._open(step)

    def log(self, metrics: dict[str, float], *, step: int) -> None:
        for trackers in (self._configured, self._objects):
            trackers.log(metrics, step=step)

    def finished(self, scores: dict[str, float]) -> None:
        """Give the trackers the run's hyperparameters with its best scores."""
        for trackers in (self._configured, self._objects):
            trackers.hyperparameters(config_module.flat(self._config), scores)

    def close(self) -> None:
        for trackers in (self._configured, self._objects):
            trackers.close()

    def say(self, text: str) -> None:
        _log.warning("%s", text)

    def evaluated(self, epoch: int, score: float) -> None:
        if self._callback_fn is not None:
            self._callback_fn(epoch, score)

    def saved(self, path: str, metrics: dict[str, float]) -> None:
        """Do nothing: the store has written the checkpoint already."""


def _in_process(job: Job, listener: Hooks) -> dict[str, Any]:
    threads = torch.get_num_threads()
    if job.config.train.threads is not None:
        torch.set_num_threads(job.config.train.threads)
    try:
        return execute(
            job,
            world=World(),
            device=pick_device(job.config.train.device),
            reader=ThreadReader(threads=job.config.data.read_threads),
            hooks=listener,
        )
    finally:
        torch.set_num_threads(threads)


def _on_ray(job: Job, listener: Hooks) -> dict[str, Any]:
    from rechub_ray.runtime.share import bytes_to_keep
    from rechub_ray.runtime.workers import run_on_workers

    def hear(event: tuple[Any, ...]) -> None:
        kind, *rest = event
        if kind == "log":
            listener.log(rest[0], step=rest[1])
        else:
            getattr(listener, kind)(*rest)

    return run_on_workers(job.config, execute, job, hear=hear, kept_bytes=bytes_to_keep(job))


def validate(config: RunConfig) -> str:
    """Do the checks of `train` alone; return a few lines that say what would run.

    Raises:
        RechubError: as for `train`.
    """
    job = check(config)
    config = job.config
    _check_resume(job, "auto", say=_log.warning)
    scaling = config.scaling
    if scaling.num_workers > 0 and scaling.address is None and "RAY_ADDRESS" not in os.environ:
        here = Node(cpus=local_cpus(), gpus=float(torch.cuda.device_count()), memory=host_memory())
        check_resources(scaling, [here], evaluating=evaluating_cpus(config))
        check_memory(job, [here])
    steps = job.steps_per_epoch
    step = f"{job.rows_per_step:,.0f} rows a step"
    if job.groups is not None:
        step += f" on average, of {job.groups.count / steps:,.1f} whole groups"
    length = f"{config.train.epochs} epochs" if config.train.epochs else f"{config.train.steps} steps"
    splits = {name: getattr(job, name) for name in ("train", "valid", "test")}
    sizes = ", ".join(f"{name} {m.rows:,} rows in {len(m.row_groups)} row groups" for name, m in splits.items() if m)
    labels = ", ".join(label.name for label in job.schema.labels) or "none"
    return (
        f"OK: {config.model['name']} for {length}; {step}, {steps:,} steps an epoch\n"
        f"data: {sizes}; {len(job.schema.features)} features, labels {labels}"
    )
