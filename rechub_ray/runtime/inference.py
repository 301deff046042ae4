"""Evaluation and prediction from a checkpoint, in this process or on Ray Train workers."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from rechub_ray import config as config_module
from rechub_ray.checkpoint import Checkpoint, read
from rechub_ray.config import RunConfig, ScalingSection
from rechub_ray.data.catalogue import Catalogue
from rechub_ray.data.fingerprint import digest
from rechub_ray.data.manifest import Manifest, remarks
from rechub_ray.data.source import EvalSource, Reader, ThreadReader
from rechub_ray.defaults import evaluation_lists, links, metrics_of, retrieves
from rechub_ray.device import pick_device
from rechub_ray.errors import ConfigError, DataError
from rechub_ray.evaluation import evaluate_model
from rechub_ray.evaluation.profile import Profile, segment_of
from rechub_ray.files import absolute, check_writable, is_uri, join, join_all, masked, read_text
from rechub_ray.files import split as split_path
from rechub_ray.lock import locked
from rechub_ray.loop import Hooks
from rechub_ray.metrics import MetricSet
from rechub_ray.models import MODELS
from rechub_ray.models.matching.base import Retriever
from rechub_ray.outputs import Output, Prediction, evaluated
from rechub_ray.reports.evidence import Evidence, environment
from rechub_ray.runtime.parts import QUARANTINE, Parts
from rechub_ray.runtime.predictions import PART_ROWS, PredictJob, ShardRows, check_kept, served_columns, write_parts
from rechub_ray.runtime.preflight import check_device
from rechub_ray.runtime.raw_files import RawForm, RawRows, names_of, split_settings
from rechub_ray.runtime.same_encoding import check_encoding, trained_on
from rechub_ray.schema import Schema
from rechub_ray.world import World

_log = logging.getLogger(__name__)

_CHANGEABLE = ("data", "metrics", "train", "trackers", "scaling", "report")


@dataclasses.dataclass(frozen=True)
class InferenceJob:
    """The data that every worker needs to evaluate.

    Args:
        checkpoint: path or URI of one checkpoint.
        config: its run's, with overrides.
        schema: its run's features and labels, as far as they are read.
        manifest: the rows.
        split: their name, where predictions are counted for a report.
    """

    checkpoint: str
    config: RunConfig
    schema: Schema
    manifest: Manifest
    split: str | None = None


def evaluate(
    checkpoint: str | Path,
    *,
    split: str = "test",
    overrides: Sequence[str] | dict[str, Any] = (),
    report: str | Path | None = None,
) -> dict[str, float]:
    """Return the run's metrics for a checkpoint, over every row of a split exactly once.

    Args:
        checkpoint: a checkpoint, or a run's folder (its best one).
        split: `train`, `valid`, `test`, or a folder of prepared shards.
        overrides: changes to the run's configuration (data.root, metrics, scaling.num_workers, ...).
        report: path or URI of a page on the evaluation; None writes none.

    Returns:
        Metric key -> value, with `rows_expected` and `rows_seen`.

    Raises:
        CheckpointError: there is no complete checkpoint.
        ConfigError: an override that a finished training does not allow, or a split that the run does not have.
        DataError: the split cannot be read, or does not fit the schema.
    """
    saved, config, _ = open_checkpoint(checkpoint, overrides)
    schema = saved.schema.with_lists(evaluation_lists(config, saved.schema))
    manifest = _manifest(saved, config, split, schema, targets=True)
    job = InferenceJob(checkpoint=saved.path, config=config, schema=saved.schema, manifest=manifest)
    if report is None:
        return launch(infer, job, config)
    from rechub_ray.reports import write_evaluation_report

    check_writable(split_path(absolute(str(report)))[0], what="--report")
    found = launch(_profiled, dataclasses.replace(job, split=split), config)
    write_evaluation_report(absolute(str(report)), config, saved.path, found["metrics"], found["evidence"])
    return dict(found["metrics"])


def predict(
    checkpoint: str | Path,
    out: str | Path,
    *,
    split: str = "test",
    raw: str | Sequence[str] | None = None,
    keep: Sequence[str] | None = None,
    probabilities: bool = True,
    overrides: Sequence[str] | dict[str, Any] = (),
) -> int:
    """Write a checkpoint's predictions as parquet files `part-<number>.parquet`, in the order of the rows' files.

    The columns are those that are kept and the model's outputs, of a model for retrieval `vector`, the users' vectors:
    lists of a fixed size. Labels are not needed. A command that was killed goes on when it is given again: whole parts
    stay.

    Args:
        checkpoint: as for `evaluate`.
        out: folder or URI for the predictions.
        split: as for `evaluate`.
        raw: in place of a split: raw files (paths, folders, globs, URIs), which are read as `prepare` reads them and
            encoded by the transforms that the run keeps. Where histories are made of several rows, they come by user.
        keep: columns to carry along: of raw files any with one value a row; of shards the row id, the group, the weight
            and labels. None takes the row id, where there is one.
        probabilities: binary labels' predictions are probabilities; False gives logits.
        overrides: as for `evaluate`; with `raw` also keys of the recipe that say how rows are read (`format.type`,
            `history`, `where`, `on_bad_rows`, ...).

    Returns:
        Rows written.

    Raises:
        ConfigError: `out` holds predictions already, or a part of others; otherwise as for `evaluate`.
        CheckpointError: as for `evaluate`.
        DataError: as for `evaluate`; a raw file, column or row cannot be used.
    """
    out = absolute(str(out))  # workers do not share the driver's working folder
    overrides, settings = split_settings(overrides, raw is not None)
    saved, config, outputs = open_checkpoint(checkpoint, overrides)
    schema = rows_schema(saved, config)
    about = {"checkpoint": digest(read_text(join(saved.path, "manifest.json"))), "--logits": not probabilities}
    rows: ShardRows | RawRows
    if raw is not None:
        files = [raw] if isinstance(raw, str) else list(raw)
        form = RawForm.of(saved, config, files, schema=schema, keep=keep, settings=settings)
        kept, rows = form.keep, form.rows()
        count, about = rows.parts, about | rows.about()
    else:
        rows = ShardRows.of(schema, keep, names_of(saved, config), functools.partial(_manifest, saved, config, split))
        kept, total = tuple(rows.keep.values()), rows.manifest.rows
        count = min(max(-(-total // PART_ROWS), config.processes), total)
        about |= {"shards": rows.manifest.fingerprint, "--keep": ",".join(kept)}
    check_kept(kept, served_columns(saved.schema, config, outputs, probabilities=probabilities))

    def write(rows: ShardRows | RawRows, parts: Parts) -> None:
        launch(write_parts, PredictJob(saved.path, config, rows, parts, probabilities), config)

    written = write_all(out, count, about, rows, write, scaling=config.scaling)
    if isinstance(rows, ShardRows) and written != rows.manifest.rows:
        raise DataError("not every row was predicted exactly once", expected=rows.manifest.rows, got=written)
    return written


def write_all(
    out: str,
    count: int,
    about: Mapping[str, Any],
    rows: ShardRows | RawRows,
    write: Callable[[Any, Parts], None],
    *,
    scaling: ScalingSection,
) -> int:
    """Write all parts that are missing, and tell of rows that could not be used; return how many rows are written.

    Args:
        out: the folder or URI of the parts.
        count: how many there are.
        about: what they are of; see `Parts.begin`.
        rows: those of raw files may still have to be brought together by user.
        write: writes the parts that are missing.
        scaling: the workers that bring rows together.

    Raises:
        ConfigError: `out` cannot be written, or holds something else.
        DataError: a row cannot be used, or a part is missing in the end.
    """
    check_writable(out, what="--out")
    with locked(out, what="--out", hint="Wait for it, or name another folder."), contextlib.ExitStack() as opened:
        parts = Parts.begin(out, count, about)
        try:
            made = 0
            if isinstance(rows, RawRows) and rows.by_user:
                rows, made = opened.enter_context(_together(rows, parts, scaling))
            if parts.missing:
                write(rows, parts)
            written, bad = parts.finish()
        except BaseException:
            parts.abandon()
            raise
    if bad + made:
        _log.warning("%d bad rows are not predicted; they are in %s", bad + made, masked(join(out, QUARANTINE)))
    return written


@contextlib.contextmanager
def _together(rows: RawRows, parts: Parts, scaling: ScalingSection) -> Iterator[tuple[RawRows, int]]:
    """Yield the rows with those of each user together, in files that last as long as the block, and the bad ones."""
    with contextlib.ExitStack() as opened:
        if is_uri(parts.out) and scaling.num_workers:
            raise ConfigError(
                f"--out: histories are made in files beside the predictions, which workers cannot read in {parts.out}",
                expected="a folder that all workers share, or scaling.num_workers=0",
            )
        if scaling.num_workers:
            from rechub_ray.runtime.cluster import connected

            opened.enter_context(connected(scaling))
        place = Path(parts.unfinished)
        if is_uri(parts.out):
            place = Path(opened.enter_context(tempfile.TemporaryDirectory(prefix="rechub-")))
        aside = place / QUARANTINE
        rows, bad = rows.together(place / "histories", aside, use_ray=scaling.num_workers > 0)
        if bad:
            parts.take_bad(aside)
        yield rows, bad


def rows_schema(saved: Checkpoint, config: RunConfig) -> Schema:
    """Return what is read of rows that are predicted: for a model for retrieval the users' side, and no item."""
    return saved.schema.user_side if retrieves(config) else saved.schema


