"""The one training loop: plain PyTorch, the same in this process, on Ray Train workers and inside a Tune trial."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from rechub_ray import checkpoint as checkpoint_module
from rechub_ray.allocator import keep_freed_memory
from rechub_ray.batch import Batch, LossTerms, split
from rechub_ray.checkpoint import Checkpoint, Store
from rechub_ray.config import RunConfig
from rechub_ray.data.plan import Position
from rechub_ray.data.source import EvalSource, TrainSource
from rechub_ray.diagnosis import explain_non_finite
from rechub_ray.early_stopping import EarlyStopper
from rechub_ray.errors import DataError
from rechub_ray.gradients import Gradients
from rechub_ray.metrics import MetricSet
from rechub_ray.models import MODELS
from rechub_ray.objective import Objective, StepSize
from rechub_ray.optimizers import build_optimizers
from rechub_ray.regularization import Regularization
from rechub_ray.schedules import SCHEDULES
from rechub_ray.schema import Schema
from rechub_ray.world import World


class Hooks(Protocol):
    """What surrounds the loop: trackers, callbacks, Ray's report. All but `saved` are called on rank 0 only."""

    def started(self, step: int) -> None:
        """Once, before the first step: where the run stands."""

    def log(self, metrics: dict[str, float], *, step: int) -> None:
        """Numbers for the trackers."""

    def evaluated(self, epoch: int, score: float) -> None:
        """After each evaluation of the validation split; the epoch is -1 for the one before training."""

    def saved(self, path: str, metrics: dict[str, float]) -> None:
        """After each checkpoint, on every rank (a barrier)."""


@dataclasses.dataclass
class Progress:
    """What changes during a run, beside tensors; JSON in the checkpoint.

    Args:
        step: optimizer steps done. rows: rows trained, over all workers.
        position: where in the data the next step begins.
        metrics: the last evaluation. early_stopping, schedules: their states.
        is_finished: the run reached its end or stopped early.
    """

    step: int = 0
    rows: int = 0
    position: Position = dataclasses.field(default_factory=Position)
    metrics: dict[str, float] = dataclasses.field(default_factory=dict)
    early_stopping: dict[str, Any] = dataclasses.field(default_factory=dict)
    schedules: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    is_finished: bool = False

    def to_dict(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "position": self.position.to_dict()}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Progress:
        return cls(**{**data, "position": Position.from_dict(data["position"])})


@dataclasses.dataclass(frozen=True)
class FitResult:
    """What a run came to.

    Args:
        best_score: the early-stopping metric at its best; None without validation.
        best_metrics: all metrics of that evaluation.
        metrics: the last evaluation.
        seconds: wall time by what it was spent on: `data`, `train`, `evaluate`, `save`, `total`.
    """

    best_score: float | None
    best_metrics: dict[str, float]
    metrics: dict[str, float]
    steps: int
    epochs: int
    rows: int
    stopped_early: bool
    seconds: dict[str, float]


