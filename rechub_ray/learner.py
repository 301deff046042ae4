"""One worker's training: a model, its objective and optimizers, one optimizer step, and its checkpoint."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rechub_ray import checkpoint as checkpoint_module
from rechub_ray.averaging import WeightAverage
from rechub_ray.batch import Batch, Features, count_groups, split
from rechub_ray.checkpoint import Checkpoint
from rechub_ray.config import RunConfig
from rechub_ray.cpu.allocator import keep_freed_memory
from rechub_ray.data.catalogue import Catalogue
from rechub_ray.data.plan import Position
from rechub_ray.data.source import EvalSource
from rechub_ray.defaults import build_task, resolved
from rechub_ray.device import autocast
from rechub_ray.diagnosis import explain_non_finite
from rechub_ray.errors import CheckpointError, RechubError
from rechub_ray.evaluation import evaluate_model
from rechub_ray.evaluation.corpus import item_vectors
from rechub_ray.evaluation.profile import Profile, segment_of
from rechub_ray.freezing import freeze, frozen_norms
from rechub_ray.gradients import Clip, Gradients
from rechub_ray.metrics import MetricSet
from rechub_ray.models import MODELS
from rechub_ray.models.matching.base import Retriever
from rechub_ray.negatives.completer import Completer
from rechub_ray.optimizers import build_optimizers, state_shapes
from rechub_ray.outputs import evaluated
from rechub_ray.regularization import Regularization
from rechub_ray.saved_state import check_like
from rechub_ray.schedules import SCHEDULES, Schedule
from rechub_ray.schema import Schema
from rechub_ray.world import World


@dataclasses.dataclass
class Progress:
    """The state of a run beside its tensors; JSON in the checkpoint.

    Args:
        step: optimizer steps done.
        rows: rows trained, over all workers.
        position: where in the data the next step starts.
        metrics: the last evaluation.
        early_stopping: its state.
        schedules: the state of each.
        pending: step and epoch of each checkpoint whose scores are awaited, oldest first (evaluation beside training).
        is_finished: whether the run reached its end or stopped early.
    """

    step: int = 0
    rows: int = 0
    position: Position = dataclasses.field(default_factory=Position)
    metrics: dict[str, float] = dataclasses.field(default_factory=dict)
    early_stopping: dict[str, Any] = dataclasses.field(default_factory=dict)
    schedules: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    pending: list[dict[str, int]] = dataclasses.field(default_factory=list)
    is_finished: bool = False

    def to_dict(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "position": self.position.to_dict()}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Progress:
        """Return the progress in a checkpoint's `state.json`, where null stands for numbers that are not defined."""
        own = {key: value for key, value in state.items() if key in {field.name for field in dataclasses.fields(cls)}}
        metrics = {key: math.nan if value is None else value for key, value in own["metrics"].items()}
        return cls(**{**own, "metrics": metrics, "position": Position.from_dict(own["position"])})


