"""The trainer of multi-task models."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import torch

from rechub_ray.balancing import BALANCING
from rechub_ray.defaults import default_metrics
from rechub_ray.errors import ConfigError, named, nearest
from rechub_ray.models.base import Model
from rechub_ray.schema import LabelKind
from rechub_ray.tracking import Tracker
from rechub_ray.tracking.adapter import Logger
from rechub_ray.trainers.base import Trainer
from rechub_ray.trainers.metabalance import MetaBalance
from rechub_ray.trainers.task_logger import TaskLogger
from rechub_ray.trainers.translate import optimizer_nodes
from rechub_ray.trainers.unbuilt import Unbuilt, built

TASK_TYPES: dict[str, LabelKind] = {
    "binary": "binary",
    "classification": "binary",
    "regression": "regression",
    "multiclass": "multiclass",
}
"""Names of task types, and the kind of label each one is."""
_SCORES: dict[LabelKind, str] = {"binary": "auc", "regression": "mse", "multiclass": "log_loss"}


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
    error, cross-entropy), their scores AUC, the mean squared error of a regression, the log loss of several classes.

    An ESMM of two labels with three `task_types` has three tasks, as in Torch-RecHub: the conversion given a click, the
    click, both. The first is not trained on; its score is the AUC over rows with a click. Of three columns of labels
    the first is left out.

    A logger also gets `train/task_{i}_loss`, `val/task_{i}_score`, and the score of `earlystop_taskid` as `auc`.

    Data is as for `CTRTrainer`, with a column for each label, or labels (B, T) in a DataLoader.

    Args:
        model: a model of this library, or one of `rechub_ray.compat.models.multi_task` with features given by name.
        task_types: `binary` (or `classification`), `multiclass` or `regression`, one a task; None takes the model's
            labels as they are.
        optimizer_fn: as for `CTRTrainer`.
        optimizer_params: as for `CTRTrainer`.
        regularization_params: as for `CTRTrainer`.
        scheduler_fn: as for `CTRTrainer`.
        scheduler_params: as for `CTRTrainer`.
        adaptive_params: `{"method": <name>, <arguments>}` balances the tasks: `uwl`, `gradnorm`, `pcgrad` or any other
            method of `rechub_ray.balancing`. `gradnorm` has alpha 0.16 here unless it is given.
        n_epoch: passes over the training data, >= 1; None takes `n_epochs`, or 10.
        earlystop_taskid: the task whose score stops training and chooses the best weights, in [0, T).
        earlystop_patience: stop at the epoch that makes this many in a row without a better score, >= 1.
        device: as for `CTRTrainer`.
        gpus: as for `CTRTrainer`.
        model_path: as for `CTRTrainer`.
        model_logger: as for `CTRTrainer`.
        earlystop_mode: `max` or `min`; None takes the direction of the task's score.
        n_epochs: another name of `n_epoch`.
        task_weights_strategy: name of a balancing method.
        gradnorm_alpha: alpha of the strategy `gradnorm`, >= 0; None takes 1.5.
        task_weights: fixed weights of the tasks' losses, >= 0, one a task or by label.
        task_specific_lr: by label, the learning rate of its tower; the others keep the optimizer's.
        optimizer: a `MetaBalance`, which balances the tasks' gradients; the steps are those of `optimizer_fn`.
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
        earlystop_patience: int = 10,
        device: str | torch.device = "cpu",
        gpus: Sequence[int] | None = None,
        model_path: str | Path | None = None,
        model_logger: Any = None,
        earlystop_mode: Literal["max", "min"] | None = None,
        *,
        n_epochs: int | None = None,
        task_weights_strategy: str | None = None,
        gradnorm_alpha: float | None = None,
        task_weights: Sequence[float] | Mapping[str, float] | None = None,
        task_specific_lr: Mapping[str, float] | None = None,
        optimizer: MetaBalance | None = None,
        num_workers: int = 0,
        batch_size: int | None = None,
        overrides: Sequence[str] | Mapping[str, Any] = (),
    ) -> None:
        if n_epoch is not None and n_epochs is not None:
            raise ConfigError("'n_epoch' and 'n_epochs' are one argument", got=f"{n_epoch} and {n_epochs}")
        self._task_types = None if task_types is None else label_kinds(task_types)
        if task_specific_lr is not None:
            nodes = optimizer_nodes(optimizer_fn, optimizer_params)
            if len(nodes) != 1:
                raise ConfigError("'task_specific_lr' has no meaning beside a list of optimizers", got=f"{len(nodes)}")
            optimizer_fn, optimizer_params = [{**nodes[0], "task_specific_lr": dict(task_specific_lr)}], None
        self._stop = (earlystop_taskid, earlystop_mode, earlystop_patience)
        self._balancing = _balancing(adaptive_params, task_weights_strategy, gradnorm_alpha, task_weights, optimizer)
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
        self._begin((model.model or model.example()) if isinstance(model, Unbuilt) else model)

    def fit(
        self, train_dataloader: Any, val_dataloader: Any = None, mode: str = "base", seed: int = 0, **options: Any
    ) -> Any:
        """Train; see `CTRTrainer.fit`. A model whose features were given by name is built from this data first.

        Args:
            train_dataloader: as for `CTRTrainer.fit`.
            val_dataloader: likewise.
            mode: has no effect, as `seed`: they name a file in Torch-RecHub.
            seed: see `mode`.
            options: as for `CTRTrainer.fit`.

        Returns:
            (best score of the task `earlystop_taskid`, all metrics of that evaluation), or (-1, None) without
            validation data.
        """
        if self._unbuilt is not None and self._unbuilt.model is None:
            self._unbuilt.build(train_dataloader, val_dataloader)
        self._take_built()
        return super().fit(train_dataloader, val_dataloader, **options)

    def evaluate(self, model: Model | Unbuilt, data_loader: Any) -> list[float]:
        """Return the score of each task over every row once; see the class."""
        model = built(model)
        self._take_built()
        found = self._metrics(model, data_loader)
        return [found[key] for key in self._scores(model)]

    def predict(self, model: Model | Unbuilt, data_loader: Any) -> npt.NDArray[np.float32]:
        """Return what is predicted of each task, (rows, T), in the data's order; labels are not needed.

        Raises:
            ConfigError: a task has several classes, so that a row has no one number.
        """
        model = built(model)
        self._take_built()
        labels = model.schema.labels
        for label in labels:
            if label.kind == "multiclass":
                raise ConfigError(
                    f"predict gives one number a task, and '{label.name}' has several",
                    hint="rechub_ray.predict writes the probabilities of all classes.",
                )
        names = ["value" if label.kind == "regression" else "probability" for label in labels]
        if len(labels) > 1:
            names = [f"{name}/{label.name}" for name, label in zip(names, labels, strict=True)]
        if self._is_chain:
            names = [f"conditional/{labels[1].name}", *names]
        table = self._predictions(model, data_loader)
        return np.stack([table[name].to_numpy() for name in names], 1).astype(np.float32, copy=False)

    def export_onnx(self, output_path: str | Path, *arguments: Any, **options: Any) -> Any:
        """Export `model` with one output a task; see `CTRTrainer.export_onnx`."""
        if self._unbuilt is not None:
            built(self._unbuilt)
        self._take_built()
        return super().export_onnx(output_path, *arguments, **options)

    def _take_built(self) -> None:
        """Begin with the model that was built meanwhile, by this trainer or by another one."""
        if self._unbuilt is not None and self._unbuilt.model not in (None, self.model):
            self._begin(built(self._unbuilt))

    def _begin(self, model: Model) -> None:
        if not isinstance(model, Model) or len(model.schema.labels) < 1:
            raise ConfigError("'model' has no labels", expected="a multi-task model", got=type(model).__name__)
        labels, (task, mode, patience) = model.schema.labels, self._stop
        kinds = tuple(label.kind for label in labels)
        self._is_chain = model.registered_name == "esmm" and len(kinds) == 2 and self._task_types == ("binary",) * 3
        if self._task_types not in (None, kinds) and not self._is_chain:
            raise ConfigError(
                "'task_types' are not those of the model's labels",
                expected=", ".join(f"{label.name}: {label.kind}" for label in labels),
                got=", ".join(self._task_types or ()),
            )
        scores = self._scores(model)
        if task not in range(len(scores)):
            raise ConfigError("'earlystop_taskid': no such task", expected=f"0 to {len(scores) - 1}", got=task)
        direction = "max" if scores[task].rpartition("/")[2].startswith("auc") else "min"
        if mode not in (None, direction):
            raise ConfigError(
                f"'earlystop_mode' would keep the worst model: task {task} is scored by {scores[task]}",
                expected=direction,
                got=mode,
            )
        if self._balancing:
            name, node = self._balancing
            with named(name):
                BALANCING.build(node, labels, where=name)
        metrics = default_metrics(model.schema)
        metrics += [{"name": "mse", "label": label.name} for label in labels if label.kind == "regression"]
        if self._is_chain:
            metrics.append({"name": "auc", "output": f"conditional/{labels[1].name}", "where": labels[0].name})
        self._set_up(
            model,
            objective={
                "losses": None,
                "metrics": metrics,
                "balancing": self._balancing[1] if self._balancing else None,
            },
            early_stopping={"metric": scores[task], "patience": patience},
            **self._common,
        )
        several = len(labels) > 1
        losses = {i + self._is_chain: f"/{label.name}" if several else "" for i, label in enumerate(labels)}
        self._loggers = [
            TaskLogger(x, losses, scores, task) if isinstance(x, Logger) and not isinstance(x, Tracker) else x
            for x in self._loggers
        ]

    def _rows(self, data: Any) -> Any:
        is_table = isinstance(data, pd.DataFrame | pa.Table) or hasattr(data, "iter_batches")
        if self._is_chain and not is_table and isinstance(data, Iterable):
            return _WithoutFirst(data)
        return data

    def _scores(self, model: Model) -> list[str]:
        """Return by task the key of its score among the metrics."""
        labels = model.schema.labels
        keys = [_SCORES[label.kind] for label in labels]
        if len(labels) > 1:
            keys = [f"{label.name}/{key}" for label, key in zip(labels, keys, strict=True)]
        return [f"{labels[1].name}/auc_where_{labels[0].name}", *keys] if self._is_chain else keys


class _WithoutFirst:
    """The batches of a loader; of three columns of labels the last two."""

    def __init__(self, batches: Iterable[Any]) -> None:
        self._batches = batches

    def __iter__(self) -> Iterator[Any]:
        for batch in self._batches:
            if isinstance(batch, tuple | list) and len(batch) == 2 and np.shape(batch[1])[1:] == (3,):
                yield batch[0], batch[1][:, 1:]
            else:
                yield batch


def _balancing(
    adaptive_params: Mapping[str, Any] | None,
    strategy: str | None,
    alpha: float | None,
    weights: Sequence[float] | Mapping[str, float] | None,
    optimizer: Any,
) -> tuple[str, dict[str, Any]] | None:
    """Return the argument that decides how tasks are balanced, and the configuration's node."""
    if optimizer is not None and not isinstance(optimizer, MetaBalance):
        raise ConfigError(
            "'optimizer' balances tasks",
            expected="a MetaBalance",
            got=type(optimizer).__name__,
            hint="What takes the steps is optimizer_fn, with optimizer_params.",
        )
    given = {
        "adaptive_params": adaptive_params,
        "task_weights_strategy": strategy,
        "task_weights": weights,
        "optimizer": optimizer,
    }
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
        fixed = dict(weights) if isinstance(weights, Mapping) else list(weights)
        return "task_weights", {"name": "fixed", "task_weights": fixed}
    return None if optimizer is None else ("optimizer", optimizer.node)
