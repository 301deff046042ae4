"""The metrics of a run: built from the configuration, updated together, computed together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from rechub_ray.batch import Batch, Outputs
from rechub_ray.errors import ConfigError, RechubError, nearest
from rechub_ray.metrics.base import METRICS, Accumulator, Direction, Metric
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
        self._metrics: dict[str, Metric] = {}
        self._where: dict[str, str] = {}
        for i, node in enumerate(nodes):
            place = f"{where}.{i}"
            metric = _build(node, schema, place)
            if metric.key in self._metrics:
                raise ConfigError(
                    f"'{place}': the metric '{metric.key}' is already given by '{self._where[metric.key]}'",
                    expected="each metric once for each label",
                )
            self._metrics[metric.key] = metric
            self._where[metric.key] = place
        self.reset()

    @property
    def keys(self) -> tuple[str, ...]:
        """The names under which `compute` gives its numbers, in the configuration's order."""
        return tuple(self._metrics)

    def check(self, output_names: tuple[str, ...]) -> None:
        """ConfigError when the model does not produce what a metric reads."""
        for key, metric in self._metrics.items():
            metric.check(output_names, where=self._where[key])

    def mode(self, key: str) -> Direction:
        """Whether larger (`max`) or smaller (`min`) numbers of metric `key` are better.

        Raises:
            ConfigError: no such metric, or neither is better (`calibration`).
        """
        if key not in self._metrics:
            raise ConfigError(f"no metric '{key}' is computed", hint=nearest(key, self.keys))
        mode = self._metrics[key].mode
        if mode is None:
            directed = [name for name, metric in self._metrics.items() if metric.mode is not None]
            raise ConfigError(
                f"metric '{key}' has no direction, so no best model or early stopping can go by it",
                expected=f"one of: {', '.join(directed)}" if directed else "a metric with one, such as auc or log_loss",
            )
        return mode

    def default_key(self) -> str:
        """The first metric with a direction: what the best model goes by unless the configuration says otherwise.

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

    def reset(self) -> None:
        """Forgets all rows."""
        self._accumulators = {key: Accumulator(metric) for key, metric in self._metrics.items()}

    @torch.no_grad()
    def update(self, outputs: Outputs, batch: Batch) -> None:
        """Takes in one batch, without waiting for the device."""
        for key, metric in self._metrics.items():
            self._accumulators[key].add(metric.update(outputs, batch))

    @torch.no_grad()
    def compute(self, world: World, *, device: torch.device | None = None) -> dict[str, float]:
        """The numbers over all batches since `reset` and all ranks, the same on every rank.

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
    try:
        return METRICS.build(node, schema, where=place)
    except RechubError as error:
        raise ConfigError(
            f"'{place}': {error.message}", expected=error.expected, got=error.got, hint=error.hint
        ) from None