class Learner:
    """A task with its metrics and optimizers: everything that one worker trains with.

    Every rank builds the same weights from the seed, and applies the same update at every step.

    Args:
        config: the run.
        schema: features in use.
        world: this worker's place.
        device: where to compute.
        total_steps: optimizer steps over which schedules run.
        total_epochs: epochs over which those schedules run that change between epochs only.

    Attributes:
        frozen: names of the frozen parameters, tables by feature.
        catalogue: the items, where the model is one for retrieval.
    """

    def __init__(
        self,
        config: RunConfig,
        schema: Schema,
        *,
        world: World,
        device: torch.device,
        total_steps: int,
        total_epochs: int = 1,
    ) -> None:
        self.config = config = resolved(config, schema)
        self.schema, self.world, self.device = schema, world, device
        if device.type == "cpu":
            keep_freed_memory()
        torch.manual_seed(config.seed)
        self.model = MODELS.build(config.model, schema, where="model")
        self.frozen = freeze(self.model, config.train.freeze)
        self._frozen_norms = frozen_norms(self.model)
        self.model.to(device)
        self.task = build_task(config, schema, self.model, world=world).to(device)
        self.catalogue: Catalogue | None = None
        self._complete: Completer | None = None
        if isinstance(self.model, Retriever):
            self.catalogue = Catalogue.read(config.data.root, schema).to(device)
            rows = config.data.batch_size * config.train.accumulate_steps * world.size
            self._complete = Completer(schema, self.catalogue, config.negatives or [], rows=rows, model=self.model)
            self._refreshed_at: int | None = None
        own = self.task.objective_parameters()
        self._predictions = evaluated(self.model.outputs, schema, self.task.links)
        self.metrics = MetricSet(schema, config.metrics or []).bind(self._predictions, self.model.outputs)
        self.built = build_optimizers(config.optimizers, self.model, also=own)
        self.optimizers = [item.optimizer for item in self.built]
        self.base_lrs = [float(optimizer.param_groups[0]["lr"]) for optimizer in self.optimizers]
        self.schedules: list[Schedule] = []
        for item, lr in zip(self.built, self.base_lrs, strict=True):
            node = SCHEDULES.validate(item.schedule_node)
            total = total_epochs if node.get("per") == "epoch" else total_steps
            self.schedules.append(SCHEDULES.build(node, total, lr))
        self.regularization = Regularization(**config.regularization.model_dump())
        self.gradients = Gradients(
            self.model,
            world,
            clip_norm=config.train.clip_norm,
            clip_value=config.train.clip_value,
            groups=[Clip(frozenset(item.parameters), item.clip_norm, item.clip_value) for item in self.built],
            regularization=self.regularization,
            objective=own,
        )
        self.average: WeightAverage | None = None
        if config.train.ema_decay is not None:
            trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
            self.average = WeightAverage(trained, decay=config.train.ema_decay)
        self._steps = 0
        self._window: dict[str, Tensor] = {}
        self._window_steps = 0

    def train_step(self, batch: Batch, *, step: int, epoch: int = 0) -> None:
        """Do one optimizer step on this rank's rows.

        On CUDA it does not wait for the device: sums for the log stay there until `drain_log`, which checks them.

        Args:
            batch: the rows.
            step: optimizer steps before it.
            epoch: whole epochs before it.

        Raises:
            TrainingError: on the CPU, the loss or its gradient is not finite.
        """
        # a pure function of (seed, step, rank): resuming needs no generator state, on any number of workers
        seed = _mix(self.config.seed, step, self.world.rank)
        if self.device.type == "cpu":
            torch.default_generator.manual_seed(seed)  # torch.manual_seed also seeds GPUs, which takes a millisecond
        else:
            torch.manual_seed(seed)
        self._set_training()
        parts = self._completed(self._parts(batch), step)
        terms, averaged = self.task.backward(parts, self.gradients, seed=_mix(self.config.seed, step, _ALL_RANKS))
        self._note({"loss": terms.total, **{f"loss/{k}": v for k, v in terms.parts.items()}})
        norm = self.gradients.put(averaged)
        if self.device.type == "cpu" and not math.isfinite(norm.item()):
            self._fail(batch, step)
        self._note({"grad_norm": norm})
        self._set_learning_rates(step, epoch)
        with self.average.following(step) if self.average is not None else contextlib.nullcontext():
            for optimizer in self.optimizers:
                optimizer.step()
        self._steps = step + 1
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        self._window_steps += 1

    def _set_training(self) -> None:
        self.model.train()
        for module in self._frozen_norms:
            module.eval()

    def _parts(self, batch: Batch) -> list[Batch]:
        """Return the step's parts, on the device; equally many on every rank, since a model may exchange moments."""
        number = self.config.train.accumulate_steps
        if number == 1 or not self.config.data.group_by:
            return split(batch.to(self.device), number)
        # cut where the batch is: borders of groups are read on the host
        groups = torch.tensor([count_groups(batch)], device=self.device)
        number = min(number, *(int(count) for count in self.world.gather(groups)))
        return [part.to(self.device) for part in split(batch, number, by_group=True)]

    def _completed(self, parts: list[Batch], step: int) -> list[Batch]:
        """Return the parts with the items that their rows are compared with, of a model for retrieval."""
        if self._complete is None:
            return parts
        self._refresh(self._complete, step)
        seed = _mix(self.config.seed, step, _ALL_RANKS)
        first, every = self.world.rank * len(parts), self.world.size * len(parts)
        return [
            self._complete(part, seed=seed, part=first + i, parts=every, users=self._user_vectors, world=self.world)
            for i, part in enumerate(parts)
        ]

    def _refresh(self, completer: Completer, step: int) -> None:
        """Compute the items' vectors again that sources of negatives read, where it is time."""
        steps = completer.refresh_steps
        if steps is None or (completer.vectors is not None and (step % steps or self._refreshed_at == step)):
            return
        assert isinstance(self.model, Retriever)
        assert self.catalogue is not None
        with self._evaluating():
            completer.vectors = item_vectors(
                self.model,
                self.catalogue,
                world=self.world,
                device=self.device,
                precision=self.config.train.precision,
            )
        self._refreshed_at = step

    def _user_vectors(self, features: Features) -> Tensor:
        assert isinstance(self.model, Retriever)
        with self._evaluating(), torch.no_grad(), autocast(self.device, self.config.train.precision):
            return self.model.user_vectors(features).float()

    @contextlib.contextmanager
    def _evaluating(self) -> Iterator[None]:
        self.model.eval()
        try:
            yield
        finally:
            self._set_training()

    def saved(self) -> None:
        """Forget what a run that goes on from the checkpoint just saved would not have; called on every rank."""
        if self._complete is not None:
            self._complete.vectors = None

    def _note(self, values: dict[str, Tensor]) -> None:
        for name, value in values.items():
            self._window[name] = self._window[name] + value if name in self._window else value

    def _set_learning_rates(self, step: int, epoch: int) -> None:
        for optimizer, schedule, lr in zip(self.optimizers, self.schedules, self.base_lrs, strict=True):
            rate = lr * schedule.factor(epoch if schedule.per == "epoch" else step)
            for group in optimizer.param_groups:
                group["lr"] = rate

    def drain_log(self, *, step: int) -> dict[str, float]:
        """Return the means over the steps since the last call, over all ranks.

        Raises:
            TrainingError: the loss or its gradient is not finite.
        """
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
        logged.update({f"loss_weight/{name}": weight for name, weight in self.task.loss_weights().items()})
        logged["learning_rate"] = rates[0]
        if len(rates) > 1:
            logged.update({f"learning_rate/{i}": rate for i, rate in enumerate(rates)})
        return logged

    def _fail(self, batch: Batch | None, step: int) -> None:
        batch = self._completed([batch.to(self.device)], step)[0] if batch is not None else None
        schema = self.schema if self._complete is None else self.schema.user_side
        raise explain_non_finite(
            self.model, schema, batch, self.task, world=self.world, step=step, learning_rates=self.base_lrs
        )

    def profile(self) -> Profile:
        """Return what `evaluate` can fill beside the metrics, for the run's report."""
        return Profile(
            self.schema,
            self._predictions,
            ranks=self.metrics.rank_names,
            segment=segment_of(self.schema, self.config.report.segment),
            device=self.device,
        )

    def evaluate(self, source: EvalSource, profile: Profile | None = None) -> dict[str, float]:
        """Return the metrics of the model, or of the average of its weights; see `evaluate_model`."""
        with self._averaged():
            return self._evaluate(source, profile)

    def evaluate_saved(
        self, checkpoint: Checkpoint, source: EvalSource, profile: Profile | None = None
    ) -> dict[str, float]:
        """Return the metrics of a checkpoint's model, which takes the place of the one that was trained."""
        checkpoint.restore_model(self.model)
        return self._evaluate(source, profile)

    def _averaged(self) -> contextlib.AbstractContextManager[None]:
        return self.average.applied(self._steps) if self.average is not None else contextlib.nullcontext()

    def _evaluate(self, source: EvalSource, profile: Profile | None) -> dict[str, float]:
        precision = self.config.train.precision
        return evaluate_model(
            self.model,
            self.metrics,
            source,
            world=self.world,
            device=self.device,
            precision=precision,
            catalogue=self.catalogue,
            profile=profile,
        )

    def restore(self, checkpoint: Checkpoint) -> Progress:
        """Take weights, optimizer states and schedules from a checkpoint of the same run; return its progress.

        Raises:
            CheckpointError: something in it does not fit; names the file.
        """
        self.saved()
        with _fitting(checkpoint.path, "model.safetensors"):
            checkpoint.restore_model(self.model)
        with _fitting(checkpoint.path, "objective.safetensors"):
            self.task.load_objective_state(checkpoint.objective)
        own = [[_without_parameters(group) for group in optimizer.param_groups] for optimizer in self.optimizers]
        with _fitting(checkpoint.path, "optimizers.pt"):
            checkpoint.restore_optimizers(self.model, self._stateful())
            if self.average is not None:
                self.average.take_weights()
            for optimizer, groups in zip(self.optimizers, own, strict=True):
                for group, values in zip(optimizer.param_groups, groups, strict=True):
                    group.update(values)  # settings come from the run's configuration, not from the file
            nodes = [*self.config.optimizers, {"name": "adam"}]  # the last one: of losses and balancing
            for optimizer, node in zip(self.optimizers, nodes, strict=False):
                _check_states(optimizer, node)
        with _fitting(checkpoint.path, "state.json"):
            for i, (schedule, state) in enumerate(zip(self.schedules, checkpoint.state["schedules"], strict=True)):
                check_like(state, schedule.state_dict(), f"'schedules.{i}'")
                schedule.load_state_dict(state)
            progress = Progress.from_state(checkpoint.state)
            self._steps = progress.step
            return progress

    def write(self, directory: Path, progress: Progress) -> None:
        """Write a checkpoint's files into `directory`; where weights are averaged, its model has the average."""
        progress.schedules = [schedule.state_dict() for schedule in self.schedules]
        with self._averaged():
            checkpoint_module.write(
                directory,
                config=self.config,
                schema=self.schema,
                model=self.model,
                objective=self.task.objective_state(),
                optimizers=self._stateful(),
                state={**progress.to_dict(), "fingerprint": self.config.fingerprint(), "world_size": self.world.size},
            )

    def _stateful(self) -> list[torch.optim.Optimizer]:
        """Return what `optimizers.pt` holds: the optimizers, and the average of the weights where there is one."""
        return [*self.optimizers, *([self.average] if self.average is not None else [])]


