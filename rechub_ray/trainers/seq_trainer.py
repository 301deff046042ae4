"""The trainer of models of sequences."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import torch

from rechub_ray.data.catalogue import Catalogue
from rechub_ray.errors import ConfigError
from rechub_ray.export.onnx import ExportReport
from rechub_ray.export.ports import vector_name
from rechub_ray.files import join, split
from rechub_ray.models.base import Model
from rechub_ray.models.sequential.base import SequentialRetriever
from rechub_ray.tracking import Tracker
from rechub_ray.tracking.adapter import Logger
from rechub_ray.trainers.base import Trainer
from rechub_ray.trainers.distinct_items import copy_items, write_all_ids

_ACCURACY, _LOSS = "recall@1", "full_log_loss"
_TEMPERATURES = {"cross_entropy": 1.0, "nce": 0.1}
_PRODUCTS = 2**24
"""Products that are held at once: 64 MiB in float32."""


class SeqTrainer(Trainer):
    """Trains a model of sequences to give the next item, at every position of a history.

    The loss is the cross-entropy of the next item among all items, as of Torch-RecHub; the model's vectors are compared
    with those of all items after division by a temperature. `evaluate` gives that loss of the rows' own items, and the
    share of rows whose item is the first of all: training stops by the latter. Loggers get `val/loss` and
    `val/accuracy`, beside our own names.

    Data is as for `CTRTrainer`: a folder `windows` or `train` of a prepared data set, beside its `items`; or rows with
    the item's column and lists, of which the item table is made: all ids from 1 on. A DataLoader may give
    `(seq_tokens, seq_positions, seq_time_diffs, targets)`, as Torch-RecHub's `SequenceDataGenerator` does, where tokens
    of 0 are padding; then the model's history has the tokens, its `age` the time differences, and the item's id the
    targets.

    Args:
        model: a model of sequences of this library, or one of `rechub_ray.compat.models.generative`.
        optimizer_fn: as for `CTRTrainer`.
        optimizer_params: as for `CTRTrainer`.
        scheduler_fn: as for `CTRTrainer`.
        scheduler_params: as for `CTRTrainer`.
        n_epoch: passes over the training data, >= 1.
        earlystop_patience: stop at the epoch that makes this many in a row without a better accuracy, >= 1.
        device: as for `CTRTrainer`.
        gpus: as for `CTRTrainer`.
        model_path: as for `CTRTrainer`.
        loss_type: `cross_entropy`, or `nce`: the same with a temperature of 0.1.
        loss_params: `temperature`, > 0, beside that of a model of `compat`, and `ignore_index`, which must be 0: items
            without an id never count.
        model_logger: as for `CTRTrainer`.
        num_workers: as for `CTRTrainer`.
        batch_size: as for `CTRTrainer`.
        overrides: as for `CTRTrainer`; `losses` and `negatives` among them, for many items.

    Raises:
        ConfigError: an argument is not valid, or the model is none of sequences.

    Example:
        >>> from rechub_ray import SeqTrainer
        >>> from rechub_ray.models.sequential import HSTU
        >>> from rechub_ray.schema import Items, Schema, SequenceFeature, SparseFeature
        >>> features = (SparseFeature("item", 100), SequenceFeature("history", 100, shared_with="item"))
        >>> trainer = SeqTrainer(HSTU(Schema(features, (), items=Items("item"))), n_epoch=2)
        >>> trainer.fit("data/windows", "data/valid")  # doctest: +SKIP
        (0.0431, {'recall@1': 0.0431, 'full_log_loss': 7.512, ...})
    """

    def __init__(
        self,
        model: Model,
        optimizer_fn: Any = torch.optim.Adam,
        optimizer_params: Mapping[str, Any] | None = None,
        scheduler_fn: Any = None,
        scheduler_params: Mapping[str, Any] | None = None,
        n_epoch: int = 10,
        earlystop_patience: int = 10,
        device: str | torch.device = "cpu",
        gpus: Sequence[int] | None = None,
        model_path: str | Path | None = None,
        loss_type: Literal["cross_entropy", "nce"] = "cross_entropy",
        loss_params: Mapping[str, Any] | None = None,
        model_logger: Any = None,
        *,
        num_workers: int = 0,
        batch_size: int | None = None,
        overrides: Sequence[str] | Mapping[str, Any] = (),
    ) -> None:
        temperature = _temperature(_sequential(model), loss_type, loss_params)
        self._set_up(
            model,
            objective={
                "losses": [{"name": "full_softmax", "temperature": temperature}],
                "negatives": ["all"],
                "metrics": [_ACCURACY, {"name": _LOSS, "temperature": temperature}],
            },
            early_stopping={"metric": _ACCURACY, "patience": earlystop_patience},
            optimizer_fn=optimizer_fn,
            optimizer_params=optimizer_params,
            regularization_params=None,
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
        self._loggers = [
            SequenceLogger(x) if isinstance(x, Logger) and not isinstance(x, Tracker) else x for x in self._loggers
        ]

    def evaluate(self, model: Any, data_loader: Any = None) -> tuple[float, float]:
        """Return the loss and the accuracy of a model over every row once.

        Args:
            model: may be left out, and is then the trainer's.
            data_loader: the rows.
        """
        if data_loader is None:
            model, data_loader = self.model, model
        self._root()
        found = self._metrics(model, data_loader)
        return found[_LOSS], found[_ACCURACY]

    def predict(self, model: Any, data_loader: Any = None, *, k: int = 1) -> npt.NDArray[np.int64]:
        """Return the ids of the items that are most likely next, (rows, k), the best one first, in the data's order.

        Items are those of the last `fit`; before it, all ids from 1 on.

        Args:
            model: may be left out, and is then the trainer's.
            data_loader: the rows; their own items are not read, but for a DataLoader of tokens.
            k: number of items, >= 1.

        Raises:
            ConfigError: there are fewer items.
        """
        if data_loader is None:
            model, data_loader = self.model, model
        own, root = _sequential(model), self._root()
        catalogue = Catalogue.read(root, own.schema)
        if not 1 <= k <= catalogue.rows:
            raise ConfigError("'k', the number of items", expected=f"1 to {catalogue.rows:,}", got=k)
        column = self._predictions(model, data_loader, schema=own.user_schema)[vector_name(own.schema, "user")]
        vectors = torch.tensor(column.combine_chunks().flatten().to_numpy(zero_copy_only=False))
        own.eval()
        with torch.no_grad():
            device = next(own.parameters()).device
            items = own.item_vectors(catalogue.to(device).features).float().cpu()
            best = [
                (users @ items.T).topk(k).indices
                for users in torch.split(vectors.view(-1, own.width), max(1, _PRODUCTS // len(items)))
            ]
        return np.asarray(catalogue.ids.cpu()[torch.cat(best)])

    def export_onnx(  # type: ignore[override]
        self,
        output_path: str | Path,
        batch_size: int = 2,
        seq_length: int = 50,
        vocab_size: int | None = None,
        opset_version: int | None = None,
        dynamic_batch: bool = True,
        device: Any = None,
        verbose: bool = False,
        onnx_export_kwargs: Mapping[str, Any] | None = None,
        *,
        mode: Literal["user", "item"] = "user",
    ) -> ExportReport:
        """Export a tower of `model` and check the file against it; the rest is as for `CTRTrainer.export_onnx`.

        Args:
            output_path: the file to write, a path or URI.
            vocab_size: has no effect, as `batch_size`, `seq_length` and `device`.
            mode: `user`, from a history to its vector, or `item`.

        Raises:
            ConfigError: there is no such tower, or as for `CTRTrainer.export_onnx`.
            ExportError: the file does not compute what the tower computes.
        """
        return self._exported_tower(
            mode,
            output_path,
            opset_version=opset_version,
            dynamic_batch=dynamic_batch,
            verbose=verbose,
            onnx_export_kwargs=onnx_export_kwargs,
        )

    def _rows(self, data: Any) -> Any:
        if isinstance(data, pd.DataFrame | pa.Table) or hasattr(data, "iter_batches") or not isinstance(data, Iterable):
            return data
        batches = iter(data)
        first = list(itertools.islice(batches, 1))
        every = itertools.chain(first, batches)
        is_of_tokens = bool(first) and isinstance(first[0], tuple | list) and len(first[0]) == 4
        return _TokenRows(every, _sequential(self.model)) if is_of_tokens else every

    def _store_items(self, data: Any, train: str, valid: str | None, root: str) -> None:
        if isinstance(data, str | os.PathLike):
            copy_items(split(train)[0], root)
            self._config = self._changed(data={"root": root})
        else:
            self._write_items(train, root)

    def _root(self) -> str:
        """Return the folder of the item table, which is written where there was no `fit` yet."""
        root = join(self.model_path, "data")
        if self._config.data.root != root:
            self._write_items(None, root)
        return root

    def _write_items(self, train: str | None, root: str) -> None:
        """Write the item table, and have the data of the run there."""
        write_all_ids(train, root, self.model.schema)
        self._config = self._changed(data={"root": root})


class SequenceLogger:
    """Passes everything to a logger, with `val/loss`, `val/accuracy` and `auc` beside our own names.

    `auc` is the accuracy, as in Torch-RecHub.

    Args:
        logger: the user's.
    """

    def __init__(self, logger: Logger) -> None:
        self.logger = logger

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Log numbers at a global optimizer step."""
        found = dict(metrics)
        for key, names in ((_LOSS, ("val/loss",)), (_ACCURACY, ("val/accuracy", "auc"))):
            if f"val/{key}" in metrics:
                found |= dict.fromkeys(names, metrics[f"val/{key}"])
        self.logger.log_metrics(found, step=step)

    def log_hyperparams(self, params: Mapping[str, Any]) -> None:
        """Log the flat configuration."""
        self.logger.log_hyperparams(dict(params))

    def finish(self) -> None:
        """End the run."""
        self.logger.finish()