def open_checkpoint(
    checkpoint: str | Path, overrides: Sequence[str] | dict[str, Any]
) -> tuple[Checkpoint, RunConfig, tuple[Output, ...]]:
    """Return a checkpoint without weights, its run's configuration with overrides, and its model's outputs.

    Raises:
        CheckpointError: there is no complete checkpoint.
        ConfigError: an override that a finished training does not allow.
    """
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
    return saved, config, outputs


def _manifest(saved: Checkpoint, config: RunConfig, split: str, schema: Schema, *, targets: bool) -> Manifest:
    """Return the shards of a split, checked to be encoded as the checkpoint's data was."""
    key = f"data.{split}" if split in ("train", "valid", "test") else "--split"
    path = getattr(config.data, split) if key != "--split" else absolute(split)
    if path is None:
        raise ConfigError(
            f"the run has no '{split}' split", hint=f"Set data.{split}=FOLDER, or name a folder as split."
        )
    check_encoding(trained_on(saved), config, {key: path}, of=saved.path, targets=targets)
    manifest = Manifest.scan(join_all(config.data.root, path), schema, targets=targets, key=key)
    for line in remarks({key: manifest}):
        _log.warning("%s", line)
    return manifest


def launch(share: Callable[..., dict[str, Any]], job: Any, config: RunConfig) -> dict[str, Any]:
    """Run a share of work in this process or on the workers; return the result of rank 0."""
    if config.scaling.num_workers == 0:
        threads = torch.get_num_threads()
        torch.set_num_threads(config.train.threads or threads)
        try:
            device = pick_device(config.train.device)
            return share(job, world=World(), device=device, reader=ThreadReader(threads=config.data.read_threads))
        finally:
            torch.set_num_threads(threads)
    from rechub_ray.runtime.workers import run_on_workers

    again = "The same command starts again."
    # the run's folder may be read-only, or in use by the run
    with tempfile.TemporaryDirectory(prefix="rechub-") as folder:
        return run_on_workers(config, share, job, hear=lambda event: None, storage=f"{folder}/ray", again=again)


