"""The base of metrics: a state per worker that merges over workers, and a number from the merged state."""

from __future__ import annotations

import abc
import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from rechub_ray.batch import Batch, Features, Outputs
from rechub_ray.errors import ConfigError, nearest, shown
from rechub_ray.outputs import Output, Prediction, claim, default_prediction
from rechub_ray.registry import Registry
from rechub_ray.schema import LabelKind, Schema
from rechub_ray.world import World

State = dict[str, Tensor]
Direction = Literal["max", "min"]


class Metric(abc.ABC):
    """Base of all metrics. No host synchronisation in `update`; numbers come from `compute` only.

    A subclass names its state tensors and how each one merges: `sum` adds them up, `concat` joins them along
    dimension 0 (in rank order). The merge of any split of the rows gives what the whole gives. Where the schema has
    a weight column, every metric is weighted by it: a row of weight 0 does not count, and scaling all weights
    changes nothing. Rows whose label is missing do not count. The number is NaN where it is not defined, and where a
    prediction is NaN.

    A subclass sets `mode` to the direction of better numbers, or to None where neither is better: early stopping
    cannot use such a metric. It sets `label_kinds` to the kinds of label that it is defined for.

    Args:
        schema: has the labels.
        output: the model output that the metric reads; None takes the label's.
        label: the label; None takes the output's, or the schema's first.
        where: another label, binary or of numbers: only rows where it is positive count (missing is not positive), as
            for conversions after a click. The key then ends in `_where_<where>`.
        key: the name in logs in place of its own, for a metric that stands twice with other arguments.

    Raises:
        SchemaError: unknown label.
        ConfigError: the label is not of the kind that the metric is defined for, `where` is a label of classes, or
            `key` is no word.

    Attributes:
        wants_groups: whether `compute` of a metric by groups keeps the best and the worst ones, for the report.
        groups: those that it kept last.
    """

    merging: Mapping[str, Literal["sum", "concat"]]
    mode: ClassVar[Direction | None]
    label_kinds: ClassVar[tuple[LabelKind, ...]] = ("binary",)
    registered_name: ClassVar[str]
    own_key: str | None = None  # the name in logs that the configuration gives
    wants_groups = False
    groups: Sequence[dict[str, float]] = ()

    def __init__(
        self,
        schema: Schema,
        *,
        output: str | None = None,
        label: str | None = None,
        where: str | None = None,
        key: str | None = None,
    ) -> None:
        self.schema, self.output, self._named, self.where, self.own_key = schema, output, label, where, key
        if key is not None and not re.fullmatch(r"[\w@.-]+", key):
            raise ConfigError(
                f"metric '{self.registered_name}': 'key' is a name in logs",
                expected="letters, digits, and any of _ @ . -",
                got=shown(key),
            )
        if where is not None and schema.label(where).kind == "multiclass":
            raise ConfigError(
                f"metric '{self.registered_name}': 'where' takes rows with a positive label, and classes are not",
                expected="a binary or regression label",
                got=f"the multiclass label '{where}'",
            )
        self._use(default_prediction(schema.label(label)), check=label is not None or output is None)

    def bind(self, predictions: Mapping[str, Prediction], outputs: Sequence[Output], *, where: str) -> None:
        """Settle which output and label the names mean.

        Args:
            predictions: by label, how the model's output is read.
            outputs: the model's.
            where: the metric's place in the configuration, for messages.

        Raises:
            ConfigError: the names do not fit the model or each other, or the label is not of a kind that the metric is
                defined for.
        """
        output, label = claim(outputs, self.schema, output=self.output, label=self._named, where=where)
        self._use(dataclasses.replace(predictions[label], output=output), check=True)

    def _use(self, prediction: Prediction, *, check: bool) -> None:
        label = prediction.label
        if check and label.kind not in self.label_kinds:
            raise ConfigError(
                f"metric '{self.registered_name}' is not defined for the {label.kind} label '{label.name}'",
                expected=f"a {' or '.join(self.label_kinds)} label",
            )
        self._prediction, self.label = prediction, label.name
        self._column = self._column_of(label.name)

    @property
    def key(self) -> str:
        """The name in logs, without the split: `auc`, or `<label>/auc` where the schema has several labels."""
        return self.key_as(self.own_key or self.registered_name)

    def key_as(self, name: str) -> str:
        """Return the key under another name of the metric."""
        name = name if self.where is None else f"{name}_where_{self.where}"
        return f"{self.label}/{name}" if len(self.schema.labels) > 1 else name

    def add(self, outputs: Outputs, batch: Batch) -> State:
        """Return the state of one batch without the rows whose label is missing or which `where` leaves out."""
        if not self._prediction.label.optional and self.where is None:
            return self.update(outputs, batch)
        counts = ~self.target(batch).isnan()
        if self.where is not None:
            counts &= batch.labels[:, self._column_of(self.where)] > 0
        kept = Batch(
            features=Features(batch.features.sparse[:0], batch.features.dense[:0]),
            labels=batch.labels[counts],
            weight=None if batch.weight is None else batch.weight[counts],
            group=None if batch.group is None else batch.group[counts],
        )
        name = self._prediction.output.name
        return self.update({name: outputs[name][counts]}, kept)

    @abc.abstractmethod
    def update(self, outputs: Outputs, batch: Batch) -> State:
        """Return the state of one batch whose labels are all there (outputs in float32, detached); read no features."""

    @abc.abstractmethod
    def compute(self, state: State) -> float:
        """Return the number; NaN where it is not defined (AUC of one class only, for instance)."""

    def empty(self, device: torch.device) -> State:
        """Return the state of no rows, for a rank that saw none."""
        ids = torch.zeros((0, 1), dtype=torch.int64, device=device)
        row = torch.zeros(0, device=device)
        batch = Batch(
            features=Features(ids, torch.zeros((0, 1), device=device)),
            labels=torch.zeros((0, len(self.schema.labels)), device=device),
            weight=row if self.schema.weight is not None else None,
            group=ids[:, 0] if self.schema.group is not None else None,
        )
        return self.update(self._prediction.no_rows(device), batch)

    def prediction(self, outputs: Outputs) -> Tensor:
        """Return what the model predicts, (B,): a logit or a value; (B, C) logits of classes."""
        return self._prediction.score(outputs)

    def target(self, batch: Batch) -> Tensor:
        """Return this metric's label column, (B,) float32."""
        return batch.labels[:, self._column]

    def _column_of(self, label: str) -> int:
        return [item.name for item in self.schema.labels].index(label)


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
        """Return the state over all batches and ranks on rank 0, None elsewhere: one rank alone holds all rows.

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


class _Metrics(Registry[Metric]):
    """Metrics by name, where `recall@10` and `{name: recall, k: 10}` stand for `{name: recall_at_k, k: 10}`."""

    def validate(self, node: Any, *, where: str = "", also: tuple[str, ...] = ()) -> dict[str, Any]:
        given = {"name": node} if isinstance(node, str) else node
        if isinstance(given, Mapping) and isinstance(given.get("name"), str):
            stem, _, length = given["name"].partition("@")
            if length.isdecimal() and "k" not in given:
                stems = [name.removesuffix("_at_k") for name in self.names() if name.endswith("_at_k")]
                if stem not in stems:
                    place = f"'{where}.name': " if where else ""
                    raise ConfigError(
                        f"{place}unknown metric {shown(given['name'])}",
                        hint=nearest(given["name"], [f"{name}@{length}" for name in stems]),
                    )
                node = {**given, "name": f"{stem}_at_k", "k": int(length)}
            elif "k" in given and f"{stem}_at_k" in self.names():
                node = {**given, "name": f"{stem}_at_k"}
        return super().validate(node, where=where, also=also)


METRICS: Registry[Metric] = _Metrics("metric", __package__)