class Learner:
    """A model with its objective, metrics and optimizers: everything that one worker trains with.

    Every rank builds the same weights from the seed, and applies the same update at every step.

    Args:
        config: the run. schema: features in use. world: this worker's place. device: where to compute.
        total_steps: optimizer steps over which schedules run.
    """

    def __init__(
        self, config: RunConfig, schema: Schema, *, world: World, device: torch.device, total_steps: int
    ) -> None:
        self.config, self.schema, self.world, self.device = config, schema, world, device
        if device.type == "cpu":
            keep_freed_memory()
        torch.manual_seed(config.seed)
        self.model = MODELS.build(config.model, schema, where="model")
        self.model.to(device)
        self.objective = Objective(schema, config.losses, world=world).to(device)
        self.metrics = MetricSet(schema, config.metrics)
        self.built = build_optimizers(config.optimizers, self.model)
        self.optimizers = [item.optimizer for item in self.built]
        self.base_lrs = [float(optimizer.param_groups[0]["lr"]) for optimizer in self.optimizers]
        self.schedules = [
            SCHEDULES.build(item.schedule_node, total_steps, lr)
            for item, lr in zip(self.built, self.base_lrs, strict=True)
        ]
        self.regularization = Regularization(**config.regularization.model_dump())
        self.gradients = Gradients(
            self.model, world, clip_norm=config.train.clip_norm, regularization=self.regularization
        )
        self._window: dict[str, Tensor] = {}
        self._window_steps = 0

    def train_step(self, batch: Batch, *, step: int) -> None:
        """One optimizer step on this rank's rows.

        Without a host synchronisation on CUDA; sums for the log stay on the device until `drain_log`.
        """
        # a pure function of (seed, step, rank): resuming needs no generator state, on any number of workers
        seed = _mix(self.config.seed, step, self.world.rank)
        if self.device.type == "cpu":
            torch.default_generator.manual_seed(seed)  # torch.manual_seed also sees to GPUs, and takes a millisecond
        else:
            torch.manual_seed(seed)
        self.model.train()
        parts = split(batch.to(self.device), self.config.train.accumulate_steps)
        size = self.objective.size(parts)
        for part in parts:
            terms = self._forward(part, size)
            torch.autograd.backward(terms.total)
            self._note({"loss": terms.total.detach(), **{f"loss/{k}": v for k, v in terms.parts.items()}})
        norm = self.gradients.finish()
        if self.device.type == "cpu" and not math.isfinite(norm.item()):
            self._fail(batch, step)
        self._note({"grad_norm": norm})
        self._set_learning_rates(step)
        for optimizer in self.optimizers:
            optimizer.step()
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        self._window_steps += 1

    def _forward(self, batch: Batch, size: StepSize | None = None) -> LossTerms:
        with autocast(self.device, self.config.train.precision):
            outputs = self.model(batch.features)
        terms: LossTerms = self.objective({name: value.float() for name, value in outputs.items()}, batch, size)
        return terms

    def _note(self, values: dict[str, Tensor]) -> None:
        for name, value in values.items():
            self._window[name] = self._window[name] + value if name in self._window else value

    def _set_learning_rates(self, step: int) -> None:
        for optimizer, schedule, lr in zip(self.optimizers, self.schedules, self.base_lrs, strict=True):
            rate = lr * schedule.factor(step)
            for group in optimizer.param_groups:
                group["lr"] = rate

    def drain_log(self, *, step: int) -> dict[str, float]:
        """Means over the steps since the last call, over all ranks; TrainingError where they are not finite."""
        if not self._window_steps:
            return {}
        names = list(self._window)
        sums = torch.stack([self._window[name].float() for name in names])
        means = (self.world.sum_(sums) / (self.world.size * self._window_steps)).tolist()
        self._window, self._window_steps = {}, 0
        values = dict(zip(names, means, strict=True))
        if not math.isfinite(values["loss"]) or not math.isfinite(values["grad_norm"]):
            self._fail(None, step)
        penalty = float(self.regularization.value(self.model))
        parts = [name for name in values if name.startswith("loss/")]
        if len(parts) == 1 and not penalty:  # the sum is its only part
            del values[parts[0]]
        logged = {f"train/{name}": value for name, value in values.items()}
        if penalty:
            logged["train/loss/regularization"] = penalty
            logged["train/loss"] += penalty
        rates = [float(optimizer.param_groups[0]["lr"]) for optimizer in self.optimizers]
        logged["learning_rate"] = rates[0]
        if len(rates) > 1:
            logged.update({f"learning_rate/{i}": rate for i, rate in enumerate(rates)})
        return logged

    def _fail(self, batch: Batch | None, step: int) -> None:
        batch = batch.to(self.device) if batch is not None else None
        raise explain_non_finite(
            self.model, self.schema, batch, self._forward, world=self.world, step=step, learning_rates=self.base_lrs
        )

    def evaluate(self, source: EvalSource) -> dict[str, float]:
        """`evaluate_model` of the model as it stands."""
        precision = self.config.train.precision
        return evaluate_model(
            self.model, self.metrics, source, world=self.world, device=self.device, precision=precision
        )

    def restore(self, checkpoint: Checkpoint) -> None:
        """Takes weights, optimizer states and schedules from a checkpoint of the same run."""
        self.model.load_state_dict(checkpoint.model)
        for optimizer, state in zip(self.optimizers, checkpoint.optimizers or [], strict=True):
            optimizer.load_state_dict(state)
        for schedule, state in zip(self.schedules, checkpoint.state["schedules"], strict=True):
            schedule.load_state_dict(state)

    def write(self, directory: Path, progress: Progress) -> None:
        """Writes a checkpoint's files into `directory`."""
        progress.schedules = [schedule.state_dict() for schedule in self.schedules]
        checkpoint_module.write(
            directory,
            config=self.config,
            schema=self.schema,
            model=self.model,
            optimizers=self.optimizers,
            state={**progress.to_dict(), "fingerprint": self.config.fingerprint(), "world_size": self.world.size},
        )


