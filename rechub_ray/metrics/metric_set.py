"""The metrics of a run: built from the configuration, updated together, computed together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from rechub_ray.batch import Batch, Outputs
from rechub_ray.errors import ConfigError, named, nearest
from rechub_ray.metrics.base import METRICS, Accumulator, Direction, Metric
from rechub_ray.metrics.ranks import Asked, RankMetric
from rechub_ray.outputs import Output, Prediction
from rechub_ray.schema import Schema
from rechub_ray.world import World


class MetricSet:
    """The metrics that an evaluation computes.

    Args:
        schema: has the labels, the weight and the group column.
        nodes: a name or a mapping with `name` and the metric's arguments, each.
        where: the configuration path of `nodes`, for messages.

    Raises:
        ConfigError: unknown name or argument, a label or column that the schema lacks, or two metrics with one key.

    Example:
        >>> from rechub_ray.schema import Label
        >>> schema = Schema(features=(), labels=(Label("click"),))
        >>> MetricSet(schema, ["auc", {"name": "auc_histogram", "bins": 1000}]).keys
        ('auc', 'auc_histogram')
    """

    def __init__(self, schema: Schema, nodes: Sequence[Any], *, where: str = "metrics") -> None:
        if isinstance(nodes, str | Mapping):
            nodes = [nodes]
        self._schema = schema
        self._take([(f"{where}.{i}", _build(node, schema, f"{where}.{i}")) for i, node in enumerate(nodes)])
        self.reset()

    @property
    def keys(self) -> tuple[str, ...]:
        """The names under which `compute` gives its numbers, in the configuration's order."""
        return tuple(self._metrics)

    def bind(self, predictions: Mapping[str, Prediction], outputs: Sequence[Output]) -> MetricSet:
        """Settle which output and label each metric reads; return itself.

        Args:
            predictions: by label, how the model's output is read.
            outputs: the model's.

        Raises:
            ConfigError: the model does not give what a metric reads; names the metric.
        """
        placed = [(self._where[key], metric) for key, metric in self._metrics.items()]
        outputs = [*outputs, *(one.output for one in predictions.values() if one.output not in outputs)]
        for where, metric in placed:
            with named(where):
                metric.bind(predictions, outputs, where=where)
        self._take(placed)
        self.reset()
        return self

    def _take(self, placed: Sequence[tuple[str, Metric]]) -> None:
        """Store the metrics, given with their places, by their keys."""
        self._metrics: dict[str, Metric] = {}
        self._where: dict[str, str] = {}
        for where, metric in placed:
            if metric.key in self._metrics:
                raise ConfigError(
                    f"'{where}': the metric '{metric.key}' is already given by '{self._where[metric.key]}'",
                    expected="each metric once for each label",
                    hint="Give one of them a name of its own: `key`.",
                )
            self._metrics[metric.key], self._where[metric.key] = metric, where

    def resolve(self, key: str, also: Iterable[str] = ()) -> str:
        """Return the full key of a metric: a bare name means the first label's; aliases count as names.

        Args:
            key: the name to look up.
            also: names that are no metrics, for the message.

        Raises:
            ConfigError: no such metric.
        """
        known: dict[str, str] = {}
        for full, metric in self._metrics.items():
            aliases = METRICS.aliases(metric.registered_name) if metric.own_key is None else ()
            known |= {full: full, **{metric.key_as(alias): full for alias in aliases}}
        labels = self._schema.labels
        for name in (key, f"{labels[0].name}/{key}" if labels else key):
            if name in known:
                return known[name]
        raise ConfigError(f"no metric '{key}' is computed", hint=nearest(key, [*self.keys, *also]))

    def mode(self, key: str) -> Direction:
        """Return whether larger (`max`) or smaller (`min`) numbers of metric `key` are better.

        Raises:
            ConfigError: no such metric, or neither is better (`calibration`).
        """
        key = self.resolve(key)
        mode = self._metrics[key].mode
        if mode is None:
            directed = [name for name, metric in self._metrics.items() if metric.mode is not None]
            raise ConfigError(
                f"metric '{key}' has no direction, so no best model or early stopping can go by it",
                expected=f"one of: {', '.join(directed)}" if directed else "a metric with one, such as auc or log_loss",
            )
        return mode

    def default_key(self) -> str:
        """Return the first metric with a direction, by which the best model is chosen unless the run names another.

        Raises:
            ConfigError: there is none.
        """
        for key, metric in self._metrics.items():
            if metric.mode is not None:
                return key
        raise ConfigError(
            "'metrics': no metric says which model is the best",
            expected="at least one metric with a direction, such as auc or log_loss",
            got=", ".join(self.keys) or "no metrics",
        )

    def rankings(self, items: int) -> dict[str, Asked]:
        """Return what metrics of ranks read, by name.

        Args:
            items: number of all items.
        """
        found: dict[str, Asked] = {}
        for metric in self._metrics.values():
            if isinstance(metric, RankMetric):
                metric.items = items
                asked = metric.asked
                top = max(asked.top, found.get(metric.reads, asked).top)
                found[metric.reads] = asked._replace(top=top)
        return found

    @property
    def rank_names(self) -> tuple[str, ...]:
        """The names under which metrics of ranks read them, each once."""
        return tuple(dict.fromkeys(m.reads for m in self._metrics.values() if isinstance(m, RankMetric)))

    def want_groups(self, wanted: bool) -> None:
        """Have metrics by groups keep the best and worst ones; see `groups`."""
        for metric in self._metrics.values():
            metric.wants_groups = wanted

    def groups(self) -> dict[str, list[dict[str, float]]]:
        """Return by metric the best and worst groups that it kept last, on rank 0."""
        return {key: list(metric.groups) for key, metric in self._metrics.items() if metric.groups}

    def reset(self) -> None:
        """Forget all rows."""
        self._accumulators = {key: Accumulator(metric) for key, metric in self._metrics.items()}

    @torch.no_grad()
    def update(self, outputs: Outputs, batch: Batch) -> None:
        """Take in one batch, without waiting for the device."""
        for key, metric in self._metrics.items():
            self._accumulators[key].add(metric.add(outputs, batch))

    @torch.no_grad()
    def compute(self, world: World, *, device: torch.device | None = None) -> dict[str, float]:
        """Return the numbers over all batches since `reset` and all ranks, the same on every rank.

        Args:
            world: the ranks; each one calls this.
            device: where a rank that saw no batch takes part in the collectives; None is the CPU.
        """
        device = device or torch.device("cpu")
        values = {}
        for key, metric in self._metrics.items():
            state = self._accumulators[key].merged(world, device=device)
            if state is not None:
                values[key] = metric.compute(state)
        result: dict[str, float] = world.broadcast(values)
        return result


def _build(node: Any, schema: Schema, place: str) -> Metric:
    node = METRICS.validate(node, where=place)
    with named(place):
        return METRICS.build(node, schema, where=place)
