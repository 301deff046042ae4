"""Defaults that follow from a data set's labels and from the model's family: losses, metrics, heads, negatives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from rechub_ray.config import OF_RETRIEVAL, RunConfig, usual_losses
from rechub_ray.errors import ConfigError, nearest
from rechub_ray.losses import LOSSES, Loss, build_losses
from rechub_ray.losses.vectors import TowerLoss
from rechub_ray.metrics import METRICS
from rechub_ray.models import MODELS, Model
from rechub_ray.models.matching.base import Retriever
from rechub_ray.models.sequential.base import SequentialRetriever
from rechub_ray.negatives import NEGATIVES
from rechub_ray.outputs import Link, Output
from rechub_ray.registry import keyword_arguments
from rechub_ray.schema import LabelKind, Schema
from rechub_ray.task import Task, links_of
from rechub_ray.world import World

_LOSS: dict[LabelKind, str] = {"binary": "bce", "regression": "mse", "multiclass": "cross_entropy"}
_METRICS: dict[LabelKind, tuple[str, ...]] = {
    "binary": ("auc", "log_loss"),
    "regression": ("rmse",),
    "multiclass": ("log_loss", "accuracy"),
}


def resolved(config: RunConfig, schema: Schema, *, built: Model | None = None) -> RunConfig:
    """Return the configuration with all that its labels decide written out; one that is resolved stays the same.

    Without `losses`, every label gets one by its kind; without `metrics`, those of its kind. Each loss gets its label's
    and its output's name. A model with an argument `heads` gets the heads that the losses read. A model for retrieval
    gets its own default (`sampled_softmax` of most), negatives that its losses read (`in_batch` of most), and metrics
    of ranks.

    Args:
        config: the run.
        schema: the features and labels in use.
        built: the configuration's model, where the caller has it.

    Raises:
        ConfigError: a loss that does not fit the model or its label, see `Task`, or the negatives.
    """
    losses, negatives = config.losses, config.negatives
    if retrieves(config):
        losses = [LOSSES.validate(x) for x in usual_losses(config.model)] if losses is None else losses
        if negatives is None:
            negatives = _usual_negatives(config, losses, schema)
        _check_lists(negatives, schema)
        if issubclass(MODELS.get(config.model["name"]), SequentialRetriever):
            _check_positions(negatives, is_last=config.model.get("positions") == "last")
    elif negatives is not None:
        raise ConfigError(
            f"'negatives' are for models for retrieval, and '{config.model['name']}' is none", expected="none"
        )
    if losses is None:
        losses = [LOSSES.validate({"name": _LOSS[x.kind], "label": x.name}) for x in schema.labels]
    metrics = metrics_of(config, schema)
    bound = build_losses(losses, schema)
    model = _with_heads(config.model, schema, bound)
    if losses:
        if built is None or model != config.model:
            with torch.device("meta"):
                built = MODELS.build(model, schema, where="model")
        for i, loss in enumerate(bound):
            loss.bind(built.outputs, where=f"losses.{i}")
            _check_negatives(loss, negatives, where=f"losses.{i}")
        losses = [
            {**node, "output": loss.output, "label": loss.label} for node, loss in zip(losses, bound, strict=True)
        ]
    return config.model_copy(update={"losses": losses, "negatives": negatives, "metrics": metrics, "model": model})


def retrieves(config: RunConfig) -> bool:
    """Return whether the run's model is one for retrieval."""
    return issubclass(MODELS.get(config.model["name"]), Retriever)


def build_task(config: RunConfig, schema: Schema, model: Model, *, world: World | None = None) -> Task:
    """Return the task of a resolved configuration: the model with its losses and balancing.

    Raises:
        ConfigError: see `Task`.
    """
    return Task(
        model,
        schema,
        config.losses or [],
        config.balancing,
        world=world,
        parts=config.train.accumulate_steps,
        grouped=config.data.group_by,
        alone=config.negatives is not None and all(_is_alone(node) for node in config.negatives),
        precision=config.train.precision,
    )


def _is_alone(node: Any) -> bool:
    """Return whether a source of negatives gives each row its own, whatever the other rows of the step are."""
    source = NEGATIVES.get(node["name"])
    return source.per_row and not source.of_step


def metrics_of(config: RunConfig, schema: Schema) -> list[dict[str, Any]]:
    """Return the nodes of a run's metrics: its own, those of a model for retrieval, or those of the labels."""
    if config.metrics is not None:
        return config.metrics
    if retrieves(config):
        return [METRICS.validate(name) for name in OF_RETRIEVAL["metrics"]]
    return default_metrics(schema)


def default_metrics(schema: Schema) -> list[dict[str, Any]]:
    """Return the nodes of the metrics that every label gets by its kind."""
    return [METRICS.validate({"name": name, "label": x.name}) for x in schema.labels for name in _METRICS[x.kind]]


