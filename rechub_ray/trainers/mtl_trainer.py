"""The trainer of multi-task models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from rechub_ray.balancing import BALANCING
from rechub_ray.errors import ConfigError, named, nearest
from rechub_ray.models.base import Model
from rechub_ray.schema import LabelKind
from rechub_ray.trainers.base import Trainer
from rechub_ray.trainers.translate import optimizer_nodes
from rechub_ray.trainers.unbuilt import Unbuilt, built

TASK_TYPES: dict[str, LabelKind] = {"binary": "binary", "classification": "binary", "regression": "regression"}
"""Names of task types, and the kind of label each one is."""
_SCORES: dict[LabelKind, str] = {"binary": "auc", "regression": "rmse", "multiclass": "log_loss"}


def label_kinds(task_types: Sequence[str]) -> tuple[LabelKind, ...]:
    """Return the kinds of labels that the task types name.

    Raises:
        ConfigError: there is no such type.
    """
    for name in task_types:
        if name not in TASK_TYPES:
            raise ConfigError(f"'task_types': no type '{name}'", hint=nearest(str(name), TASK_TYPES))
    return tuple(TASK_TYPES[name] for name in task_types)


class MTLTrainer(Trainer):
    """Trains a multi-task model on several labels, evaluates it, predicts with it and exports it.

    Tasks are the labels of the model's schema, in its order. Their losses are those of their kinds (log loss, squared
    error), their scores AUC, or the root mean squared error of a regression.

    Data is as for `CTRTrainer`, with a column for each label, or labels (B, T) in a DataLoader.

    Args:
        model: a model of this library, or one of `rechub_ray.compat.models.multi_task` with features given by name.
        task_types: `binary` (or `classification`) or `regression`, one a task; None takes the model's labels as they
            are.
        optimizer_fn: as for `CTRTrainer`.
        optimizer_params: as for `CTRTrainer`.
        regularization_params: as for `CTRTrainer`.
        scheduler_fn: as for `CTRTrainer`.
        scheduler_params: as for `CTRTrainer`.
        adaptive_params: `{"method": <name>, <arguments>}` balances the tasks: `uwl`, `gradnorm`, `pcgrad` or any other
            method of `rechub_ray.balancing`. `gradnorm` has alpha 0.16 here unless it is given.
        n_epoch: passes over the training data, >= 1; None takes `n_epochs`, or 10.
        earlystop_taskid: the task whose score stops training and chooses the best weights, in [0, T).
        earlystop_mode: `max` or `min`; None takes the direction of the task's score.
        earlystop_patience: stop at the epoch that makes this many in a row without a better score, >= 1.
        device: as for `CTRTrainer`.
        gpus: as for `CTRTrainer`.
        model_path: as for `CTRTrainer`.
        model_logger: as for `CTRTrainer`.
        n_epochs: another name of `n_epoch`.
        task_weights_strategy: name of a balancing method.
        gradnorm_alpha: alpha of the strategy `gradnorm`, >= 0; None takes 1.5.
        task_weights: fixed weights of the tasks' losses, >= 0, one a task or by label.
        task_specific_lr: by label, the learning rate of its tower; the others keep the optimizer's.
        optimizer: not there yet: an optimizer that balances tasks.
        num_workers: as for `CTRTrainer`.
        batch_size: as for `CTRTrainer`.
        overrides: as for `CTRTrainer`.

    Raises:
        ConfigError: an argument is not valid, contradicts another one, or does not fit the model.

    Example:
        >>> from rechub_ray import Label, MTLTrainer, Schema, SparseFeature
        >>> from rechub_ray.models.multi_task import MMoE
        >>> schema = Schema((SparseFeature("user", 10), SparseFeature("item", 5)), (Label("click"), Label("buy")))
        >>> trainer = MTLTrainer(MMoE(schema), adaptive_params={"method": "uwl"}, earlystop_taskid=1, n_epoch=2)
        >>> trainer.fit("data/train", "data/valid")  # doctest: +SKIP
        (0.7431, {'click/auc': 0.6912, 'click/log_loss': 0.5512, 'buy/auc': 0.7431, ...})
    """

    def __init__(
        self,
        model: Model | Unbuilt,
        task_types: Sequence[str] | None = None,
        optimizer_fn: Any = torch.optim.Adam,
        optimizer_params: Mapping[str, Any] | None = None,
        regularization_params: Mapping[str, float] | None = None,
        scheduler_fn: Any = None,
        scheduler_params: Mapping[str, Any] | None = None,
        adaptive_params: Mapping[str, Any] | None = None,
        n_epoch: int | None = None,
        earlystop_taskid: int = 0,
        earlystop_mode: Literal["max", "min"] | None = None,
        earlystop_patience: int = 10,
        device: str | torch.device = "cpu",
        gpus: Sequence[int] | None = None,
        model_path: str | Path | None = None,
        model_logger: Any = None,
        *,
        n_epochs: int | None = None,
        task_weights_strategy: str | None = None,
        gradnorm_alpha: float | None = None,
        task_weights: Sequence[float] | Mapping[str, float] | None = None,
        task_specific_lr: Mapping[str, float] | None = None,
        optimizer: Any = None,
        num_workers: int = 0,
        batch_size: int | None = None,
        overrides: Sequence[str] | Mapping[str, Any] = (),
    ) -> None:
        if n_epoch is not None and n_epochs is not None:
            raise ConfigError("'n_epoch' and 'n_epochs' are one argument", got=f"{n_epoch} and {n_epochs}")
        _refuse(optimizer)
        self._task_types = None if task_types is None else label_kinds(task_types)
        if task_specific_lr is not None:
            nodes = optimizer_nodes(optimizer_fn, optimizer_params)
            if len(nodes) != 1:
                raise ConfigError("'task_specific_lr' has no meaning beside a list of optimizers", got=f"{len(nodes)}")
            optimizer_fn, optimizer_params = [{**nodes[0], "task_specific_lr": dict(task_specific_lr)}], None
        self._stop = (earlystop_taskid, earlystop_mode, earlystop_patience)
        self._balancing = _balancing(adaptive_params, task_weights_strategy, gradnorm_alpha, task_weights)
        self._common: dict[str, Any] = {
            "optimizer_fn": optimizer_fn,
            "optimizer_params": optimizer_params,
            "regularization_params": regularization_params,
            "scheduler_fn": scheduler_fn,
            "scheduler_params": scheduler_params,
            "n_epoch": next((n for n in (n_epoch, n_epochs) if n is not None), 10),
            "device": device,
            "gpus": gpus,
            "model_path": model_path,
            "model_logger": model_logger,
            "num_workers": num_workers,
            "batch_size": batch_size,
            "overrides": overrides,
        }
        self._unbuilt = model if isinstance(model, Unbuilt) else None
        # a model on a made-up schema shows what is wrong before there is data
        self._begin(model.example() if isinstance(model, Unbuilt) else model)

    def fit(self, train_dataloader: Any, val_dataloader: Any = None, **options: Any) -> Any:
        """Train; see `CTRTrainer.fit`. A model whose features were given by name is built from this data first.

        Returns:
            (best score of the task `earlystop_taskid`, all metrics of that evaluation), or (-1, None) without
            validation data.
        """
        if self._unbuilt is not None and self._unbuilt.model is None:
            self._begin(self._unbuilt.build(train_dataloader, val_dataloader))
        return super().fit(train_dataloader, val_dataloader, **options)

    def evaluate(self, model: Model | Unbuilt, data_loader: Any) -> list[float]:
        """Return the score of each task over every row once: AUC, or the root mean squared error of a regression."""
        model = built(model)
        found = self._metrics(model, data_loader)
        return [found[_score(model, i)] for i in range(len(model.schema.labels))]

    def predict(self, model: Model | Unbuilt, data_loader: Any) -> npt.NDArray[np.float32]:
        """Return what is predicted of each task, (rows, T), in the data's order; labels are not needed.

        Raises:
            ConfigError: a task has several classes, so that a row has no one number.
        """
        model = built(model)
        table, several = self._predictions(model, data_loader), len(model.schema.labels) > 1
        columns = []
        for label in model.schema.labels:
            name = "value" if label.kind == "regression" else "probability"
            name = f"{name}/{label.name}" if several else name
            if name not in table.column_names:
                raise ConfigError(
                    f"predict gives one number a task, and '{label.name}' has several",
                    hint="rechub_ray.predict writes the probabilities of all classes.",
                )
            columns.append(table[name].to_numpy())
        return np.stack(columns, 1).astype(np.float32, copy=False)

    def export_onnx(self, output_path: str | Path, *arguments: Any, **options: Any) -> Any:
        """Export `model` with one output a task; see `CTRTrainer.export_onnx`."""
        if self._unbuilt is not None:
            built(self._unbuilt)
        return super().export_onnx(output_path, *arguments, **options)

    def _begin(self, model: Model) -> None:
        if not isinstance(model, Model) or len(model.schema.labels) < 1:
            raise ConfigError("'model' has no labels", expected="a multi-task model", got=type(model).__name__)
        labels, (task, mode, patience) = model.schema.labels, self._stop
        kinds = tuple(label.kind for label in labels)
        if self._task_types is not None and self._task_types != kinds:
            raise ConfigError(
                "'task_types' are not those of the model's labels",
                expected=", ".join(f"{label.name}: {label.kind}" for label in labels),
                got=", ".join(self._task_types),
            )
        if task not in range(len(labels)):
            raise ConfigError("'earlystop_taskid': no such task", expected=f"0 to {len(labels) - 1}", got=task)
        score = _SCORES[labels[task].kind]
        direction = "max" if score == "auc" else "min"
        if mode not in (None, direction):
            raise ConfigError(
                f"'earlystop_mode' would keep the worst model: task {task} is scored by {score}",
                expected=direction,
                got=mode,
            )
        if self._balancing:
            name, node = self._balancing
            with named(name):
                BALANCING.build(node, labels, where=name)
        self._set_up(
            model,
            objective={"losses": None, "metrics": None, "balancing": self._balancing[1] if self._balancing else None},
            early_stopping={"metric": _score(model, task), "patience": patience},
            **self._common,
        )


def _score(model: Model, task: int) -> str:
    """Return the key of a task's score among the metrics."""
    label = model.schema.labels[task]
    name = _SCORES[label.kind]
    return f"{label.name}/{name}" if len(model.schema.labels) > 1 else name


