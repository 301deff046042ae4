"""The trainer of ranking models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from rechub_ray.errors import ConfigError
from rechub_ray.models.base import Model
from rechub_ray.trainers.base import Trainer


class CTRTrainer(Trainer):
    """Trains a ranking model on a click label, evaluates it, predicts with it and exports it.

    It turns its arguments into a configuration and hands that to the same runtime as the command line: the run's
    folder holds config.yaml, checkpoints, logs and, for data from memory, parquet shards.

    Data may be a path of parquet shards with integer ids, a pandas DataFrame, a pyarrow Table, a Ray Dataset, or a
    DataLoader of `({feature: tensor}, labels)`. A path is read where it is; anything else is written to
    `<model_path>/data` first, in a stream.

    Args:
        model: a model of this library. Its weights as they are now are the start, and after `fit` it holds the best.
        optimizer_fn: torch.optim.Adam, AdamW, SGD or Adagrad; a name (`adam`, `adagrad`, ...); or a list of nodes as
            in the YAML, for parameter groups.
        optimizer_params: its arguments; None takes lr 0.001 and weight_decay 0.00001.
        regularization_params: embedding_l1, embedding_l2, dense_l1, dense_l2, each >= 0.
        scheduler_fn: a class of torch.optim.lr_scheduler that steps once an epoch, or the name of a schedule.
        scheduler_params: its arguments.
        n_epoch: passes over the training data, >= 1.
        earlystop_patience: stop at the epoch that makes this many in a row without a better AUC, >= 1; without
            validation data it has no effect.
        device: `cpu`, `cuda`, `cuda:N` or `auto`.
        gpus: GPUs to train on; two or more make one Ray Train worker each. Their number counts, not their ids. A single
            one is that of the device `cuda` or `auto`, and nothing beside `cpu`.
        loss_mode: False if the model has losses of its own (outputs of kind `loss`).
        model_path: the run's folder or URI, shared by all hosts; None takes `runs/<name of the model>`.
        model_logger: a tracker, or an object with log_metrics, log_hyperparams and finish; or a list of them.
        num_workers: Ray Train workers; 0 trains in this process, without Ray.
        batch_size: rows of one step, over all workers; None takes the DataLoader's, or 4096.
        overrides: anything else of the configuration, as `path=value` or {path: value}.

    Attributes:
        model: the model.
        result: the `RunResult` of the last `fit`; None before.

    Raises:
        ConfigError: an argument is not valid, or the model is not one of this library.

    Example:
        >>> from rechub_ray import CTRTrainer, Label, Schema, SparseFeature
        >>> from rechub_ray.models.ranking import LR
        >>> schema = Schema((SparseFeature("user", 10), SparseFeature("item", 5)), (Label("click"),))
        >>> trainer = CTRTrainer(LR(schema), n_epoch=2)
        >>> trainer.fit("data/train", "data/valid")  # doctest: +SKIP
        (0.7431, {'auc': 0.7431, 'log_loss': 0.5512, ...})
    """

    def __init__(
        self,
        model: Model,
        optimizer_fn: Any = torch.optim.Adam,
        optimizer_params: Mapping[str, Any] | None = None,
        regularization_params: Mapping[str, float] | None = None,
        scheduler_fn: Any = None,
        scheduler_params: Mapping[str, Any] | None = None,
        n_epoch: int = 10,
        earlystop_patience: int = 10,
        device: str | torch.device = "cpu",
        gpus: Sequence[int] | None = None,
        loss_mode: bool = True,
        model_path: str | Path | None = None,
        model_logger: Any = None,
        *,
        num_workers: int = 0,
        batch_size: int | None = None,
        overrides: Sequence[str] | Mapping[str, Any] = (),
    ) -> None:
        self._set_up(
            model,
            objective={"losses": ["bce"], "metrics": ["auc", "log_loss"]},
            early_stopping={"metric": "auc", "patience": earlystop_patience},
            optimizer_fn=optimizer_fn,
            optimizer_params=optimizer_params,
            regularization_params=regularization_params,
            scheduler_fn=scheduler_fn,
            scheduler_params=scheduler_params,
            n_epoch=n_epoch,
            device=device,
            gpus=gpus,
            model_path=model_path,
            model_logger=model_logger,
            num_workers=num_workers,
            batch_size=batch_size,
            overrides=overrides,
        )
        if not loss_mode and not any(output.kind == "loss" for output in model.outputs):
            raise ConfigError(
                f"'loss_mode' is False, but the model '{model.registered_name}' has no loss of its own",
                expected="an output of kind loss that forward returns beside the logit",
                got=", ".join(output.name for output in model.outputs),
            )

    def evaluate(self, model: Model, data_loader: Any) -> float:
        """Return the AUC of a model, over every row once; NaN where the data has one class only."""
        return self._metrics(model, data_loader)["auc"]

    def predict(self, model: Model, data_loader: Any) -> npt.NDArray[np.float32]:
        """Return the probability of each row, (rows,), in the data's order; labels are not needed."""
        return np.asarray(self._predictions(model, data_loader)["probability"].to_numpy(), dtype=np.float32)
