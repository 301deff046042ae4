"""The one training loop: plain PyTorch, the same in this process, on Ray Train workers and inside a Tune trial."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator
from typing import Any, Protocol

import torch

from rechub_ray.batch import Batch
from rechub_ray.checkpoint import Store
from rechub_ray.config import RunConfig
from rechub_ray.data.source import EvalSource, TrainSource
from rechub_ray.diagnosis import Doubts
from rechub_ray.early_stopping import EarlyStopper
from rechub_ray.errors import RechubError, TrainingError
from rechub_ray.evaluation.profile import Profile
from rechub_ray.learner import Learner, Progress


class Hooks(Protocol):
    """Calls of the loop to trackers, callbacks and Ray's report. All but `saved` come on rank 0 only."""

    def started(self, step: int) -> None:
        """Take the step from which the run goes on; called once, before the first one."""

    def log(self, metrics: dict[str, float], *, step: int) -> None:
        """Pass numbers to the trackers."""

    def say(self, text: str) -> None:
        """Show the user one line, at once."""

    def evaluated(self, epoch: int, score: float) -> None:
        """Take the score of an evaluation of the validation split; the epoch is -1 for the one before training."""

    def saved(self, path: str, metrics: dict[str, float]) -> None:
        """Take the place of a checkpoint; called after each one, on every rank (a barrier)."""


class Evaluator(Protocol):
    """Evaluates checkpoints while training goes on, one at a time."""

    def start(self, path: str) -> None:
        """Begin with the checkpoint at `path`."""

    def result(self, seconds: float) -> dict[str, float] | None:
        """Return its metrics; None where they have not come within so many seconds.

        Raises:
            RechubError: the evaluation failed, or the process that did it is gone.
        """

    def close(self) -> None:
        """End what evaluates, in whatever state it is."""


@dataclasses.dataclass(frozen=True)
class FitResult:
    """The result of a run.

    Args:
        best_score: the early-stopping metric at its best; None without validation.
        best_metrics: all metrics of that evaluation.
        metrics: the last evaluation.
        steps: optimizer steps done.
        epochs: whole epochs done.
        rows: rows trained, over all workers.
        rows_here: those of this start, to which `seconds` belong.
        stopped_early: whether early stopping ended the run.
        seconds: wall time by what it was spent on: `data`, `train`, `evaluate`, `save`, `total`.
    """

    best_score: float | None
    best_metrics: dict[str, float]
    metrics: dict[str, float]
    steps: int
    epochs: int
    rows: int
    rows_here: int
    stopped_early: bool
    seconds: dict[str, float]


_SHORT_WAIT = 2.0
"""Seconds that an evaluation beside training may be late without a word."""


