"""The base of trainers: arguments to a configuration, and data from memory to shards."""

from __future__ import annotations

import contextlib
import json
import os
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import torch

from rechub_ray import checkpoint as checkpoint_module
from rechub_ray import config as config_module
from rechub_ray.checkpoint import Store
from rechub_ray.config import RunConfig, TrainSection
from rechub_ray.data.convert import write_rows
from rechub_ray.data.manifest import Manifest
from rechub_ray.errors import ConfigError
from rechub_ray.export.onnx import OPSET, ExportReport, export_model
from rechub_ray.export.serving import Tower
from rechub_ray.files import exists, is_uri, join, open_filesystem, write_text
from rechub_ray.models.base import Model
from rechub_ray.models.foreign import Foreign
from rechub_ray.models.matching.base import Retriever
from rechub_ray.runtime import inference, launch
from rechub_ray.runtime.launch import Resume, RunResult
from rechub_ray.schema import Schema
from rechub_ray.tracking import check_trackers
from rechub_ray.trainers.translate import model_node, optimizer_nodes, schedule_node
from rechub_ray.trainers.visualization import draw

BATCH_SIZE = 4096  # rows, where neither the caller nor a DataLoader sets it


class Trainer:
    """Base of trainer objects, which turn their arguments into a configuration for the command line's runtime.

    The run's folder holds config.yaml, checkpoints, logs and, for data from memory, parquet shards. A subclass takes
    the arguments, hands them to `_set_up` with its losses and metrics, and adds `evaluate` and `predict`.

    Data may be a path of parquet shards with integer ids, a pandas DataFrame, a pyarrow Table, a Ray Dataset, or a
    DataLoader of `({feature: tensor}, labels)`. A path is read where it is; anything else is written to
    `<model_path>/data` first, in a stream.

    Attributes:
        model: the model.
        result: the `RunResult` of the last `fit`; None before.
    """

    model: Model

    def _set_up(
        self,
        model: Model,
        *,
        objective: Mapping[str, Any],
        early_stopping: Mapping[str, Any],
        optimizer_fn: Any,
        optimizer_params: Mapping[str, Any] | None,
        regularization_params: Mapping[str, float] | None,
        scheduler_fn: Any,
        scheduler_params: Mapping[str, Any] | None,
        n_epoch: int,
        device: str | torch.device,
        gpus: Sequence[int] | None,
        model_path: str | Path | None,
        model_logger: Any,
        num_workers: int,
        batch_size: int | None,
        overrides: Sequence[str] | Mapping[str, Any],
    ) -> None:
        """Check the arguments and keep their configuration; nothing is written.

        Args:
            objective: the sections `losses`, `metrics` and `balancing`, or some of them.
            early_stopping: the section `train.early_stopping`.

        Raises:
            ConfigError: an argument is not valid, or the model is not one of this library.
        """
        node = model_node(model)
        path = str(model_path or f"runs/{node['name']}")
        self.model = model
        self.model_path = path.rstrip("/") if is_uri(path) else os.path.abspath(path)
        self.result: RunResult | None = None
        self._loggers = check_trackers(model_logger, where="model_logger")
        self._scheduler, self._batch_size = (scheduler_fn, scheduler_params), batch_size
        workers, train_device = _place(str(device), list(gpus or ()), num_workers)
        content = {
            "name": node["name"],
            "model_dir": self.model_path,
            "imports": _imports(model, workers["num_workers"]),
            "model": node,
            **objective,
            "optimizers": optimizer_nodes(optimizer_fn, optimizer_params),
            "regularization": dict(regularization_params or {}),
            "train": {
                "epochs": n_epoch,
                "device": train_device,
                "early_stopping": dict(early_stopping),
                "freeze": model.__dict__.get("freeze", []),  # of models of compat
            },
            "scaling": workers,
            "export": {"onnx": False},
        }
        self._config = config_module.load(content, overrides)
        # errors of the scheduler come now, not after the data was read
        self._changed(optimizers=self._with_schedules(steps_per_epoch=1))

    def fit(
        self,
        train_dataloader: Any,
        val_dataloader: Any = None,
        *,
        callback_fn: Callable[[int, float], None] | None = None,
        resume: Resume = "never",
    ) -> tuple[float, dict[str, float] | None]:
        """Train; afterwards `model` holds the weights of the best epoch (of the last one without validation data).

        Args:
            train_dataloader: the training data. The folder of a prepared data set stands for its `train`, and for
                its `valid` where `val_dataloader` is None.
            val_dataloader: the validation data; None neither evaluates nor stops early.
            callback_fn: called with (epoch, score of early stopping) after each epoch's evaluation.
            resume: `never` starts again from the model's weights and sets earlier checkpoints aside; `auto` goes on
                with an interrupted run in `model_path` if there is one; `must` requires one.

        Returns:
            (best score of early stopping, all metrics of that evaluation), or (-1, None) without validation data.
        """
        train, valid = _splits(train_dataloader, val_dataloader)
        schema, root = self.model.schema, join(self.model_path, "data")
        write_text(join(root, "schema.json"), json.dumps(schema.to_dict(), indent=2))
        wide = self._row_schema()
        train_path = self._stored(train, join(root, "train"), self.model, schema=wide, what="the training data")
        valid_path = None
        if valid is not None:
            valid_path = self._stored(valid, join(root, "valid"), self.model, schema=wide, what="the validation data")
        self._store_items(train, train_path, valid_path, root)
        rows = Manifest.scan(train_path, schema, key="train_dataloader").rows
        batch_size = self._rows_per_worker(train_dataloader, rows)
        config = self._changed(
            data={"root": root, "train": train_path, "valid": valid_path, "test": None, "batch_size": batch_size},
            optimizers=self._with_schedules(steps_per_epoch=max(rows // (batch_size * self._config.processes), 1)),
        )
        if valid is None:
            config = config.model_copy(update={"train": _without_early_stopping(config.train)})
        start = self._save(self.model, config, join(self.model_path, "initial"))
        self.result = launch.train(
            config.model_copy(update={"init_from": start}),
            resume=resume,
            callback_fn=_after_epochs(callback_fn),
            trackers=self._loggers,
        )
        self._take_best(self.result)
        if valid is None:
            return -1.0, None
        best = self.result.details["best_score"]
        return (float("nan") if best is None else float(best)), self.result.metrics

    def _metrics(self, model: Model, data: Any) -> dict[str, float]:
        """Return the metrics of a model over every row once."""
        with self._checkpoint_of(model) as (checkpoint, folder):
            path = self._stored(data, join(folder, "data"), model, what="the evaluation data")
            return inference.evaluate(checkpoint, split=path)

    def _predictions(self, model: Model, data: Any, *, schema: Schema | None = None) -> pa.Table:
        """Return what is served of each row, in the data's order; labels are not needed.

        Args:
            schema: the columns that are read; None takes those of the model.
        """
        with self._checkpoint_of(model) as (checkpoint, folder):
            path = self._stored(data, join(folder, "data"), model, what="the data", targets=False, schema=schema)
            out = join(folder, "predictions")
            inference.predict(checkpoint, out, split=path)
            filesystem, root = open_filesystem(out)
            files = sorted(info.path for info in filesystem.get_file_info(pafs.FileSelector(root)))
            return pa.concat_tables([pq.read_table(file, filesystem=filesystem) for file in files])

    def export_onnx(
        self,
        output_path: str | Path,
        dummy_input: Any = None,
        batch_size: int = 2,
        seq_length: int = 10,
        opset_version: int | None = None,
        dynamic_batch: bool = True,
        device: Any = None,
        verbose: bool = False,
        onnx_export_kwargs: Mapping[str, Any] | None = None,
        *,
        probabilities: bool = True,
    ) -> ExportReport:
        """Export `model` and check the file against it at several batch sizes; see `rechub_ray.export.onnx`.

        The number of rows and the length of sequences stay free, so `dummy_input`, `batch_size`, `seq_length` and
        `device` have no effect; they exist for scripts that pass them.

        Args:
            output_path: the file to write, a path or URI.
            opset_version: has no effect, and warns where it is not the exporter's own.
            dynamic_batch: must be True.
            verbose: print the largest difference from PyTorch.
            onnx_export_kwargs: must be empty.
            probabilities: False exports the logit.

        Raises:
            ConfigError: a file with a fixed number of rows, or made by another exporter, is asked for.
            ExportError: the file does not compute what the model computes.
        """
        return self._exported(
            self.model,
            output_path,
            opset_version=opset_version,
            dynamic_batch=dynamic_batch,
            verbose=verbose,
            onnx_export_kwargs=onnx_export_kwargs,
            probabilities=probabilities,
        )

    def _exported(
        self,
        model: Model,
        output_path: str | Path,
        *,
        opset_version: int | None = None,
        dynamic_batch: bool = True,
        verbose: bool = False,
        onnx_export_kwargs: Mapping[str, Any] | None = None,
        probabilities: bool = True,
    ) -> ExportReport:
        """Export a model as `export_onnx` does."""
        if not dynamic_batch or onnx_export_kwargs:
            raise ConfigError(
                "export_onnx always leaves the number of rows free and has one exporter",
                expected="dynamic_batch=True and no onnx_export_kwargs",
                got=f"dynamic_batch={dynamic_batch}, onnx_export_kwargs={onnx_export_kwargs}",
            )
        if opset_version not in (None, OPSET):
            warnings.warn(f"the exporter writes opset {OPSET}, not {opset_version}", stacklevel=2)
        report = export_model(model, model.schema, output_path, probabilities=probabilities)
        if verbose:
            print(f"{report.path}: largest difference from PyTorch {report.max_abs_difference:.2g}")
        return report

    def _exported_tower(
        self, mode: Literal["user", "item"] | None, output_path: str | Path, **arguments: Any
    ) -> ExportReport:
        """Export a tower of a model for retrieval; the rest is as for `_exported`."""
        if mode not in ("user", "item"):
            raise ConfigError("'mode': a tower is exported", expected="user or item", got=mode)
        if not isinstance(self.model, Retriever):
            raise ConfigError("'model' is none for retrieval", got=type(self.model).__name__)
        return self._exported(Tower(self.model, mode), output_path, **arguments)

    def visualization(
        self,
        input_data: Any = None,
        batch_size: int = 2,
        seq_length: int = 10,
        depth: int = 3,
        show_shapes: bool = True,
        expand_nested: bool = True,
        save_path: str | Path | None = None,
        graph_name: str = "model",
        device: Any = None,
        dpi: int = 300,
        **options: Any,
    ) -> Any:
        """Draw `model` with torchview on made-up rows; see `rechub_ray.trainers.visualization.draw`.

        `input_data` and `device` have no effect; they exist for scripts that pass them.
        """
        return draw(
            self.model,
            rows=batch_size,
            length=seq_length,
            depth=depth,
            show_shapes=show_shapes,
            expand_nested=expand_nested,
            save_path=save_path,
            name=graph_name,
            dpi=dpi,
            options=options,
        )

    def _changed(self, **sections: Any) -> RunConfig:
        """Return the configuration with other values in some sections."""
        content = self._config.model_dump(mode="json")
        for key, value in sections.items():
            content[key] = {**content[key], **value} if key == "data" else value
        return config_module.validate(content)

    def _with_schedules(self, *, steps_per_epoch: int) -> list[dict[str, Any]]:
        scheduler, params = self._scheduler
        epochs, nodes = self._config.train.epochs or 1, []
        for node in self._config.optimizers:
            schedule = schedule_node(scheduler, params, lr=node["lr"], epochs=epochs, steps_per_epoch=steps_per_epoch)
            nodes.append(node if schedule is None else {**node, "schedule": schedule})
        return nodes

    def _rows_per_worker(self, data: Any, rows: int) -> int:
        if self._batch_size is not None:
            return max(self._batch_size // self._config.processes, 1)
        wanted = getattr(data, "batch_size", None) or BATCH_SIZE
        return max(min(int(wanted), rows) // self._config.processes, 1)

    def _row_schema(self) -> Schema:
        """Return the columns that are written of training and validation data."""
        return self.model.schema

    def _store_items(self, data: Any, train: str, valid: str | None, root: str) -> None:
        """Write what belongs to the rows beside them; here there is nothing.

        Args:
            data: the training data as it was given.
            train: the path of its rows.
            valid: that of the validation rows.
            root: the folder of the data set.
        """
        return

    def _stored(
        self,
        data: Any,
        folder: str,
        model: Model,
        *,
        what: str,
        targets: bool = True,
        schema: Schema | None = None,
    ) -> str:
        """Return the path of the data as parquet: its own, or `folder`, where it is written first."""
        if isinstance(data, str | os.PathLike):
            path = os.fspath(data)
            return path if is_uri(path) else os.path.abspath(os.path.expanduser(path))
        padding = getattr(model, "padding", {})
        write_rows(self._rows(data), folder, schema or model.schema, padding=padding, targets=targets, what=what)
        return folder

    def _rows(self, data: Any) -> Any:
        """Return data from memory with the columns of the schema alone; here it has them."""
        return data

    def _save(self, model: Model, config: RunConfig, folder: str) -> str:
        """Save the weights as they are, and return the path of the checkpoint."""

        def write(directory: Path) -> None:
            checkpoint_module.write(directory, config=config, schema=model.schema, model=model, optimizers=[], state={})

        return Store(folder, keep=1).save(0, write, is_best=True)

    @contextlib.contextmanager
    def _checkpoint_of(self, model: Model) -> Iterator[tuple[str, str]]:
        """Yield a temporary checkpoint of a model and its folder, which every worker can read, for the block."""
        folder = join(self.model_path, f"temporary-{uuid.uuid4().hex[:8]}")
        config = self._changed(model=model_node(model))
        filesystem, root = open_filesystem(folder)
        try:
            yield self._save(model, config, folder), folder
        finally:
            if exists(filesystem, root, kind=pafs.FileType.Directory):
                filesystem.delete_dir(root)

    def _take_best(self, result: RunResult) -> None:
        best = checkpoint_module.read(result.best_checkpoint)
        best.restore_model(self.model)
        self.model.eval()
        filesystem, root = open_filesystem(self.model_path)
        with filesystem.open_output_stream(f"{root}/model.pth") as sink:
            torch.save(self.model.state_dict(), sink)


def _place(device: str, gpus: list[int], num_workers: int) -> tuple[dict[str, Any], str]:
    """Return the `scaling` section and the device of `train`."""
    if len(gpus) > 1 and num_workers not in (0, len(gpus)):
        raise ConfigError(
            "'gpus' and 'num_workers' disagree", expected="one worker a GPU", got=f"{len(gpus)} and {num_workers}"
        )
    workers = num_workers or (len(gpus) if len(gpus) > 1 else 0)
    if workers == 0:
        if gpus and device == "cpu":  # as with Torch-RecHub, whose scripts pass both
            warnings.warn(
                f"gpus={gpus} counts for nothing beside device='cpu'; device='cuda' trains on it", stacklevel=4
            )
        return {"num_workers": 0}, f"cuda:{gpus[0]}" if gpus and device in ("cuda", "auto") else device
    use_gpu = bool(gpus) or device.startswith("cuda")
    return {"num_workers": workers, "use_gpu": use_gpu}, "auto" if use_gpu else device


def _imports(model: Model, num_workers: int) -> list[str]:
    """Return the module that registers the model, in a list, for workers and for loading the checkpoint."""
    make = model.make if isinstance(model, Foreign) else type(model)
    module = make.__module__
    if module == "__main__" and num_workers > 0:
        raise ConfigError(
            f"'model': workers cannot import {make.__name__}, which this script or notebook defines",
            hint="Move it into a module of its own and import it from there, or train with num_workers=0.",
        )
    return [] if module == "__main__" or module.startswith("rechub_ray.") else [module]


def _splits(train: Any, valid: Any) -> tuple[Any, Any]:
    """Return the training and the validation data, which for a prepared folder are the splits in it."""
    if not isinstance(train, str | os.PathLike):
        return train, valid
    filesystem, root = open_filesystem(os.fspath(train))
    if not exists(filesystem, f"{root}/schema.json"):
        return train, valid
    place = os.fspath(train)
    if valid is None and exists(filesystem, f"{root}/valid", kind=pafs.FileType.Directory):
        valid = join(place, "valid")
    return join(place, "train"), valid


def _after_epochs(callback_fn: Callable[[int, float], None] | None) -> Callable[[int, float], None] | None:
    """Return the callback without the evaluation before training."""
    if callback_fn is None:
        return None

    def call(epoch: int, score: float) -> None:
        if epoch >= 0:
            callback_fn(epoch, score)

    return call


def _without_early_stopping(train: TrainSection) -> TrainSection:
    stopping = train.early_stopping.model_copy(update={"patience": None})
    return train.model_copy(update={"early_stopping": stopping})