@torch.no_grad()
def evaluate_model(
    model: torch.nn.Module,
    metrics: MetricSet,
    source: EvalSource,
    *,
    world: World,
    device: torch.device,
    precision: str = "float32",
) -> dict[str, float]:
    """The metrics over every row of `source`, once each, with `rows_expected` and `rows_seen`; equal on every rank.

    Raises:
        DataError: when the rows seen on all workers are not the rows expected.
    """
    model.eval()
    metrics.reset()
    rows = 0
    for batch in source.batches():
        batch = batch.to(device)
        with autocast(device, precision):
            outputs = model(batch.features)
        metrics.update({name: value.float() for name, value in outputs.items()}, batch)
        rows += batch.rows
    seen = int(world.sum_(torch.tensor([rows], dtype=torch.int64, device=device)).item())
    if seen != source.rows_expected:
        raise DataError("the evaluation did not see every row exactly once", expected=source.rows_expected, got=seen)
    result = metrics.compute(world, device=device)
    if device.type == "cuda":
        torch.cuda.empty_cache()  # evaluation batches are larger; training needs that memory back
    return {**result, "rows_expected": source.rows_expected, "rows_seen": seen}


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[Any]:
    """The context for a forward pass in `precision` (`float32` or `bfloat16`)."""
    if precision == "bfloat16":
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return contextlib.nullcontext()


