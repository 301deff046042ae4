"""Evaluation and prediction from a checkpoint, in this process or on Ray Train workers."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from pyarrow.fs import FileSelector
from torch import Tensor

from rechub_ray import config as config_module
from rechub_ray.checkpoint import Checkpoint, read
from rechub_ray.config import RunConfig
from rechub_ray.data.catalogue import Catalogue
from rechub_ray.data.collate import collate
from rechub_ray.data.manifest import Manifest, remarks
from rechub_ray.data.source import EvalSource, Reader, ThreadReader
from rechub_ray.defaults import links, metrics_of, retrieves
from rechub_ray.device import autocast, pick_device
from rechub_ray.errors import ConfigError, DataError
from rechub_ray.evaluation import evaluate_model
from rechub_ray.files import absolute, check_writable, join_all, open_filesystem, writing
from rechub_ray.loop import Hooks
from rechub_ray.metrics import MetricSet
from rechub_ray.models import MODELS
from rechub_ray.models.base import Model
from rechub_ray.models.matching.base import Retriever
from rechub_ray.outputs import Output, predictions, served
from rechub_ray.runtime.preflight import check_device
from rechub_ray.runtime.same_encoding import check_encoding, trained_on
from rechub_ray.schema import Schema
from rechub_ray.world import World

_log = logging.getLogger(__name__)

_CHANGEABLE = ("data", "metrics", "train", "trackers", "scaling")


@dataclasses.dataclass(frozen=True)
class InferenceJob:
    """The data that every worker needs to evaluate or predict.

    Args:
        checkpoint: path or URI of one checkpoint.
        config: its run's, with overrides.
        schema: its run's features and labels, as far as they are read.
        manifest: the rows.
        out: folder for predictions; None evaluates.
        probabilities: predictions are probabilities, not logits.
    """

    checkpoint: str
    config: RunConfig
    schema: Schema
    manifest: Manifest
    out: str | None = None
    probabilities: bool = True


def evaluate(
    checkpoint: str | Path, *, split: str = "test", overrides: Sequence[str] | dict[str, Any] = ()
) -> dict[str, float]:
    """Return the run's metrics for a checkpoint, over every row of a split exactly once.

    Args:
        checkpoint: a checkpoint, or a run's folder (its best one).
        split: `train`, `valid`, `test`, or a folder of prepared shards.
        overrides: changes to the run's configuration (data.root, metrics, scaling.num_workers, ...).

    Returns:
        Metric key -> value, with `rows_expected` and `rows_seen`.

    Raises:
        CheckpointError: there is no complete checkpoint.
        ConfigError: an override that a finished training does not allow, or a split that the run does not have.
        DataError: the split cannot be read, or does not fit the schema.
    """
    return dict(_launch(_job(checkpoint, split, overrides, targets=True)))


def predict(
    checkpoint: str | Path,
    out: str | Path,
    *,
    split: str = "test",
    probabilities: bool = True,
    overrides: Sequence[str] | dict[str, Any] = (),
) -> int:
    """Write a checkpoint's predictions as parquet: one `part-<worker>.parquet` a worker, rows in the files' order.

    The columns are the schema's row id (if it has one) and the model's outputs, of a model for retrieval the users'
    vectors: lists of a fixed size. Labels are not needed.

    Args:
        checkpoint: as for `evaluate`.
        out: folder or URI for the predictions.
        split: as for `evaluate`.
        probabilities: binary labels' predictions are probabilities; False gives logits.
        overrides: as for `evaluate`.

    Returns:
        Rows written.

    Raises:
        ConfigError: `out` holds predictions already; otherwise as for `evaluate`.
        CheckpointError: as for `evaluate`.
        DataError: as for `evaluate`.
    """
    out = absolute(str(out))  # workers do not share the driver's working folder
    filesystem, root = open_filesystem(out)
    with writing(out):
        found = filesystem.get_file_info(FileSelector(root, allow_not_found=True))
    if any(info.extension == "parquet" for info in found):
        raise ConfigError(f"'{out}' holds predictions already", hint="Name another folder.")
    job = dataclasses.replace(_job(checkpoint, split, overrides, targets=False), out=out, probabilities=probabilities)
    check_writable(out, what="--out")
    return int(_launch(job)["rows_seen"])


def _job(
    checkpoint: str | Path, split: str, overrides: Sequence[str] | dict[str, Any], *, targets: bool
) -> InferenceJob:
    saved = read(absolute(str(checkpoint)), weights=False)
    config = config_module.load(saved.config.model_dump(mode="json"), overrides)
    for key in RunConfig.model_fields:
        if key not in _CHANGEABLE and getattr(config, key) != getattr(saved.config, key):
            raise ConfigError(
                f"'{key}' of a finished training cannot be overridden", expected=f"one of: {', '.join(_CHANGEABLE)}"
            )
    check_device(config)
    with torch.device("meta"):
        outputs = MODELS.build(config.model, saved.schema, where="model").outputs
    _metrics(config, saved.schema, outputs)
    key = f"data.{split}" if split in ("train", "valid", "test") else "--split"
    path = getattr(config.data, split) if key != "--split" else absolute(split)
    if path is None:
        raise ConfigError(
            f"the run has no '{split}' split", hint=f"Set data.{split}=FOLDER, or name a folder as split."
        )
    check_encoding(trained_on(saved), config, {key: path}, of=saved.path)
    schema = saved.schema if targets or not retrieves(config) else saved.schema.user_side  # no item has to be known
    manifest = Manifest.scan(join_all(config.data.root, path), schema, targets=targets, key=key)
    for line in remarks({key: manifest}):
        _log.warning("%s", line)
    return InferenceJob(checkpoint=saved.path, config=config, schema=schema, manifest=manifest)


def _launch(job: InferenceJob) -> dict[str, float]:
    if job.config.scaling.num_workers == 0:
        threads = torch.get_num_threads()
        torch.set_num_threads(job.config.train.threads or threads)
        try:
            device = pick_device(job.config.train.device)
            return infer(job, world=World(), device=device, reader=ThreadReader(threads=job.config.data.read_threads))
        finally:
            torch.set_num_threads(threads)
    from rechub_ray.runtime.workers import run_on_workers

    again = "The same command starts again."
    # the run's folder may be read-only, or in use by the run
    with tempfile.TemporaryDirectory(prefix="rechub-") as folder:
        return run_on_workers(job.config, infer, job, hear=lambda event: None, storage=f"{folder}/ray", again=again)


def infer(
    job: InferenceJob, *, world: World, device: torch.device, reader: Reader, hooks: Hooks | None = None
) -> dict[str, float]:
    """Do this worker's share of an evaluation or prediction; return the same result on every rank.

    Raises:
        DataError: the number of rows predicted on all workers is not the expected one.
    """
    checkpoint = read(job.checkpoint)
    model = checkpoint.build_model().to(device)
    source = EvalSource(
        job.manifest,
        job.schema,
        batch_size=job.config.data.eval_batch_size,
        world=world,
        reader=reader,
        targets=job.out is None,
    )
    if job.out is None:
        metrics = _metrics(job.config, job.schema, model.outputs)
        catalogue = None
        if isinstance(model, Retriever):
            catalogue = Catalogue.read(job.config.data.root, job.schema).to(device)
        precision = job.config.train.precision
        return evaluate_model(
            model, metrics, source, world=world, device=device, precision=precision, catalogue=catalogue
        )
    rows = _write_predictions(job, checkpoint, model, source, world, device)
    seen = int(world.sum_(torch.tensor([rows])).item())
    if seen != source.rows_expected:
        raise DataError("not every row was predicted exactly once", expected=source.rows_expected, got=seen)
    return {"rows_expected": source.rows_expected, "rows_seen": seen}


@torch.no_grad()
def _write_predictions(
    job: InferenceJob, checkpoint: Checkpoint, model: Model, source: EvalSource, world: World, device: torch.device
) -> int:
    filesystem, root = open_filesystem(str(job.out))
    part = f"{root}/part-{world.rank:05d}.parquet"
    rows, writer, sink = 0, None, None
    read_as = links(job.config, checkpoint.schema, model.outputs)
    given = [output for output in model.outputs if output.part != "item" or not isinstance(model, Retriever)]
    columns = served(given, checkpoint.schema, read_as, probabilities=job.probabilities)
    try:
        with writing(part):
            filesystem.create_dir(root, recursive=True)
            sink = filesystem.open_output_stream(f"{part}.writing")
        for block in source.blocks():
            with autocast(device, job.config.train.precision):
                outputs = model(collate([block]).to(device).features)
            arrays: dict[str, Any] = {item.name: _column(item.of(outputs)) for item in columns}
            if block.row_id is not None:
                arrays = {str(checkpoint.schema.row_id): block.row_id, **arrays}
            table = pa.table(arrays)
            with writing(part):
                writer = writer or pq.ParquetWriter(sink, table.schema)
                writer.write_table(table)
            rows += block.rows
        with writing(part):
            if writer is not None:
                writer.close()
            sink.close()
            if writer is not None:
                filesystem.move(f"{part}.writing", part)
    finally:
        with contextlib.suppress(OSError):  # there is such a file where writing failed, or this worker has no rows
            filesystem.delete_file(f"{part}.writing")
    return rows


def _metrics(config: RunConfig, schema: Schema, outputs: Sequence[Output]) -> MetricSet:
    metrics = MetricSet(schema, metrics_of(config, schema))
    return metrics.bind(predictions(outputs, schema, links(config, schema, outputs)), outputs)


def _column(value: Tensor) -> pa.Array:
    """Return a column of numbers, or of lists of a fixed size."""
    array = value.float().cpu()
    if array.dim() == 1:
        return pa.array(array.numpy())
    column = pa.array(array.contiguous().numpy().reshape(-1))
    for size in reversed(array.shape[1:]):
        column = pa.FixedSizeListArray.from_arrays(column, size)
    return column