def _balancing(
    adaptive_params: Mapping[str, Any] | None,
    strategy: str | None,
    alpha: float | None,
    weights: Sequence[float] | Mapping[str, float] | None,
) -> tuple[str, dict[str, Any]] | None:
    """Return the argument that decides how tasks are balanced, and the configuration's node."""
    given = {"adaptive_params": adaptive_params, "task_weights_strategy": strategy, "task_weights": weights}
    names = [name for name, value in given.items() if value is not None]
    if len(names) > 1:
        raise ConfigError("tasks are balanced in one way", expected=f"one of {', '.join(given)}", got=", ".join(names))
    if alpha is not None and strategy != "gradnorm":
        raise ConfigError("'gradnorm_alpha' belongs to task_weights_strategy='gradnorm'", got=f"strategy {strategy}")
    if adaptive_params is not None:
        arguments = dict(adaptive_params)
        if "method" not in arguments:
            raise ConfigError("'adaptive_params' has no 'method'", hint=f"Known: {', '.join(BALANCING.names())}.")
        node = {"name": arguments.pop("method"), **arguments}
        if node["name"] == "gradnorm":
            node.setdefault("alpha", 0.16)
        return "adaptive_params", node
    if strategy is not None:
        return "task_weights_strategy", {"name": strategy, **({} if alpha is None else {"alpha": alpha})}
    if weights is not None:
        return "task_weights", {
            "name": "fixed",
            "task_weights": dict(weights) if isinstance(weights, Mapping) else list(weights),
        }
    return None


def _refuse(optimizer: Any) -> None:
    if optimizer is not None:
        raise ConfigError(
            "'optimizer': MTLTrainer takes no optimizer object yet",
            expected="optimizer_fn and optimizer_params",
            got=type(optimizer).__name__,
            hint="Balancing of gradients is adaptive_params={'method': ...}.",
        )