def links(config: RunConfig, schema: Schema, outputs: Sequence[Output]) -> dict[str, Link]:
    """Return by label how a trained model's outputs are served, as far as its losses fix it.

    Raises:
        ConfigError: a loss does not fit the outputs, or two losses of one label want different links.
    """
    losses = build_losses(config.losses or [], schema)
    for i, loss in enumerate(losses):
        loss.bind(outputs, where=f"losses.{i}")
    return links_of(losses)


def _usual_negatives(config: RunConfig, losses: Sequence[Any], schema: Schema) -> list[dict[str, Any]]:
    """Return the nodes of the sources of negatives that a model for retrieval gets: its own, or those of its losses."""
    own = getattr(MODELS.get(config.model["name"]), "default_negatives", None) if config.losses is None else None
    names = [
        name for loss in build_losses(losses, schema) if isinstance(loss, TowerLoss) for name in loss.usual_negatives
    ]
    names = list(own or names)
    return [NEGATIVES.validate(name) for name in dict.fromkeys(names or OF_RETRIEVAL["negatives"])]


def _check_negatives(loss: Loss, negatives: Sequence[dict[str, Any]] | None, *, where: str) -> None:
    if not isinstance(loss, TowerLoss) or negatives is None:
        return
    has_all = any(NEGATIVES.get(node["name"]).every for node in negatives)
    if has_all != loss.takes_all or (has_all and len(negatives) > 1):
        raise ConfigError(
            f"'{where}': loss '{loss.registered_name}' compares "
            + ("with all items" if loss.takes_all else "with some items, not with all"),
            expected=f"negatives: [{', '.join(loss.usual_negatives)}]",
            got=", ".join(node["name"] for node in negatives) or "none",
        )
    if has_all:
        return
    if not negatives and loss.needs_negatives:
        raise ConfigError(
            f"'negatives' is empty, and loss '{loss.registered_name}' ('{where}') compares rows with negatives",
            expected="at least one source",
            hint="`sampled_bce` learns from rows of label 1 and of label 0 alone.",
        )
    sources = {node["name"]: NEGATIVES.get(node["name"]) for node in negatives}
    refused = [
        name
        for name, source in sources.items()
        if not (loss.takes_lists if source.per_row else source.in_batch or loss.takes_drawn)
    ]
    if refused:
        raise ConfigError(
            f"'{where}': loss '{loss.registered_name}' compares "
            + ("all rows with the same items" if loss.takes_drawn else "the rows of a step alone"),
            expected="negatives: in_batch, uniform or popularity" if loss.takes_drawn else "negatives: [in_batch]",
            got=", ".join(refused),
        )


def _check_lists(negatives: Sequence[dict[str, Any]], schema: Schema) -> None:
    """Raise ConfigError where a source of negatives reads a list column that the rows do not have."""
    lists = schema.items.lists if schema.items is not None else ()
    for i, node in enumerate(negatives):
        name = node.get("column")
        if name is not None and name not in lists:
            raise ConfigError(
                f"'negatives.{i}.column': the rows have no list of items '{name}'",
                hint=nearest(name, lists)
                if lists
                else "Name it in the recipe of `rechub-ray prepare` (`items.lists`).",
            )


def _check_positions(negatives: Sequence[dict[str, Any]], *, is_last: bool) -> None:
    """Raise ConfigError where a source has negatives for rows, and not for each of their positions.

    Args:
        negatives: the sources.
        is_last: whether the last position of a row is the only one that learns.
    """
    for i, node in enumerate(negatives):
        if "refresh_steps" in node or ("column" in node and not is_last):
            raise ConfigError(
                f"'negatives.{i}': '{node['name']}' has items for rows, and a model of sequences learns at several "
                "positions a row",
                expected="in_batch, uniform, popularity, in_batch_drawn, uniform_per_row or all; column where "
                "model.positions is last",
            )


def evaluation_lists(config: RunConfig, schema: Schema) -> tuple[str, ...]:
    """Return the lists of items, of `Items.all_lists`, that a run's metrics read."""
    named = {node.get(key) for node in metrics_of(config, schema) for key in ("exclude", "candidates")}
    return tuple(name for name in (schema.items.all_lists if schema.items is not None else ()) if name in named)


def _with_heads(node: dict[str, Any], schema: Schema, losses: list[Loss]) -> dict[str, Any]:
    """Return the model's node with the heads that the losses read, where it takes heads; the user's own stay."""
    if "heads" not in keyword_arguments(MODELS.get(node["name"])):
        return node
    heads = {loss.label: loss.heads[0] for loss in reversed(losses) if getattr(loss, "label", None) is not None}
    return {**node, "heads": {**heads, **(node["heads"] or {})}}
