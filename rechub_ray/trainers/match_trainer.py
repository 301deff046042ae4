"""The trainer of models for retrieval."""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import torch
from torch import Tensor

from rechub_ray.data.manifest import Manifest
from rechub_ray.data.source import EvalSource, ThreadReader
from rechub_ray.errors import ConfigError
from rechub_ray.export.onnx import ExportReport
from rechub_ray.files import join, open_filesystem, split
from rechub_ray.models.base import Model
from rechub_ray.models.matching.base import Retriever
from rechub_ray.schema import Schema
from rechub_ray.trainers.base import Trainer
from rechub_ray.trainers.distinct_items import copy_items, with_items, write_all_ids, write_distinct_items
from rechub_ray.world import World

_LOSSES = {0: "sampled_bce", 1: "bpr", 2: "sampled_softmax"}
_ROWS = 4096


class MatchTrainer(Trainer):
    """Trains a model for retrieval, evaluates it by ranking all items, and gives users' and items' vectors.

    | `mode` | loss | negatives |
    |---|---|---|
    | 0, point-wise | `sampled_bce` | rows of label 0; without labels, the rows' list |
    | 1, pair-wise | `bpr` | the rows' list (`items.lists` of the schema) |
    | 2, list-wise | `sampled_softmax` | the rows' list |
    | 1 with `in_batch_neg` | `bpr` | the items of the other rows |
    | 0 or 2 with `in_batch_neg` | `sampled_softmax` | the items of the other rows |

    Data is as for `CTRTrainer`, with the columns of the users, of the rows' items, and lists of negatives. Items'
    columns may stand in the rows: their distinct values become the item table. Validation data ranks each row's item
    among all items of the training and validation data. Rows count whose label is above 0; those of a
    DataLoader all count in the modes 1 and 2, whatever their labels say, as in Torch-RecHub, and so do rows of a
    DataFrame without the column.

    Args:
        model: a model of this library, or of `rechub_ray.compat.models.matching`.
        mode: 0, 1 or 2; see above.
        in_batch_neg: whether the items of a step's other rows are the negatives, on all workers.
        in_batch_neg_ratio: how many of them a row draws, >= 1; None, or a number of all or more, takes all.
        hard_negative: whether those that are most similar are taken, in place of drawn ones.
        sampler_seed: seed of the run, of what is drawn among others, >= 0.
        optimizer_fn: as for `CTRTrainer`.
        optimizer_params: as for `CTRTrainer`.
        regularization_params: as for `CTRTrainer`.
        scheduler_fn: as for `CTRTrainer`.
        scheduler_params: as for `CTRTrainer`.
        n_epoch: passes over the training data, >= 1.
        earlystop_patience: stop at the epoch that makes this many in a row without a better score, >= 1.
        device: as for `CTRTrainer`.
        gpus: as for `CTRTrainer`.
        model_path: as for `CTRTrainer`.
        model_logger: as for `CTRTrainer`.
        earlystop_metric: the score that stops training and chooses the best weights; None takes `auc` in mode 0 with
            labels and without `in_batch_neg`, else `recall@10`.
        temperature: similarities are divided by it, > 0; None takes what a model of `compat` was given, where the
            loss is `sampled_softmax`, or the loss's own.
        num_workers: as for `CTRTrainer`.
        batch_size: as for `CTRTrainer`.
        overrides: as for `CTRTrainer`; `negatives` and `losses` take the place of those above.

    Raises:
        ConfigError: an argument is not valid, contradicts another one, or the model or its data does not have what the
            mode needs.

    Example:
        >>> from rechub_ray import Items, MatchTrainer, Schema, SparseFeature
        >>> from rechub_ray.models.matching import DSSM
        >>> features = (SparseFeature("user", 10), SparseFeature("item", 5))
        >>> model = DSSM(Schema(features, (), items=Items("item", (SparseFeature("genre", 4),))))
        >>> trainer = MatchTrainer(model, mode=2, in_batch_neg=True, n_epoch=2)
        >>> trainer.fit("data/shop")  # doctest: +SKIP
        (0.1431, {'recall@10': 0.1431, 'ndcg@10': 0.0712, ...})
    """

    def __init__(
        self,
        model: Model,
        mode: int = 0,
        in_batch_neg: bool = False,
        in_batch_neg_ratio: int | None = None,
        hard_negative: bool = False,
        sampler_seed: int | None = None,
        optimizer_fn: Any = torch.optim.Adam,
        optimizer_params: Mapping[str, Any] | None = None,
        regularization_params: Mapping[str, float] | None = None,
        scheduler_fn: Any = None,
        scheduler_params: Mapping[str, Any] | None = None,
        n_epoch: int = 10,
        earlystop_patience: int = 10,
        device: str | torch.device = "cpu",
        gpus: Sequence[int] | None = None,
        model_path: str | Path | None = None,
        model_logger: Any = None,
        *,
        earlystop_metric: str | None = None,
        temperature: float | None = None,
        num_workers: int = 0,
        batch_size: int | None = None,
        overrides: Sequence[str] | Mapping[str, Any] = (),
    ) -> None:
        if mode not in _LOSSES:
            raise ConfigError(
                "'mode': no such mode", expected="0 (point-wise), 1 (pair-wise) or 2 (list-wise)", got=mode
            )
        if not isinstance(model, Retriever):
            raise ConfigError("'model' is none for retrieval", got=type(model).__name__)
        for name, given in (("in_batch_neg_ratio", in_batch_neg_ratio is not None), ("hard_negative", hard_negative)):
            if given and not in_batch_neg:
                raise ConfigError(f"'{name}' chooses among the items of the other rows", expected="in_batch_neg=True")
        in_batch_neg = in_batch_neg or bool(model.__dict__.get("in_batch_neg"))  # of models of compat
        self._item_of = model.__dict__.get("item_of")  # of models of compat: makes the column of the rows' items
        has_labels = bool(model.schema.labels) and self._item_of is None
        self._mode, self._keeps = mode, mode == 0 and not in_batch_neg and has_labels
        metrics = ["recall@10", "ndcg@10", "mrr@10"]
        if mode == 0 and has_labels:
            metrics = [*metrics, "auc"] if in_batch_neg else ["auc", *metrics]
        self._score = earlystop_metric or metrics[0]
        name = "sampled_softmax" if in_batch_neg and mode == 0 else _LOSSES[mode]
        own = None if in_batch_neg else model.__dict__.get("negatives")  # of models of compat
        if own is not None and "losses" in model.__dict__:
            if mode not in model.__dict__["losses"]:
                raise ConfigError(
                    "'mode': labels of this model are the ids of items, which are compared with all others",
                    expected="2, in_batch_neg=True, or a model with an `item_feature`",
                    got=mode,
                )
            name = model.__dict__["losses"][mode]
        loss: dict[str, Any] = {"name": name}
        if temperature is None and name == "sampled_softmax":
            temperature = model.__dict__.get("temperature")  # of models of compat
        loss |= {} if temperature is None else {"temperature": temperature}
        if hard_negative:
            loss["hardest_negatives"] = in_batch_neg_ratio
        negatives: list[Any] = []
        if in_batch_neg and (in_batch_neg_ratio is None or hard_negative):
            negatives = ["in_batch"]
        elif in_batch_neg:
            negatives = [{"name": "in_batch_drawn", "number": in_batch_neg_ratio}]
        elif own is not None:
            negatives = list(own)
        elif not self._keeps and not _names("negatives", overrides):
            negatives = [{"name": "column", "column": _list_of(model.schema, mode)}]
        objective: dict[str, Any] = {"losses": [loss], "negatives": negatives, "metrics": metrics}
        self._set_up(
            model,
            objective=objective | ({} if sampler_seed is None else {"seed": sampler_seed}),
            early_stopping={"metric": self._score, "patience": earlystop_patience},
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

    def evaluate(self, model: Model, data_loader: Any) -> float:
        """Return the score of early stopping of a model over every row once, among the items of the last `fit`."""
        return self._metrics(model, data_loader)[self._score]

    def predict(self, model: Model, data_loader: Any) -> npt.NDArray[np.float32]:
        """Return the product of the vectors of each row's user and item, (rows,), in the data's order.

        In mode 0 it is through the sigmoid, as a probability.
        """
        model = _retriever(model)
        users, items = (self._vectors(model, part, data_loader) for part in ("user", "item"))
        if users.dim() == 3:
            products = (users * items.unsqueeze(1)).sum(2).amax(1)
        else:
            products = (users * items).sum(1)
        return (products.sigmoid() if self._keeps else products).numpy()

    def inference_embedding(
        self, model: Model, mode: Literal["user", "item"], data_loader: Any, model_path: str | Path | None = None
    ) -> Tensor:
        """Return the vectors of users or of items, (rows, D) or (rows, K, D), in the data's order.

        Args:
            model: has the weights, unless `model_path` names others.
            mode: which tower.
            data_loader: rows with the columns of that side; the folder of an item table will do.
            model_path: a folder with `model.pth`, as `fit` leaves it, whose weights the model takes first.

        Raises:
            ConfigError: there is no such tower.
            DataError: a column is missing, or holds a value that it must not.
        """
        if mode not in ("user", "item"):
            raise ConfigError("'mode': no such tower", expected="user or item", got=mode)
        model = _retriever(model)
        if model_path is not None:
            filesystem, root = open_filesystem(join(str(model_path), "model.pth"))
            with filesystem.open_input_file(root) as source:
                model.load_state_dict(torch.load(source, map_location="cpu", weights_only=True))
        return self._vectors(model, mode, data_loader)

    def export_onnx(  # type: ignore[override]
        self,
        output_path: str | Path,
        mode: Literal["user", "item"] | None = None,
        dummy_input: Any = None,
        batch_size: int = 2,
        seq_length: int = 10,
        opset_version: int | None = None,
        dynamic_batch: bool = True,
        device: Any = None,
        verbose: bool = False,
        onnx_export_kwargs: Mapping[str, Any] | None = None,
    ) -> ExportReport:
        """Export a tower of `model` and check the file against it; the rest is as for `CTRTrainer.export_onnx`.

        Args:
            output_path: the file to write, a path or URI.
            mode: `user` or `item`: a model for retrieval is served as two files.

        Raises:
            ConfigError: no tower is named, or as for `CTRTrainer.export_onnx`.
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

    def _vectors(self, model: Retriever, part: str, data: Any) -> Tensor:
        schema = model.user_schema if part == "user" else model.item_schema
        schema = dataclasses.replace(schema, labels=(), teachers=(), group=None, weight=None, row_id=None)
        model.eval()
        with tempfile.TemporaryDirectory(prefix="rechub-") as folder:
            path = self._stored(data, f"{folder}/rows", model, schema=schema, what="the data", targets=False)
            source = EvalSource(
                Manifest.scan(path, schema, targets=False, key="data_loader"),
                schema,
                batch_size=_ROWS,
                world=World(),
                reader=ThreadReader(),
                targets=False,
            )
            device = next(model.parameters()).device
            with torch.no_grad():
                compute = model.user_vectors if part == "user" else model.item_vectors
                return torch.cat([compute(batch.to(device).features).float().cpu() for batch in source.batches()])

    def _rows(self, data: Any) -> Any:
        labels = [label.name for label in self.model.schema.labels]
        if self._mode == 0 and labels and self._item_of is None:
            return data
        if isinstance(data, pd.DataFrame):
            return data.assign(**dict.fromkeys([name for name in labels if name not in data.columns], 1.0))
        is_table = isinstance(data, pa.Table) or hasattr(data, "iter_batches")
        return data if is_table or not isinstance(data, Iterable) else _Chosen(data, len(labels), self._item_of)

    def _row_schema(self) -> Schema:
        return with_items(self.model.schema)

    def _store_items(self, data: Any, train: str, valid: str | None, root: str) -> None:
        if isinstance(data, str | os.PathLike):
            copy_items(split(train)[0], root)
        elif self._item_of is not None:
            write_all_ids(train, root, self.model.schema)
        else:
            write_distinct_items(train, valid, root, self.model.schema)
        # evaluation ranks the items of these rows
        self._config = self._changed(data={"root": root})


class _Chosen:
    """The batches of a loader as rows whose items were chosen, whatever their labels say.

    Args:
        batches: of `(columns, labels)`, or of columns.
        labels: how many labels the model has, 0 or 1.
        item_of: makes more columns of a batch's columns and its labels.
    """

    def __init__(self, batches: Iterable[Any], labels: int, item_of: Callable[..., Mapping[str, Any]] | None) -> None:
        self._batches, self._labels, self._item_of = batches, labels, item_of

    def __iter__(self) -> Iterator[Any]:
        for batch in self._batches:
            columns, given = batch if isinstance(batch, tuple | list) and len(batch) == 2 else (batch, None)
            if self._item_of is not None:
                columns = {**columns, **self._item_of(columns, given)}
            rows = len(next(iter(columns.values()), ())) if isinstance(columns, Mapping) else 0
            yield (columns, torch.ones(rows, self._labels)) if self._labels else columns


def _retriever(model: Model) -> Retriever:
    if not isinstance(model, Retriever):
        raise ConfigError("'model' is none for retrieval", got=type(model).__name__)
    return model


def _names(key: str, overrides: Sequence[str] | Mapping[str, Any]) -> bool:
    """Return whether overrides name a section of the configuration, or something below it."""
    names = (
        [str(name) for name in overrides] if isinstance(overrides, Mapping) else [x.split("=")[0] for x in overrides]
    )
    return any(name == key or name.startswith(f"{key}.") for name in names)


def _list_of(schema: Schema, mode: int) -> str:
    lists = schema.items.lists if schema.items is not None else ()
    if not lists:
        raise ConfigError(
            f"'mode' {mode} compares rows with negatives, and the rows have no list of them",
            expected="in_batch_neg=True, a model with `items.lists`, "
            + ("labels, " if mode == 0 else "")
            + "or overrides={'negatives': [...]}",
        )
    return lists[0]