def pick_device(name: str) -> torch.device:
    """The device that `auto` means here, or the named one."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(name)


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
    """Optimizer steps of the whole run."""
    return config.train.steps or (config.train.epochs or 1) * train.steps_per_epoch


def schedule_steps_of(config: RunConfig, train: TrainSource) -> int:
    """Optimizer steps over which learning-rate schedules run."""
    epochs = config.train.schedule_epochs
    return steps_of(config, train) if epochs is None else max(round(epochs * train.steps_per_epoch), 1)


class Fit:
    """One run from where it stands to its end: `Fit(...).run()`.

    Args:
        learner: what is trained.
        train: training batches; a batch holds the rows of one optimizer step of this rank.
        valid: validation batches, or None.
        store: where checkpoints go.
        hooks: trackers and the like.
        progress: where the run stands.
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
    ) -> None:
        self.learner, self.train, self.valid, self.store, self.hooks = learner, train, valid, store, hooks
        self.progress = progress
        self.config, self.world = learner.config, learner.world
        stopping = self.config.train.early_stopping
        metric = stopping.metric or learner.metrics.default_key()
        self.stopper = EarlyStopper(
            metric=metric,
            mode=stopping.mode or learner.metrics.mode(metric),
            patience=stopping.patience,
            min_delta=stopping.min_delta,
        )
        self.stopper.load_state_dict(progress.early_stopping)
        self.clock = _Clock()
        self._saved_step: int | None = None
        self._saved_at = self._logged_at = time.monotonic()
        self._logged_rows = progress.rows

    def run(self) -> FitResult:
        """Trains to the end; returns at once where the run had finished before."""
        progress, train = self.progress, self.train
        total_steps = steps_of(self.config, train)
        if self._is_over(total_steps) and progress.is_finished:
            return self._result()
        progress.is_finished = False  # a later end or more patience was given: go on
        if progress.step == 0 and self.config.train.initial_evaluation and self.valid is not None:
            self._evaluate(epoch=-1)
        with contextlib.closing(train):
            while not self._is_over(total_steps):
                another = progress.step + train.steps_left(progress.position) < total_steps
                with contextlib.closing(train.epoch(progress.position, another_follows=another)) as batches:
                    self._epoch(batches, total_steps)
        progress.is_finished = True
        self._saved_step = None  # the same weights may be saved already, but not the fact that they are final
        self._save(is_best=False)
        return self._result()

    def _is_over(self, total_steps: int) -> bool:
        progress, epochs = self.progress, self.config.train.epochs
        done = progress.position.epoch >= epochs if epochs is not None else progress.step >= total_steps
        return done or self.stopper.should_stop

    def _epoch(self, batches: Iterator[Batch], total_steps: int) -> None:
        """Steps until the epoch or the run ends, with what falls due after each."""
        progress, settings = self.progress, self.config.train
        while True:
            with self.clock.on("data"):
                batch = next(batches, None)
            if batch is None:
                break
            with self.clock.on("train"):
                self.learner.train_step(batch, step=progress.step)
            epoch = progress.position.epoch
            progress.step += 1
            progress.rows += self.train.global_batch
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
            values["rows_per_second"] = (progress.rows - self._logged_rows) / max(now - self._logged_at, 1e-9)
            self.hooks.log(values, step=progress.step)
        self._logged_at, self._logged_rows = time.monotonic(), progress.rows

    def _evaluate(self, *, epoch: int) -> None:
        """Validation, then early stopping, plateau schedules, the callback and a checkpoint."""
        progress, valid = self.progress, self.valid
        assert valid is not None
        start = time.monotonic()
        with self.clock.on("evaluate"):
            progress.metrics = self.learner.evaluate(valid)
        score = progress.metrics[self.stopper.metric]
        is_best = False
        if epoch >= 0:  # the reference before training neither counts as a gain nor uses up patience
            is_best = self.stopper.observe(score, step=progress.step, metrics=progress.metrics)
            for schedule in self.learner.schedules:
                schedule.observe(score, mode=self.stopper.mode)
        progress.early_stopping = self.stopper.state_dict()
        if self.world.is_main:
            logged = {f"val/{key}": value for key, value in progress.metrics.items()}
            self.hooks.log({**logged, "epoch": float(epoch)}, step=progress.step)
            self.hooks.evaluated(epoch, score)
        if epoch >= 0:
            self._save(is_best=is_best)
        self._logged_at += time.monotonic() - start  # rows_per_second is about training

    def _save_is_due(self) -> bool:
        settings, step = self.config.checkpoint, self.progress.step
        if settings.every_steps is not None and step % settings.every_steps == 0:
            return True
        if settings.every_seconds is None:
            return False
        if self.world.size == 1:
            return time.monotonic() - self._saved_at >= settings.every_seconds
        if step % 10:  # clocks differ, the decision must not: rank 0 decides, now and then
            return False
        mine = self.world.is_main and time.monotonic() - self._saved_at >= settings.every_seconds
        flag = torch.tensor([int(mine)], device=self.learner.device)
        return bool(self.world.sum_(flag).item())

    def _save(self, *, is_best: bool) -> None:
        progress, start = self.progress, time.monotonic()
        if self._saved_step == progress.step and not is_best:
            return
        self._log(progress.position.epoch)  # also refuses to save weights that are not finite
        path = self.store.path(progress.step)
        with self.clock.on("save"):
            if self.world.is_main:
                path = self.store.save(
                    progress.step, lambda folder: self.learner.write(folder, progress), is_best=is_best
                )
            metrics = {f"val/{key}": value for key, value in progress.metrics.items()}
            self.hooks.saved(path, {**metrics, "step": float(progress.step), "rows": float(progress.rows)})
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
            stopped_early=self.stopper.should_stop,
            seconds=self.clock.total(),
        )


def _mix(seed: int, step: int, rank: int) -> int:
    """A well-spread 63-bit seed (splitmix64's finaliser), so that neighbouring steps share nothing."""
    x = (seed * 0x9E3779B97F4A7C15 + step * 0xBF58476D1CE4E5B9 + rank * 0x94D049BB133111EB) & (2**64 - 1)
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & (2**64 - 1)
    return (x ^ (x >> 31)) >> 1