_ALL_RANKS = 2**32
"""In place of a rank: the seed of random numbers that all ranks draw alike."""


@contextlib.contextmanager
def _fitting(path: str, file: str) -> Iterator[None]:
    """Raise CheckpointError where the content of a checkpoint's `file` does not fit the run."""
    try:
        yield
    except (RuntimeError, LookupError, TypeError, ValueError, AttributeError, OverflowError, RechubError) as error:
        text = f"'{error.args[0]}' is missing" if isinstance(error, KeyError) else " ".join(str(error).split())
        raise CheckpointError(
            f"checkpoint '{path}': {file} does not fit the run",
            got=text[:300],
            hint="--resume never begins anew and sets the checkpoints aside.",
        ) from None


def _without_parameters(group: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in group.items() if key != "params"}


def _check_states(optimizer: torch.optim.Optimizer, node: dict[str, Any]) -> None:
    """Raise CheckpointError where a loaded state is not of the form that the optimizer makes.

    Args:
        optimizer: with the loaded state.
        node: its configuration.
    """
    for parameter in (parameter for group in optimizer.param_groups for parameter in group["params"]):
        if parameter in optimizer.state:  # missing until a parameter's first gradient
            made = state_shapes(node, parameter)
            found = {key: _shape(value) for key, value in optimizer.state[parameter].items()}
            if found != made:
                raise CheckpointError("an optimizer's state has other values", expected=made, got=found)


def _shape(value: Any) -> Any:
    if isinstance(value, Tensor):
        return tuple(value.shape)
    return () if isinstance(value, (int, float)) and not isinstance(value, bool) else type(value).__name__


def _mix(seed: int, step: int, rank: int) -> int:
    """Return a well-spread 63-bit seed (splitmix64's finaliser), so that neighbouring steps share nothing."""
    x = (seed * 0x9E3779B97F4A7C15 + step * 0xBF58476D1CE4E5B9 + rank * 0x94D049BB133111EB) & (2**64 - 1)
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & (2**64 - 1)
    return (x ^ (x >> 31)) >> 1