class _TokenRows:
    """Batches of `(seq_tokens, seq_positions, seq_time_diffs, targets)` as tables of rows, without padding.

    Args:
        batches: (B, T), (B, T), (B, T) and (B,) or (B, 1) each.
        model: whose history has the tokens.
    """

    def __init__(self, batches: Iterable[Any], model: SequentialRetriever) -> None:
        self._batches, self._history = batches, model.history.name
        self._item = model.item_schema.sparse[0].name
        ages = (f.name for f in model.user_schema.sequences if f.numbers and f.aligned_with == self._history)
        self._age = next(ages, None)

    def iter_batches(self, **options: Any) -> Iterator[dict[str, pa.Array]]:
        """Yield the rows of each batch."""
        for tokens, _, times, targets in self._batches:
            ids = np.asarray(tokens)
            is_there = ids != 0
            offsets = pa.array(np.concatenate([[0], is_there.sum(1).cumsum()]), pa.int32())

            def lists(values: Any, is_there: npt.NDArray[np.bool_] = is_there, offsets: pa.Array = offsets) -> pa.Array:
                return pa.ListArray.from_arrays(
                    offsets, pa.array(np.rint(np.asarray(values)[is_there]).astype(np.int64))
                )

            columns = {self._item: pa.array(np.asarray(targets).reshape(-1)), self._history: lists(ids)}
            yield columns if self._age is None else {**columns, self._age: lists(np.maximum(np.asarray(times), 0))}


def _temperature(model: Model, loss_type: str, loss_params: Mapping[str, Any] | None) -> float:
    """Return what products are divided by in the loss."""
    if loss_type not in _TEMPERATURES:
        raise ConfigError("'loss_type': no such loss", expected=" or ".join(_TEMPERATURES), got=loss_type)
    given = dict(loss_params or {})
    if given.pop("ignore_index", 0) != 0:
        raise ConfigError("'loss_params.ignore_index' is the id of no item", expected="0", got=loss_params)
    temperature = given.pop("temperature", _TEMPERATURES[loss_type])
    if given or not temperature > 0:
        raise ConfigError("'loss_params'", expected="temperature, > 0, and ignore_index", got=loss_params)
    return float(temperature * model.__dict__.get("temperature", 1.0))


def _sequential(model: Model) -> SequentialRetriever:
    if not isinstance(model, SequentialRetriever):
        raise ConfigError("'model' reads no sequences", expected="one of models.sequential", got=type(model).__name__)
    return model