class _Clock:
    """Wall time by purpose."""

    def __init__(self) -> None:
        self.started = time.perf_counter()
        self.seconds = {"data": 0.0, "train": 0.0, "evaluate": 0.0, "save": 0.0}

    @contextlib.contextmanager
    def on(self, purpose: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[purpose] += time.perf_counter() - start

    def total(self) -> dict[str, float]:
        return {**self.seconds, "total": time.perf_counter() - self.started}


def steps_of(config: RunConfig, train: TrainSource) -> int:
    """Return the number of optimizer steps of the whole run."""
    return config.train.steps or (config.train.epochs or 1) * train.steps_per_epoch


def schedule_steps_of(config: RunConfig, train: TrainSource) -> int:
    """Return the number of optimizer steps over which learning-rate schedules run."""
    epochs = config.train.schedule_epochs
    return steps_of(config, train) if epochs is None else max(round(epochs * train.steps_per_epoch), 1)


def schedule_epochs_of(config: RunConfig, train: TrainSource) -> int:
    """Return the number of epochs over which learning-rate schedules run; a part of one counts as one."""
    return -(-schedule_steps_of(config, train) // train.steps_per_epoch)


class Fit:
    """One run from where it stands to its end: `Fit(...).run()`.

    Args:
        learner: what is trained.
        train: training batches; a batch holds the rows of one optimizer step of this rank.
        valid: validation batches, or None.
        store: where checkpoints go.
        hooks: take what the trackers and the user are to get.
        progress: where the run stands.
        evaluator: evaluates beside training; on rank 0 alone.
        profile: takes in the predictions of each validation.

    Attributes:
        summary: what `profile` held of the best validation, and of which step; None before one.
    """

    def __init__(
        self,
        learner: Learner,
        train: TrainSource,
        valid: EvalSource | None,
        *,
        store: Store,
        hooks: Hooks,
        progress: Progress,
        evaluator: Evaluator | None = None,
        profile: Profile | None = None,
    ) -> None:
        self.learner, self.train, self.valid, self.store, self.hooks = learner, train, valid, store, hooks
        self.progress, self.evaluator, self.profile = progress, evaluator, profile
        self.summary: dict[str, Any] | None = None
        self.config, self.world = learner.config, learner.world
        stopping = self.config.train.early_stopping
        metrics = learner.metrics
        metric = metrics.default_key() if stopping.metric is None else metrics.resolve(stopping.metric)
        self.stopper = EarlyStopper(
            metric=metric,
            mode=stopping.mode or metrics.mode(metric),
            patience=stopping.patience,
            min_delta=stopping.min_delta,
        )
        self.stopper.load_state_dict(progress.early_stopping)
        self.clock = _Clock()
        self._saved_step: int | None = None
        self._saved_at = self._logged_at = time.monotonic()
        self._logged_rows = self._rows_before = progress.rows
        self._doubts = Doubts(learner.schema, hooks.say)
        self._has_waited = False
        self._is_separate = self.config.train.eval_method == "separate" and valid is not None

    def run(self) -> FitResult:
        """Train to the end; return at once where the run had finished before."""
        progress, train = self.progress, self.train
        total_steps = steps_of(self.config, train)
        if self._is_over(total_steps) and progress.is_finished:
            return self._result()
        progress.is_finished = False  # a later end or more patience was given: go on
        if progress.pending:
            self._evaluate_again()
        elif progress.step == 0 and self.config.train.initial_evaluation and self.valid is not None:
            self._evaluate(epoch=-1)
        with contextlib.closing(train):
            while not self._is_over(total_steps):
                another = progress.step + train.steps_left(progress.position) < total_steps
                with contextlib.closing(train.epoch(progress.position, another_follows=another)) as batches:
                    self._epoch(batches, total_steps)
        try:
            self._take_pending()
        except RechubError:
            self._save(is_best=False)
            raise
        progress.is_finished = True
        self._saved_step = None  # the same weights may be saved already, but not the fact that they are final
        self._save(is_best=False)
        return self._result()

    def _is_over(self, total_steps: int) -> bool:
        progress, epochs = self.progress, self.config.train.epochs
        done = progress.position.epoch >= epochs if epochs is not None else progress.step >= total_steps
        return done or self.stopper.should_stop

    def _epoch(self, batches: Iterator[Batch], total_steps: int) -> None:
        """Train until the epoch or the run ends; log, evaluate and save after the steps where that is due."""
        progress, settings = self.progress, self.config.train
        while True:
            with self.clock.on("data"):
                batch = next(batches, None)
            if batch is None:
                break
            with self.clock.on("train"):
                self.learner.train_step(batch, step=progress.step, epoch=progress.position.epoch)
            epoch = progress.position.epoch
            progress.step += 1
            progress.rows += self.train.rows_at(progress.position)
            progress.position = self.train.advance(progress.position, 1)
            epoch_ended = progress.position.epoch > epoch
            run_ended = settings.steps is not None and progress.step >= total_steps
            if progress.step % settings.log_every_steps == 0 or epoch_ended or run_ended:
                self._log(epoch)
            if self._evaluation_is_due(epoch, epoch_ended, run_ended):
                self._evaluate(epoch=epoch)
            elif self._save_is_due():
                self._save(is_best=False)
            if run_ended or epoch_ended or self.stopper.should_stop:
                break

    def _evaluation_is_due(self, epoch: int, epoch_ended: bool, run_ended: bool) -> bool:
        settings = self.config.train
        if self.valid is None:
            return False
        by_epoch = settings.evaluate_every_epochs > 0
        if epoch_ended and by_epoch and (epoch + 1) % settings.evaluate_every_epochs == 0:
            return True
        if settings.evaluate_every_steps is not None:
            return self.progress.step % settings.evaluate_every_steps == 0 or run_ended
        return run_ended and by_epoch

    def _log(self, epoch: int) -> None:
        progress, now = self.progress, time.monotonic()
        values = self.learner.drain_log(step=progress.step)
        if values and self.world.is_main:
            values["epoch"] = float(epoch)
            values["data/rows"] = float(progress.rows)
            if now > self._logged_at and progress.rows > self._logged_rows:
                values["rows_per_second"] = (progress.rows - self._logged_rows) / (now - self._logged_at)
            self._doubts.trained(values["train/loss"])
            self.hooks.log(values, step=progress.step)
        self._logged_at, self._logged_rows = time.monotonic(), progress.rows

    def _evaluate(self, *, epoch: int) -> None:
        """Validate, take the scores, and save a checkpoint; beside training, save it first and take them later."""
        valid, start = self.valid, time.monotonic()
        assert valid is not None
        if self._is_separate:
            self._evaluate_beside(epoch)
            return
        with self.clock.on("evaluate"):
            metrics = self.learner.evaluate(valid, self.profile)
        is_best = self._take(metrics, step=self.progress.step, epoch=epoch)
        if self.profile is not None and epoch >= 0 and (is_best or self.summary is None):
            self.summary = {"step": self.progress.step, **self.profile.summary()}
        self._logged_at += time.monotonic() - start  # rows_per_second is about training
        if epoch >= 0:
            self._save(is_best=is_best)

    def _evaluate_beside(self, epoch: int) -> None:
        """Take the scores of the checkpoint before; save one that knows of its evaluation, and have it evaluated."""
        progress = self.progress
        own = {"step": progress.step, "epoch": epoch}
        try:
            self._take_pending()
        except RechubError:
            progress.pending.append(own)
            self.store.hold([one["step"] for one in progress.pending])
            self._save(is_best=False)
            raise
        if not self.stopper.should_stop:
            progress.pending.append(own)
            self._save(is_best=False)
            self._begin()

    def _take(self, metrics: dict[str, float], *, step: int, epoch: int) -> bool:
        """Update early stopping and plateau schedules, call the hooks, and return whether it is the best so far."""
        progress, is_best = self.progress, False
        progress.metrics, score = metrics, metrics[self.stopper.metric]
        if epoch >= 0:  # the reference before training neither counts as a gain nor uses up patience
            is_best = self.stopper.observe(score, step=step, metrics=metrics)
            for schedule in self.learner.schedules:
                schedule.observe(score, mode=self.stopper.mode)
        progress.early_stopping = self.stopper.state_dict()
        if self.world.is_main:
            if epoch >= 0:
                self._doubts.evaluated(metrics)
            logged = {f"val/{key}": value for key, value in metrics.items()}
            self.hooks.log({**logged, "epoch": float(epoch)}, step=step)
            self.hooks.evaluated(epoch, score)
        return is_best

    def _begin(self) -> None:
        """Have the newest checkpoint that waits for its evaluation evaluated, beside training."""
        step = self.progress.pending[-1]["step"]
        self.store.hold([step])
        if self.evaluator is not None:
            self.evaluator.start(self.store.path(step))

    def _take_pending(self) -> None:
        """Wait for the evaluation beside training, and take its scores: at the next one, or at the end of the run.

        So a run's numbers do not depend on how long an evaluation takes, and a resumed run has the same ones.

        Raises:
            RechubError: there are none.
        """
        progress, start = self.progress, time.monotonic()
        if not progress.pending:
            return
        step, epoch = (progress.pending[0][key] for key in ("step", "epoch"))
        with self.clock.on("evaluate"):
            found = self.world.broadcast(self._awaited(step))
        self._logged_at += time.monotonic() - start
        if isinstance(found, RechubError):
            raise found
        del progress.pending[0]
        is_best = self._take(found, step=step, epoch=epoch)
        if is_best and self.world.is_main:
            self.store.set_best(step)

    def _awaited(self, step: int) -> dict[str, float] | RechubError | None:
        """Return the metrics of a checkpoint, or why there are none; None on other ranks than the first."""
        if self.evaluator is None:
            return None
        # the other ranks wait for this one, and give up after `collective_timeout_seconds`
        seconds = self.config.scaling.collective_timeout_seconds / (1 if self.world.size == 1 else 2)
        try:
            found = self.evaluator.result(min(_SHORT_WAIT, seconds))
            if found is None:
                if not self._has_waited:
                    self._has_waited = True
                    self.hooks.say(
                        f"waiting for the evaluation of step {step:,} beside training, at most {seconds:g} s; later "
                        "waits are not said"
                    )
                found = self.evaluator.result(seconds)
        except RechubError as error:
            return error
        if found is None:
            return TrainingError(
                f"the evaluation of step {step:,} beside training has not ended in {seconds:g} s",
                hint="Evaluate less often (train.evaluate_every_steps), give it more threads (train.eval_threads), "
                "time (scaling.collective_timeout_seconds) or, on a cluster that others fill, room "
                "(scaling.eval_cpus), or set train.eval_method=workers.",
            )
        return found

    def _evaluate_again(self) -> None:
        """Evaluate the checkpoints again whose scores the resumed run had not taken, where they are still there."""
        progress = self.progress
        waiting, progress.pending = progress.pending, []
        names = self.world.broadcast(self.store.names())
        for one in waiting:  # two where the evaluation of the first one failed
            is_there = self.store.name(one["step"]) in names
            if self._is_separate and is_there:
                self._take_pending()
                if self.stopper.should_stop:
                    break
                progress.pending = [one]
                self._begin()
            elif self.valid is not None and one["step"] == progress.step:  # `eval_method` was another one
                self._evaluate(epoch=one["epoch"])
            elif self.world.is_main:
                self.hooks.say(
                    f"the scores of step {one['step']:,} are left out: its checkpoint is not evaluated any more"
                )

    def _save_is_due(self) -> bool:
        settings, step = self.config.checkpoint, self.progress.step
        if settings.every_steps is not None and step % settings.every_steps == 0:
            return True
        if settings.every_seconds is None:
            return False
        if self.world.size == 1:
            return time.monotonic() - self._saved_at >= settings.every_seconds
        if step % 10:  # clocks differ, the decision must not: rank 0 decides, at every tenth step
            return False
        mine = self.world.is_main and time.monotonic() - self._saved_at >= settings.every_seconds
        flag = torch.tensor([int(mine)], device=self.learner.device)
        return bool(self.world.sum_(flag).item())

    def _save(self, *, is_best: bool) -> None:
        progress = self.progress
        if self._saved_step == progress.step and not is_best:
            return
        self._log(progress.position.epoch)  # also refuses to save weights that are not finite
        path, start = self.store.path(progress.step), time.monotonic()
        with self.clock.on("save"):
            if self.world.is_main:
                path = self.store.save(
                    progress.step, lambda folder: self.learner.write(folder, progress), is_best=is_best
                )
            metrics = {f"val/{key}": value for key, value in progress.metrics.items()}
            self.hooks.saved(path, {**metrics, "step": float(progress.step), "rows": float(progress.rows)})
        self.learner.saved()
        self._saved_step, self._saved_at = progress.step, time.monotonic()
        self._logged_at += time.monotonic() - start

    def _result(self) -> FitResult:
        progress = self.progress
        return FitResult(
            best_score=self.stopper.best_score,
            best_metrics=self.stopper.best_metrics,
            metrics=progress.metrics,
            steps=progress.step,
            epochs=progress.position.epoch,
            rows=progress.rows,
            rows_here=progress.rows - self._rows_before,
            stopped_early=self.stopper.should_stop,
            seconds=self.clock.total(),
        )
