"""Metrics of each task of a model in memory."""

from __future__ import annotations

import os
import tempfile
from typing import Any

from rechub_ray.config import DataSection
from rechub_ray.data.convert import write_rows
from rechub_ray.data.manifest import Manifest
from rechub_ray.data.source import EvalSource, ThreadReader
from rechub_ray.defaults import default_metrics
from rechub_ray.errors import ConfigError
from rechub_ray.evaluation import evaluate_model
from rechub_ray.metrics import MetricSet
from rechub_ray.models.base import Model
from rechub_ray.outputs import predictions
from rechub_ray.trainers.unbuilt import Unbuilt, built
from rechub_ray.world import World

_NAMES = {"log_loss": "logloss"}


def evaluate_multi_task(model: Model | Unbuilt, data: Any) -> dict[str, dict[str, float]]:
    """Return the metrics of every label that a model predicts, over every row once, in this process.

    A binary label has `auc` and `logloss`, a multiclass one `logloss` and `accuracy`, one of numbers `rmse`; each is
    NaN where it is not defined, and rows whose label is missing do not count. `rechub_ray.evaluate` takes a checkpoint,
    any metrics, and workers.

    Args:
        model: on the device that computes; it is in the same mode afterwards.
        data: a path of parquet shards, a pandas DataFrame, a pyarrow Table, a Ray Dataset, or an iterable (such as a
            DataLoader) of `({feature: tensor}, labels)`, labels (B, L) in the schema's order.

    Raises:
        DataError: the data cannot be read, or does not fit the model's schema.
        ConfigError: an output is a distribution, which is read as the loss says, and a model in memory has no loss.

    Example:
        >>> import torch
        >>> from rechub_ray.models import MODELS
        >>> from rechub_ray.schema import DenseFeature, Label, Schema
        >>> schema = Schema((DenseFeature("age"),), (Label("click"), Label("rating", "regression")))
        >>> model = MODELS.build("shared_bottom", schema)
        >>> rows = {"age": torch.randn(4)}, torch.tensor([[0.0, 3], [1, 5], [1, 4], [0, 2]])
        >>> {task: list(metrics) for task, metrics in evaluate_multi_task(model, [rows]).items()}
        {'click': ['auc', 'logloss'], 'rating': ['rmse']}
    """
    model = built(model)
    schema = model.schema
    read_as = predictions(model.outputs, schema)
    for label, prediction in read_as.items():
        if prediction.output.kind == "distribution":
            raise ConfigError(
                f"'{label}': output '{prediction.output.name}' is a distribution, which only its loss can read",
                hint="rechub_ray.evaluate(checkpoint) knows the run's losses.",
            )
    nodes = [node for node in default_metrics(schema) if node["label"] in read_as]
    metrics = MetricSet(schema, nodes).bind(read_as, model.outputs)
    was_training = model.training
    with tempfile.TemporaryDirectory(prefix="rechub-") as folder:
        path = os.fspath(data) if isinstance(data, str | os.PathLike) else folder
        if path is folder:
            write_rows(data, folder, schema, padding=getattr(model, "padding", {}), what="the evaluation data")
        source = EvalSource(
            Manifest.scan(path, schema, key="data"),
            schema,
            batch_size=DataSection.model_fields["eval_batch_size"].default,
            world=World(),
            reader=ThreadReader(),
        )
        try:
            values = evaluate_model(model, metrics, source, world=World(), device=next(model.parameters()).device)
        finally:
            model.train(was_training)
    result: dict[str, dict[str, float]] = {label: {} for label in read_as}
    for node, key in zip(nodes, metrics.keys, strict=True):
        result[node["label"]][_NAMES.get(node["name"], node["name"])] = values[key]
    return result