def infer(
    job: InferenceJob, *, world: World, device: torch.device, reader: Reader, hooks: Hooks | None = None
) -> dict[str, float]:
    """Do this worker's share of an evaluation; return the same result on every rank."""
    return _inferred(job, world, device, reader)[0]


def _profiled(
    job: InferenceJob, *, world: World, device: torch.device, reader: Reader, hooks: Hooks | None = None
) -> dict[str, Any]:
    """Do this worker's share of an evaluation for a report; return the metrics, and what the report shows."""
    metrics, profile, groups = _inferred(job, world, device, reader)
    assert profile is not None
    evidence = Evidence(
        split=job.split, predictions=profile.summary(), groups=groups, environment=environment(device, world)
    )
    return {"metrics": metrics, "evidence": evidence}


def _inferred(
    job: InferenceJob, world: World, device: torch.device, reader: Reader
) -> tuple[dict[str, float], Profile | None, dict[str, list[dict[str, float]]]]:
    model = read(job.checkpoint).build_model().to(device)
    rows = job.config.data.eval_batch_size
    source = EvalSource(
        job.manifest,
        job.schema,
        batch_size=rows,
        world=world,
        reader=reader,
        lists=evaluation_lists(job.config, job.schema),
    )
    metrics = _metrics(job.config, job.schema, model.outputs)
    catalogue = Catalogue.read(job.config.data.root, job.schema).to(device) if isinstance(model, Retriever) else None
    profile = None
    if job.split is not None:
        profile = Profile(
            job.schema,
            _predictions(job.config, job.schema, model.outputs),
            ranks=metrics.rank_names,
            segment=segment_of(job.schema, job.config.report.segment),
            device=device,
        )
    found = evaluate_model(
        model,
        metrics,
        source,
        world=world,
        device=device,
        precision=job.config.train.precision,
        catalogue=catalogue,
        profile=profile,
    )
    return found, profile, metrics.groups()


def _metrics(config: RunConfig, schema: Schema, outputs: Sequence[Output]) -> MetricSet:
    metrics = MetricSet(schema, metrics_of(config, schema))
    return metrics.bind(_predictions(config, schema, outputs), outputs)


def _predictions(config: RunConfig, schema: Schema, outputs: Sequence[Output]) -> dict[str, Prediction]:
    return evaluated(outputs, schema, links(config, schema, outputs))
