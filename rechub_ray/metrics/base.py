"""What a metric is: a state per worker that merges over workers, and a number from the merged state."""

from __future__ import annotations

import abc
from collections.abc import Collection
from typing import ClassVar, Literal

import torch
from torch import Tensor

from rechub_ray.batch import Batch, Features, Outputs
from rechub_ray.errors import ConfigError, nearest
from rechub_ray.registry import Registry
from rechub_ray.schema import Schema
from rechub_ray.world import World

State = dict[str, Tensor]
Direction = Literal["max", "min"]


class Metric(abc.ABC):
    """Base of all metrics. No host synchronisation in `update`; numbers come from `compute` only.

    A subclass names its state tensors and how each one merges: `sum` adds them up, `concat` joins them along
    dimension 0 (in rank order). The merge of any split of the rows gives what the whole gives. Where the schema has
    a weight column, every metric is weighted by it: a row of weight 0 does not count, and scaling all weights
    changes nothing. The number is NaN where it is not defined, and where a logit is NaN.

    A subclass sets `mode` to the direction of better numbers, or to None where neither is better: early stopping
    cannot use such a metric. It sets `label_kind` where it is defined for one kind of label only.

    Args:
        schema: has the labels.
        output: the model output that the metric reads; None takes `logit/<label>`, or `logit` where the model has no
            such output.
        label: the label; None takes the schema's first.

    Raises:
        SchemaError: unknown label.
        ConfigError: the label is not of the kind that the metric is defined for.
    """

    merging: ClassVar[dict[str, Literal["sum", "concat"]]]
    mode: ClassVar[Direction | None]
    label_kind: ClassVar[Literal["binary", "regression"] | None] = "binary"
    registered_name: ClassVar[str]

    def __init__(self, schema: Schema, *, output: str | None = None, label: str | None = None) -> None:
        found = schema.label(label)
        if self.label_kind not in (None, found.kind):
            raise ConfigError(
                f"metric '{self.registered_name}' is not defined for the {found.kind} label '{found.name}'",
                expected=f"a {self.label_kind} label",
            )
        self.schema, self.output, self.label = schema, output, found.name
        self._column = [item.name for item in schema.labels].index(self.label)

    @property
    def key(self) -> str:
        """The name in logs, without the split: `auc`, or `<label>/auc` where the schema has several labels."""
        return f"{self.label}/{self.registered_name}" if len(self.schema.labels) > 1 else self.registered_name

    def check(self, output_names: tuple[str, ...], *, where: str) -> None:
        """ConfigError when the model does not produce what this metric reads."""
        name = self._output_among(output_names)
        if name not in output_names:
            raise ConfigError(f"'{where}.output': the model has no output '{name}'", hint=nearest(name, output_names))

    @abc.abstractmethod
    def update(self, outputs: Outputs, batch: Batch) -> State:
        """The state of one batch (outputs are float32 logits (B,), detached)."""

    @abc.abstractmethod
    def compute(self, state: State) -> float:
        """The number; NaN where it is not defined (AUC of one class only, for instance)."""

    def empty(self, device: torch.device) -> State:
        """The state of no rows, for a rank that saw none."""
        ids = torch.zeros((0, 1), dtype=torch.int64, device=device)
        row = torch.zeros(0, device=device)
        batch = Batch(
            features=Features(ids, torch.zeros((0, 1), device=device)),
            labels=torch.zeros((0, len(self.schema.labels)), device=device),
            weight=row if self.schema.weight is not None else None,
            group=ids[:, 0] if self.schema.group is not None else None,
        )
        return self.update({self._output_among(()): row}, batch)

    def prediction(self, outputs: Outputs) -> Tensor:
        """The output that this metric reads, (B,)."""
        return outputs[self._output_among(outputs)]

    def target(self, batch: Batch) -> Tensor:
        """This metric's label column, (B,) float32."""
        return batch.labels[:, self._column]

    def _output_among(self, names: Collection[str]) -> str:
        if self.output is not None:
            return self.output
        own = f"logit/{self.label}"
        return own if own in names else "logit"


class Accumulator:
    """Gathers a metric's states over batches, then over workers.

    `sum` states are added as they come; `concat` states are kept and joined once.
    """

    def __init__(self, metric: Metric) -> None:
        self.metric = metric
        self._parts: dict[str, list[Tensor]] = {}

    def add(self, state: State) -> None:
        for name, how in self.metric.merging.items():
            if how == "concat" or name not in self._parts:
                self._parts.setdefault(name, []).append(state[name])
            else:
                self._parts[name] = [self._parts[name][0] + state[name]]

    def merged(self, world: World, *, device: torch.device) -> State | None:
        """The state over all batches and ranks on rank 0, None elsewhere: all rows lie on one rank only.

        A rank that saw no rows takes part with tensors on `device`.
        """
        mine = self._parts or {name: [tensor] for name, tensor in self.metric.empty(device).items()}
        result: State = {}
        for name, how in self.metric.merging.items():
            if how == "sum":
                result[name] = world.sum_(mine[name][0].clone())  # a second call must not count the ranks twice
            else:
                parts = world.gather_to_main(torch.cat(mine[name]))
                if parts is not None:
                    result[name] = torch.cat(parts)
        return result if world.is_main else None


METRICS: Registry[Metric] = Registry("metric", __package__)
